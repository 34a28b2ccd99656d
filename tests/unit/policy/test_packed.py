"""Rows as bytes: what is exchanged peer by peer is what a plain sorted list would hold."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from fairlead.schema.base import IdentityId
from fairlead.schema.policy import Direction, PolicyEntry, PolicyRow
from services.policy.packed import PackedRow, Template, entries_of, pack, unpack, unpacked

DIRECTIONS = st.sampled_from(Direction)
PEERS = st.one_of(st.integers(0, 400), st.sampled_from([65535, 65536, 1 << 24, (1 << 32) - 1]))


def entry(direction: Direction, peer: int, port: int) -> PolicyEntry:
    return PolicyEntry(direction=direction, identity=IdentityId(peer), protocol=6, port=port, origins=(port % 7,))


def said(direction: Direction, peer: int, count: int) -> list[PolicyEntry]:
    return [entry(direction, peer, 80 + number) for number in range(count)]


@given(
    st.dictionaries(st.tuples(DIRECTIONS, PEERS), st.integers(1, 3), max_size=400),
    st.lists(st.dictionaries(st.tuples(DIRECTIONS, PEERS), st.integers(0, 3), max_size=150), max_size=8),
)
def test_exchanging_peers_against_a_plain_list(
    first: dict[tuple[Direction, int], int], then: list[dict[tuple[Direction, int], int]]
) -> None:
    model = {where: said(*where, count) for where, count in first.items()}
    entries = entries_of([one for where in sorted(model) for one in model[where]])
    for changes in then:
        old = [one for where in changes for one in model.pop(where, [])]
        model.update({where: said(*where, count) for where, count in changes.items()})
        now = [
            one
            for (direction, peer), count in sorted(changes.items())
            for one in Template(said(direction, 0, count)).said_of(direction, [peer])
        ]
        lost = {origin for template in entries.exchange(now) for origin in template.origins}
        assert lost == {origin for one in old for origin in one.origins}
        assert entries.count == sum(map(len, model.values()))
    plain = [one for where in sorted(model) for one in model[where]]
    assert list(unpacked(entries.joined, entries.count)) == plain
    assert entries.origins() == {origin for one in plain for origin in one.origins}
    assert entries.joined == entries_of(plain).joined


def test_a_row_is_the_same_on_both_sides() -> None:
    row = PolicyRow(
        identity=IdentityId(300),
        revision=7,
        trace="t",
        entries=tuple(said(Direction.EGRESS, 0, 3)),
        origins=tuple("abcdefg"),
        egress_default_deny=(1,),
        audit_egress=True,
    )
    assert unpack(pack(row), 300) == row
    assert pack(row, entries_of(row.entries)) == pack(row)
    fields = {field.name for field in msgspec.structs.fields(PolicyRow)}
    assert {field.name for field in msgspec.structs.fields(PackedRow)} == fields - {"identity"} | {"count"}
