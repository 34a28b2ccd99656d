from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairlead.address import Prefix
from fairlead.errors import Exhausted, InvalidInput
from fairlead.schema.base import IdentityId
from fairlead.schema.policy import PolicyEntry, PolicyRow
from services.datapath.operations import PolicyKey, PolicyValue
from services.datapath.plan import expand, foreign, plan, too_many
from services.datapath.policies import Policies
from tests.unit.datapath.world import entry

_KEYS = st.builds(
    PolicyKey,
    st.integers(0, 3),
    st.sampled_from([0, 80, 443]),
    st.sampled_from([0, 6, 17]),
    st.integers(0, 1),
    st.just(0),
)
_VALUES = st.builds(PolicyValue, st.booleans(), st.integers(0, 2), st.just(0), st.integers(0, 3))
_MAPS = st.dictionaries(_KEYS, _VALUES, max_size=12)


def _number(texts: tuple[str, ...]) -> int:
    return len(texts)


def _row(*entries: PolicyEntry, **more: object) -> PolicyRow:
    return PolicyRow(identity=IdentityId(300), entries=entries, revision=7, **more)  # type: ignore[arg-type] # merged


@given(_MAPS, _MAPS)
def test_applying_a_plan_gives_what_is_wanted_and_leaves_nothing_to_do(
    want: dict[PolicyKey, PolicyValue], have: dict[PolicyKey, PolicyValue]
) -> None:
    change = plan(want, have)
    assert not change.puts.keys() & set(change.deletes)
    after = {key: value for key, value in have.items() if key not in change.deletes} | dict(change.puts)
    assert after == want
    assert not plan(want, after)


@given(_MAPS, _MAPS)
def test_a_plan_touches_nothing_that_is_right(
    want: dict[PolicyKey, PolicyValue], have: dict[PolicyKey, PolicyValue]
) -> None:
    change = plan(want, have)
    right = {key for key in want if have.get(key) == want[key]}
    assert not right & (change.puts.keys() | set(change.deletes))


@given(_MAPS, _MAPS, _MAPS)
def test_foreign_entries_are_those_that_nobody_ordered(
    want: dict[PolicyKey, PolicyValue], before: dict[PolicyKey, PolicyValue], inserted: dict[PolicyKey, PolicyValue]
) -> None:
    ordered = {*want.items(), *before.items()}
    have = before | inserted
    found = foreign(have, ordered)
    assert all((key, value) not in ordered for key, value in found.items())
    assert {key: value for key, value in inserted.items() if (key, value) not in ordered} == found


def test_the_emergency_entry_is_foreign_unless_ordered() -> None:
    have = {PolicyKey(0, 0, 0, 0): PolicyValue(), PolicyKey(0, 0, 0, 1): PolicyValue()}
    assert foreign(have, {(PolicyKey(0, 0, 0, 1), PolicyValue())}) == {PolicyKey(0, 0, 0, 0): PolicyValue()}


def test_a_changed_value_is_foreign_too() -> None:
    have = {PolicyKey(5, 80, 6, 0): PolicyValue()}
    assert foreign(have, {(PolicyKey(5, 80, 6, 0), PolicyValue(deny=True))}) == have


def test_expand_makes_blocks_of_a_range() -> None:
    policy = expand(_row(entry(0, 5, 6, 80, end_port=84, origins=(0,)), origins=("a",)), _number)
    assert policy.entries == {
        PolicyKey(5, 80, 6, 0, 14): PolicyValue(provenance=1),
        PolicyKey(5, 84, 6, 0, 16): PolicyValue(provenance=1),
    }
    assert (policy.identity, policy.revision) == (300, 7)


def test_expand_numbers_the_default_denies() -> None:
    row = _row(entry(1), origins=("a", "b"), ingress_default_deny=(0, 1), egress_default_deny=())
    policy = expand(row, _number)
    assert (policy.ingress_default_deny, policy.egress_default_deny) == (2, 0)


@given(
    st.permutations([entry(0, 5, 6, 80, deny=True), entry(0, 5, 6, 80, precedence=9), entry(0, 5, 6, 79, end_port=81)])
)
def test_of_two_entries_with_one_key_the_stronger_stays(entries: list[PolicyEntry]) -> None:
    policy = expand(_row(*entries), _number)
    assert policy.entries[PolicyKey(5, 80, 6, 0)].deny
    assert {key for key in policy.entries if key.port_bits} == {PolicyKey(5, 79, 6, 0, 16), PolicyKey(5, 80, 6, 0, 15)}


def test_the_widest_range_is_no_more_than_sixteen_blocks() -> None:
    assert len(expand(_row(entry(0, 0, 6, 1, end_port=65535)), _number).entries) == 16


def test_a_range_of_one_port_is_that_port() -> None:
    assert list(expand(_row(entry(0, 0, 6, 80, end_port=80)), _number).entries) == [PolicyKey(0, 80, 6, 0)]


def test_a_row_that_comes_to_what_stood_before_is_the_same_object() -> None:
    rows = _row(entry(0, 300, 6, 80)), _row(entry(0, 300, 6, 81))
    stood = expand(rows[0], _number).entries
    policies = Policies(_number)
    policies.stood = (stood,)
    for identity, row in zip((1, 2), rows, strict=True):
        policies.hear(identity, row)
    (same, _), (other, _) = policies.get(1), policies.get(2)
    assert same is not None
    assert same.entries is stood
    assert other is not None
    assert other.entries == expand(rows[1], _number).entries != stood


def test_a_map_that_is_too_full_is_refused_whole() -> None:
    many = [entry(0, 256 + peer, 6, 1, end_port=65535) for peer in range(1025)]
    with pytest.raises(Exhausted, match="16400 entries for identity 300"):
        expand(_row(*many), _number)


@pytest.mark.parametrize(
    "bad",
    [
        entry(0, 0, 6, 80, end_port=79),
        entry(0, 0, 6, 0, end_port=79),
        entry(0, 0, 0, 80),
        entry(0, 0, 6, 80, origins=(1,)),
        entry(0, 0, 6, 80, origins=(-1,)),
    ],
)
def test_an_entry_that_contradicts_itself_is_refused(bad: PolicyEntry) -> None:
    with pytest.raises(InvalidInput):
        expand(_row(bad, origins=("only",)), _number)


def test_what_counts_as_too_many() -> None:
    rows = [Prefix(f"10.0.0.{i}") for i in range(60)]
    assert not too_many(rows[:20], 20)
    assert too_many(rows[:21], 100)
    assert not too_many(rows[:21], 105)
    assert too_many(rows[:41], 200)
