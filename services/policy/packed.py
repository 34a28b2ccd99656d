"""Rows with their entries as bytes: hundreds of entries are copied, compared and kept at the price of a few kilobytes.

A row changes when any of its peers does, and rows are long: as objects, every copy would touch every entry. Here the entries of one peer are a
fragment, fragments stand in blocks, and a change joins one block anew. What goes to the bus is unpacked on its way out.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import groupby

import msgspec

from fairlead.schema.base import IdentityId, Row
from fairlead.schema.policy import Direction, PolicyEntry, PolicyRow, StagedPolicy

_NEW_BLOCK = 32
_LARGEST_BLOCK = 2 * _NEW_BLOCK
_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(tuple[PolicyEntry, ...])


class PackedRow(Row, frozen=True, kw_only=True, gc=False):
    """A PolicyRow whose entries are bytes, without the subject's number: all subjects of a cohort share it. Equal rows have equal bytes."""

    entries: bytes
    count: int
    """How many entries there are."""
    origins: tuple[str, ...] = ()
    ingress_default_deny: tuple[int, ...] = ()
    egress_default_deny: tuple[int, ...] = ()
    staged: StagedPolicy | None = None
    audit_ingress: bool = False
    audit_egress: bool = False


class Template:
    """What a row says of one peer, to be said of another: the bytes before and behind the peer's number in each entry."""

    __slots__ = ("_parts", "count", "origins")

    def __init__(self, entries: Iterable[PolicyEntry]) -> None:
        plain = [_ENCODER.encode(msgspec.structs.replace(one, identity=IdentityId(0))) for one in entries]
        # an array of nine: one byte for that, one for the direction, one for identity 0
        self._parts = [(data[:2], data[3:]) for data in plain]
        self.count = len(plain)
        self.origins = frozenset(index for one in entries for index in one.origins)

    def fragment(self, number: bytes) -> bytes:
        """Return the entries of the peer with this number, which is encoded already."""
        if len(self._parts) == 1:
            before, behind = self._parts[0]
            return before + number + behind
        return b"".join([part for before, behind in self._parts for part in (before, number, behind)])

    def said_of(self, direction: Direction, peers: Iterable[int]) -> list[Said]:
        """Return that this is said of each of the peers."""
        start = place(direction, 0)
        if not self._parts:
            return [(start | peer, b"", self) for peer in peers]
        return [(start | peer, self.fragment(encoded_number(peer)), self) for peer in peers]


Said = tuple[int, bytes, Template]
"""A place, what is said of the peer there, and what that was made of."""
NOTHING = Template(())


@lru_cache(maxsize=1 << 17)
def encoded_number(number: int) -> bytes:
    """Return an identity as it stands in an entry."""
    return _ENCODER.encode(number)


def place(direction: Direction, peer: int) -> int:
    """Return a number that sorts peers as a row's entries are sorted."""
    return int(direction) << 32 | peer


class _Block:
    """Fragments that stand together."""

    __slots__ = ("count", "first", "fragments", "joined", "places", "templates")

    def __init__(self, places: list[int], fragments: list[bytes], templates: list[Template]) -> None:
        self.places = places
        self.fragments = fragments
        self.templates = templates
        self.join()

    def join(self) -> None:
        """Bring up to date what is known of the whole."""
        self.joined = b"".join(self.fragments)
        self.count = sum([template.count for template in self.templates])
        self.first = self.places[0] if self.places else 0

    def exchange(self, changes: Iterable[Said]) -> set[Template]:
        """Say this from now on; return what was said before. The bytes are to be joined again."""
        before: set[Template] = set()
        for where, fragment, template in changes:
            position = bisect_left(self.places, where)
            found = position < len(self.places) and self.places[position] == where
            if found:
                before.add(self.templates[position])
            if found and template.count:
                self.fragments[position], self.templates[position] = fragment, template
            elif found or template.count:
                new = ([where], [fragment], [template]) if template.count else ([], [], [])
                end = position + found
                self.places[position:end], self.fragments[position:end], self.templates[position:end] = new
        return before

    def parts(self) -> list[_Block]:
        """Return small blocks in place of this one."""
        return _blocks(self.places, self.fragments, self.templates)


def _blocks(places: list[int], fragments: list[bytes], templates: list[Template]) -> list[_Block]:
    ranges = [slice(start, start + _NEW_BLOCK) for start in range(0, len(places) or 1, _NEW_BLOCK)]
    return [_Block(places[some], fragments[some], templates[some]) for some in ranges]


