"""A row after one of its peers came, went or changed its labels, without resolving it anew.

What a row says of one peer depends on the rules that name that peer and on the entries for any peer, and on nothing else of the row: so
the peer's entries can be exchanged alone. Where more than that would change, the answer is None and the row is to be resolved anew.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable

import msgspec

from fairlead.schema.identity import HOST
from fairlead.schema.policy import Direction, PolicyEntry, PolicyRow
from services.policy.labels import Identity
from services.policy.resolve import Enforcement, World, resolve
from services.policy.rules import Rule


def amended(
    row: PolicyRow, subject: Identity, peer: int, rules: Iterable[Rule], world: World, enforcement: Enforcement
) -> PolicyRow | None:
    """Return the row with the peer's entries as they are now; `rules` select the subject. None: resolve anew."""
    if peer in (HOST, subject.number) or row.staged is not None:
        return None
    naming = [rule for rule in rules if any(peer in world.members(selector) for selector in rule.peers)]
    own = World(lambda selector: (peer,) if peer in world.members(selector) else (), world.identities)
    found = resolve(subject, naming, own, enforcement)
    if found.staged is not None:
        return None
    number = {origin: index for index, origin in enumerate(row.origins)}
    kept: list[PolicyEntry] = []
    for direction in Direction:
        before, old, behind = _parted(row.entries, direction, peer)
        new = [one for one in _of(found, direction, peer) if not _shadowed(one, before)]
        if not all(found.origins[index] in number for one in new for index in one.origins):
            return None
        renumbered = [_renumbered(one, found, number) for one in new]
        if not _origins_of(old) <= _origins_of(renumbered) | {*row.ingress_default_deny, *row.egress_default_deny}:
            return None  # an origin may have lost its last entry
        kept += (*before, *renumbered, *behind)
    return msgspec.structs.replace(row, entries=tuple(kept))


def _place(entry: PolicyEntry) -> tuple[int, int]:
    return int(entry.direction), int(entry.identity)


def _parted(
    entries: tuple[PolicyEntry, ...], direction: Direction, peer: int
) -> tuple[tuple[PolicyEntry, ...], tuple[PolicyEntry, ...], tuple[PolicyEntry, ...]]:
    """Return the direction's entries before the peer's, the peer's, and those behind; a row's entries are sorted."""
    side = int(direction)
    start = bisect_left(entries, (side, 0), key=_place)
    first = bisect_left(entries, (side, peer), lo=start, key=_place)
    behind = bisect_right(entries, (side, peer), lo=first, key=_place)
    end = bisect_left(entries, (side + 1, 0), lo=behind, key=_place)
    return entries[start:first], entries[first:behind], entries[behind:end]


def _of(row: PolicyRow, direction: Direction, peer: int) -> list[PolicyEntry]:
    return [one for one in row.entries if one.identity == peer and one.direction == direction]


def _shadowed(entry: PolicyEntry, before: Iterable[PolicyEntry]) -> bool:
    """Tell whether an entry for any peer, which stand first, covers this one and outranks it."""
    for other in before:
        if other.identity:
            return False
        if (other.deny, other.precedence) > (entry.deny, entry.precedence) and _covers(other, entry):
            return True
    return False


def _covers(outer: PolicyEntry, inner: PolicyEntry) -> bool:
    if not outer.protocol:
        return True
    if outer.protocol != inner.protocol:
        return False
    last = max(inner.port, inner.end_port)
    return not outer.port or (0 < inner.port >= outer.port and last <= max(outer.port, outer.end_port))


def _renumbered(entry: PolicyEntry, found: PolicyRow, number: dict[str, int]) -> PolicyEntry:
    origins = tuple(sorted(number[found.origins[index]] for index in entry.origins))
    return msgspec.structs.replace(entry, origins=origins)


def _origins_of(entries: Iterable[PolicyEntry]) -> set[int]:
    return {index for one in entries for index in one.origins}
