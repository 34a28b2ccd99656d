from __future__ import annotations

from datetime import UTC, datetime, timedelta
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from fairlead.address import Address, Prefix
from fairlead.schema.base import IdentityId
from fairlead.schema.identity import AddressEntry, AddressGroup, IdentityRow, NodeRow
from fairlead.schema.policy import CidrRow, CidrRows
from services.datapath.directory import (
    AddressBook,
    IdentityBook,
    Owner,
    Rank,
    Source,
    cidr_source,
    group_source,
    host_source,
    local_source,
    node_source,
)
from services.datapath.model import EndpointRecord

NOW = datetime(2026, 1, 1, tzinfo=UTC)
P = Prefix("10.0.0.2")
_PREFIXES = [Prefix(f"10.0.0.{i}") for i in range(5)] + [Prefix("fd00::1"), Prefix("10.0.0.0/24")]
_SOURCES = st.builds(
    Source,
    st.sampled_from(["group/a", "group/b", "node/c", "cidr", "local/1"]),
    st.just(Rank.GROUP),
    st.dictionaries(st.sampled_from(_PREFIXES), st.builds(Owner, st.integers(1, 4))),
    st.integers(0, 3),
)


def _group(name: str, revision: int, **addresses: int) -> AddressGroup:
    entries = tuple(
        AddressEntry(prefix=Prefix(text.replace("_", ".").removeprefix("a")), identity=IdentityId(number))
        for text, number in addresses.items()
    )
    return AddressGroup(group=name, entries=entries, revision=revision)


def _record() -> EndpointRecord:
    return EndpointRecord(
        endpoint=1,
        name="web",
        netns="/run/netns/web",
        interface="eth0",
        addresses=(P.address,),
        labels=(),
        created=NOW,
        generation=1,
    )


def test_who_wins_a_prefix() -> None:
    book = AddressBook()
    claims = [
        cidr_source(CidrRows(rows=(CidrRow(prefix=str(P), identity=IdentityId(1 << 24)),), revision=99)),
        group_source("a", _group("a", 5, a10_0_0_2=300)),
        group_source("b", _group("b", 9, a10_0_0_2=301)),
        node_source("n2", NodeRow(node="n2", addresses=(P.address,))),  # type: ignore[arg-type] # a name
        local_source(_record(), 400),
        host_source((P.address,)),
    ]
    winners = []
    for claim in claims:
        book.put(claim, NOW)
        owner = book.owner(P)
        assert owner is not None
        winners.append(owner.identity)
    assert winners == [1 << 24, 300, 301, 6, 400, 1]


def test_an_older_group_does_not_win_by_coming_later() -> None:
    book = AddressBook()
    book.put(group_source("b", _group("b", 9, a10_0_0_2=301)), NOW)
    assert book.put(group_source("a", _group("a", 5, a10_0_0_2=300)), NOW) == {}
    assert book.put(group_source("b", None), NOW) == {P: Owner(300)}
    assert book.put(group_source("a", None), NOW) == {P: None}


def test_a_held_endpoint_hides_an_earlier_owner() -> None:
    book = AddressBook()
    book.put(group_source("n2", _group("n2", 9, a10_0_0_2=300)), NOW)
    assert book.put(local_source(_record(), 0), NOW) == {P: Owner(5, "web")}
    assert book.put(local_source(_record(), gone=True), NOW) == {P: Owner(300)}


def test_text_that_is_no_prefix_is_left_out() -> None:
    rows = CidrRows(
        rows=(CidrRow(prefix="10.0.0.1/8", identity=IdentityId(7)), CidrRow(prefix="::/0", identity=IdentityId(8)))
    )
    assert cidr_source(rows).owners == {Prefix("::/0"): Owner(8, "::/0")}


def test_ages_count_from_the_first_time_an_identity_was_known() -> None:
    book, later = AddressBook(), NOW + timedelta(seconds=10)
    book.put(group_source("a", _group("a", 1, a10_0_0_2=300)), NOW)
    book.put(group_source("a", _group("a", 2, a10_0_0_2=300, a10_0_0_3=300)), later)
    assert book.age_s(P, later) == 10
    assert book.age_s(Prefix("10.0.0.3"), later) == 0
    assert book.age_s(Prefix("10.0.0.9"), later) == -1
    book.put(group_source("a", _group("a", 3, a10_0_0_2=301)), later)
    assert book.age_s(P, later) == 0
    again = AddressBook()
    again.put(group_source("a", _group("a", 3, a10_0_0_2=301, a10_0_0_3=302)), later + timedelta(seconds=5))
    again.recall({**book.since(), (300, NOW): [Prefix("10.0.0.3")]})
    assert again.age_s(P, later + timedelta(seconds=5)) == 5
    assert again.age_s(Prefix("10.0.0.3"), later + timedelta(seconds=5)) == 0


@given(st.lists(_SOURCES, max_size=12), st.randoms(use_true_random=False))
def test_the_book_tells_every_change_and_forgets_the_order(sources: list[Source], random: Random) -> None:
    book, told = AddressBook(), dict[Prefix, Owner | None]()
    last: dict[str, Source] = {}
    for source in sources:
        last[source.key] = source
        told.update(book.put(source, NOW))
    assert {p: o.identity for p, o in book.owners().items()} == {p: o.identity for p, o in told.items() if o}
    rest = list(last.values()) * 2
    random.shuffle(rest)
    other = AddressBook()
    for source in rest:
        other.put(source, NOW)
    assert other.owners() == book.owners()


def test_label_sets_and_numbers() -> None:
    book = IdentityBook()
    web = ("container:app=web",)
    assert book.number(web) == 0
    book.put(IdentityRow(identity=IdentityId(900), labels=web))
    book.put(IdentityRow(identity=IdentityId(700), labels=web))
    assert book.number(web) == 700
    assert book.number(web, acknowledged=900) == 900
    assert book.labels(900) == web
    assert book.labels(1) == ("reserved:host",)
    book.remove(700)
    assert book.number(web) == 900
    book.put(IdentityRow(identity=IdentityId(900), labels=("container:app=db",)))
    assert book.number(web) == 0
    assert book.labels(12345) == ()


def test_addresses_of_both_families_are_one_loop() -> None:
    addresses = (Address("10.0.0.1"), Address("fd00::1"))
    assert set(host_source(addresses).owners) == {Prefix("10.0.0.1/32"), Prefix("fd00::1/128")}