class Entries:
    """The entries of one row, peer by peer."""

    __slots__ = ("_blocks", "_count", "_firsts", "_joined")

    def __init__(self, places: list[int], fragments: list[bytes], templates: list[Template]) -> None:
        self._blocks = _blocks(places, fragments, templates)
        self._firsts = [block.first for block in self._blocks]
        self._joined: bytes | None = None
        self._count: int | None = None

    @property
    def count(self) -> int:
        """Return how many entries there are."""
        if self._count is None:
            self._count = sum(block.count for block in self._blocks)
        return self._count

    @property
    def joined(self) -> bytes:
        """Return all entries."""
        if self._joined is None:
            self._joined = b"".join([block.joined for block in self._blocks])
        return self._joined

    def exchange(self, changes: Sequence[Said]) -> set[Template]:
        """Say this from now on, sorted by place; return what was said of these peers before."""
        before: set[Template] = set()
        self._joined = self._count = None
        end = len(changes)
        while end:  # from behind, so that blocks that come and go move none that is still to be looked at
            index = max(bisect_right(self._firsts, changes[end - 1][0]) - 1, 0)
            start = bisect_left(changes, (self._firsts[index],), 0, end) if index else 0
            before |= self._blocks[index].exchange(changes[start:end])
            self._tidy(index)
            end = start
        return before

    def _tidy(self, index: int) -> None:
        """Make a block fit again after a change."""
        block = self._blocks[index]
        if not block.places and len(self._blocks) > 1:
            del self._blocks[index], self._firsts[index]
            return
        if len(block.places) > _LARGEST_BLOCK:
            self._blocks[index : index + 1] = parts = block.parts()
            self._firsts[index : index + 1] = [part.first for part in parts]
            return
        block.join()
        self._firsts[index] = block.first

    def origins(self) -> set[int]:
        """Return the origins that any entry has."""
        return set().union(*(template.origins for block in self._blocks for template in block.templates))


def entries_of(entries: Sequence[PolicyEntry]) -> Entries:
    """Return entries, which are sorted as in a row, peer by peer."""
    places: list[int] = []
    fragments: list[bytes] = []
    templates: list[Template] = []
    known: dict[tuple[tuple[int, ...], ...], Template] = {}
    for where, group in groupby(entries, key=_place_of):
        mine = tuple(group)
        places.append(where)
        fragments.append(b"".join(map(_ENCODER.encode, mine)))
        shape = tuple(one.origins for one in mine)
        if shape not in known:  # kept for its count and its origins: the fragment is there already
            known[shape] = Template(mine)
        templates.append(known[shape])
    return Entries(places, fragments, templates)


def _place_of(entry: PolicyEntry) -> int:
    return int(entry.direction) << 32 | entry.identity


def pack(row: PolicyRow, entries: Entries | None = None) -> PackedRow:
    """Return the row with its entries as bytes; `entries` where they stand beside the row."""
    return PackedRow(
        revision=row.revision,
        trace=row.trace,
        entries=b"".join(map(_ENCODER.encode, row.entries)) if entries is None else entries.joined,
        count=len(row.entries) if entries is None else entries.count,
        origins=row.origins,
        ingress_default_deny=row.ingress_default_deny,
        egress_default_deny=row.egress_default_deny,
        staged=row.staged,
        audit_ingress=row.audit_ingress,
        audit_egress=row.audit_egress,
    )


def unpack(row: PackedRow, identity: int) -> PolicyRow:
    """Return the row of a subject with its entries as objects."""
    return PolicyRow(
        revision=row.revision,
        trace=row.trace,
        identity=IdentityId(identity),
        entries=unpacked(row.entries, row.count),
        origins=row.origins,
        ingress_default_deny=row.ingress_default_deny,
        egress_default_deny=row.egress_default_deny,
        staged=row.staged,
        audit_ingress=row.audit_ingress,
        audit_egress=row.audit_egress,
    )


@lru_cache(maxsize=8)  # the subjects of a cohort come one after another
def unpacked(entries: bytes, count: int) -> tuple[PolicyEntry, ...]:
    """Return entries as objects."""
    return _DECODER.decode(b"\xdd" + count.to_bytes(4, "big") + entries)
