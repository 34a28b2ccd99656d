from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from fairlead.address import Address, Family, Prefix
from fairlead.errors import Conflict, Exhausted, FairleadError, InvalidInput, Unavailable
from fairlead.schema.ipam import LeaseState
from services.ipam import model
from services.ipam.model import Pool, Rules, State

NOW = datetime(2026, 1, 1, tzinfo=UTC)
V4, V6 = Prefix("10.1.2.0/29"), Prefix("fd00::/125")
BOTH = State((Prefix("10.1.2.0/24"), Prefix("fd00:1::/80")))
RULES = Rules(quarantine_s=60)


def later(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def lease(state: State, owner: str, *wanted: str, at: float = 0) -> tuple[State, tuple[Address, ...]]:
    return model.allocate(state, owner, map(Address, wanted), later(at), RULES)


def test_one_address_per_family_and_the_same_again() -> None:
    state, first = lease(BOTH, "web")
    assert first == ("10.1.2.2", "fd00:1::2")
    again, second = lease(state, "web")
    assert (again, second) == (state, first)
    assert lease(state, "db")[1] == ("10.1.2.3", "fd00:1::3")


@pytest.mark.parametrize("address", ["10.1.2.0", "10.1.2.1", "10.1.2.255", "fd00:1::", "fd00:1::1"])
def test_network_gateway_and_broadcast_are_never_leased(address: str) -> None:
    with pytest.raises(InvalidInput, match=r"`addresses`.*reserved"):
        lease(BOTH, "web", address)


def test_every_other_address_is_leased_before_the_pool_is_full() -> None:
    state = State((V4,))
    got: list[Address] = []
    for number in range(5):
        state, addresses = lease(state, f"w{number}")
        got += addresses
    assert got == [f"10.1.2.{number}" for number in range(2, 7)]
    with pytest.raises(Exhausted, match=r"10\.1\.2\.0/29.*5 leased, 0 in quarantine"):
        lease(state, "one-more")


def test_fixed_addresses_are_checked_and_given() -> None:
    state, addresses = lease(BOTH, "web", "10.1.2.77")
    assert addresses == ("10.1.2.77", "fd00:1::2")
    with pytest.raises(Conflict, match="leased to web"):
        lease(state, "db", "10.1.2.77")
    with pytest.raises(Conflict, match=r"holds 10\.1\.2\.77 already"):
        lease(state, "web", "10.1.2.78")
    assert lease(state, "web", "10.1.2.77")[0] == state
    with pytest.raises(InvalidInput, match=r"`addresses`: 10\.9\.9\.9 is outside"):
        lease(state, "db", "10.9.9.9")
    with pytest.raises(InvalidInput, match="one family"):
        lease(state, "db", "10.1.2.80", "10.1.2.81")


def test_a_refusal_in_one_family_leaves_nothing_in_the_other() -> None:
    full = State((Prefix("10.1.2.0/24"), V6))
    for number in range(6):
        full, _ = lease(full, f"w{number}")
    with pytest.raises(Exhausted, match="fd00::/125"):
        lease(full, "one-more")
    assert full.leased_to("one-more") == ()


def test_quarantine_keeps_others_away_and_lets_the_owner_back() -> None:
    state, (old,) = lease(State((V4,)), "web")
    state, given = model.release(state, "web", NOW, RULES)
    assert given == (old,)
    with pytest.raises(Conflict, match="web's and is quarantined"):
        lease(state, "db", old, at=59)
    assert lease(state, "db", at=59)[1] != (old,)
    assert lease(state, "web", at=59)[1] == (old,)
    assert lease(state, "db", old, at=60)[1] == (old,)
    assert lease(state, "web", at=600)[1] == (old,)


def test_what_was_never_used_is_anybodys_at_once() -> None:
    state, (old,) = lease(State((V4,)), "spare")
    state, given = model.release(state, "spare", NOW, RULES, unused=True)
    assert given == (old,)
    assert lease(state, "db", old)[1] == (old,)


def test_the_address_released_longest_ago_is_used_again_first() -> None:
    state = State((V4,))
    for number in range(5):
        state, _ = lease(state, f"w{number}")
    for at, number in enumerate((3, 1, 4)):
        state, _ = model.release(state, f"w{number}", later(at), RULES)
    with pytest.raises(Exhausted, match="2 leased, 3 in quarantine"):
        lease(state, "new", at=30)
    order = []
    for number in range(3):
        state, (address,) = lease(state, f"n{number}", at=100)
        order.append(address)
    assert order == ["10.1.2.5", "10.1.2.3", "10.1.2.6"]


def test_counts_and_lists_tell_what_could_be_leased_now() -> None:
    state, _ = lease(State((V4,)), "a")
    state, _ = lease(state, "b")
    state, _ = model.release(state, "a", NOW, RULES)
    assert model.free_count(state, later(1), RULES) == 3
    assert model.free_count(state, later(61), RULES) == 4
    assert [(entry.owner, entry.state) for entry in model.visible(state, later(1), RULES)] == [
        ("a", LeaseState.QUARANTINED),
        ("b", LeaseState.LEASED),
    ]
    assert [entry.owner for entry in model.visible(state, later(61), RULES)] == ["b"]
    assert model.free_count(State((Prefix("fd00::/64"),)), NOW, RULES) == model.MAX_COUNT


def test_a_lost_prefix_serves_who_has_and_refuses_who_has_not() -> None:
    state, addresses = lease(State((V4,)), "web")
    rules = Rules(60, {V4: "n7 has it"})
    assert model.allocate(state, "web", (), NOW, rules)[1] == addresses
    with pytest.raises(Unavailable, match=r"10\.1\.2\.0/29.*n7 has it"):
        model.allocate(state, "db", (), NOW, rules)


def test_records_of_the_past_do_not_grow_for_ever() -> None:
    state = State((Prefix("fd00::/80"),))
    for number in range(1100):
        state, _ = model.allocate(state, f"w{number}", (), NOW, RULES)
    for number in range(1100):
        state, _ = model.release(state, f"w{number}", later(number * 0.01), Rules(quarantine_s=0.001))
    assert len(state.leases) <= model.REMEMBERED + 1


def test_pools_and_lengths_must_fit() -> None:
    v4, v6 = Prefix("10.0.0.0/8"), Prefix("fd00::/48")
    assert model.pools_from([v4, v6], []) == (Pool(v4, 24), Pool(v6, 80))
    assert model.pools_from([v4, v6], [25]) == (Pool(v4, 25), Pool(v6, 80))
    for prefixes, lengths in (
        ([v4], [7]),
        ([v4], [30]),
        ([v6], [125]),
        ([v4], [24, 80]),
        ([v4, Prefix("10.1.0.0/16")], []),
    ):
        with pytest.raises(InvalidInput, match=r"`claim_lengths`|`pools`"):
            model.pools_from(prefixes, lengths)


def test_choosing_avoids_what_is_taken_whatever_its_length() -> None:
    pool = Pool(Prefix("10.0.0.0/22"), 24)
    taken = [Prefix("10.0.0.0/25"), Prefix("10.0.2.0/23")]
    assert model.choose_prefix(pool, "n1", taken) == "10.0.1.0/24"
    with pytest.raises(Exhausted, match=r"10\.0\.0\.0/22 has no free /24"):
        model.choose_prefix(pool, "n1", [*taken, Prefix("10.0.1.128/25")])
    with pytest.raises(Exhausted):
        model.choose_prefix(pool, "n1", [Prefix("10.0.0.0/8")])


@given(nodes=st.lists(st.integers(0, 10_000), unique=True, min_size=16, max_size=16), six=st.booleans())
def test_a_pool_is_claimed_to_its_last_prefix_without_overlap(nodes: list[int], six: bool) -> None:
    pool = Pool(Prefix("fd00::/76"), 80) if six else Pool(Prefix("10.0.0.0/20"), 24)
    taken: list[Prefix] = []
    for node in nodes:
        taken.append(model.choose_prefix(pool, f"n{node}", taken))
    assert len(set(taken)) == 16
    assert all(prefix in pool.prefix and prefix.length == pool.length for prefix in taken)
    with pytest.raises(Exhausted):
        model.choose_prefix(pool, "late", taken)


OWNERS = st.sampled_from(["a", "b", "c", "d", "e", "f", "g"])


class Leasing(RuleBasedStateMachine):
    """Any order of leases, releases and waiting, against what must always hold."""

    @initialize(six=st.booleans())
    def begin(self, six: bool) -> None:
        self.state = State((V4, V6) if six else (V4,))
        self.now = NOW
        self.released_by: dict[Address, tuple[str, datetime]] = {}
        self.held: dict[str, tuple[Address, ...]] = {}

    @rule(owner=OWNERS, fixed=st.none() | st.integers(0, 7))
    def allocate(self, owner: str, fixed: int | None) -> None:
        wanted = () if fixed is None else (Address(f"10.1.2.{fixed}"),)
        try:
            state, addresses = model.allocate(self.state, owner, wanted, self.now, RULES)
        except FairleadError:
            assert fixed is not None or owner not in self.held, "an owner was refused what it holds"
            return
        assert [address.family for address in addresses] == [prefix.family for prefix in state.prefixes] or len(
            addresses
        ) == len(state.prefixes)
        assert owner not in self.held or set(self.held[owner]) == set(addresses)
        for address in addresses:
            last, since = self.released_by.get(address, (owner, NOW - timedelta(days=1)))
            assert last == owner or self.now - since >= timedelta(seconds=60), "leased out of quarantine"
        self.state, self.held[owner] = state, addresses

    @rule(owner=OWNERS)
    def release(self, owner: str) -> None:
        self.state, addresses = model.release(self.state, owner, self.now, RULES)
        assert set(addresses) == set(self.held.pop(owner, ()))
        self.released_by.update(dict.fromkeys(addresses, (owner, self.now)))

    @rule(seconds=st.sampled_from([1, 30, 60, 3600]))
    def wait(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)

    @precondition(lambda self: hasattr(self, "state"))
    @invariant()
    def nobody_shares(self) -> None:
        held = [address for addresses in self.held.values() for address in addresses]
        assert len(held) == len(set(held))
        leased = {a: entry.owner for a, entry in self.state.leases.items() if entry.state is LeaseState.LEASED}
        assert leased == {address: owner for owner, addresses in self.held.items() for address in addresses}
        room = sum(last - first + 1 for first, last in map(model.usable, self.state.prefixes))
        busy = len(model.visible(self.state, self.now, RULES))
        assert model.free_count(self.state, self.now, RULES) == room - busy


TestLeasing = Leasing.TestCase
TestLeasing.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_one_family_alone_is_leased_when_asked_for() -> None:
    state, addresses = model.allocate(BOTH, "web", (), NOW, RULES, (Family.IPV6,))
    assert addresses == ("fd00:1::2",)
    assert model.allocate(state, "web", (), NOW, RULES)[1] == ("fd00:1::2", "10.1.2.2")
    with pytest.raises(InvalidInput, match=r"`families`.*IPv6"):
        model.allocate(State((V4,)), "web", (), NOW, RULES, (Family.IPV6,))
