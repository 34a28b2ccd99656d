"""A row after one of its peers came, went or changed its labels, without resolving it anew.

What a row says of one peer depends on the rules that name that peer and on the entries for any peer, and on nothing else of the row: so
the peer's entries can be exchanged alone. Where more than that would change, the answer is None and the row is to be resolved anew.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable

import msgspec

from fairlead.schema.identity import HOST
from fairlead.schema.policy import Direction, PolicyEntry, PolicyRow
from services.policy.labels import Identity
from services.policy.resolve import Enforcement, Side, World
from services.policy.rules import Rule


def amended(
    row: PolicyRow, subject: Identity, peer: int, naming: Iterable[Rule], world: World, enforcement: Enforcement
) -> PolicyRow | None:
    """Return the row with the entries of the peer as they are now; `naming`: the rules of the subject that name it. None: anew."""
    if peer in (HOST, subject.number) or row.staged is not None:
        return None
    own = World(lambda selector: (peer,) if peer in world.members(selector) else (), world.identities)
    number = {origin: index for index, origin in enumerate(row.origins)}
    entries: list[PolicyEntry] | tuple[PolicyEntry, ...] = row.entries
    for direction in reversed(Direction):  # from the end, so that places before stay what they are
        first, behind = _places(row.entries, direction, peer)
        mine = [rule for rule in naming if rule.direction is direction]
        found = Side(direction, subject, mine, own, enforcement).of_peer(peer, number) if mine else []
        if found is None:
            return None
        new = [one for one in found if not _shadowed(one, row.entries)]
        if first < behind and not _origins_of(row.entries[first:behind]) <= _origins_of(new) | _closing(row):
            return None  # an origin may have lost its last entry
        if new or first < behind:
            entries = [*entries[:first], *new, *entries[behind:]]
    return row if entries is row.entries else msgspec.structs.replace(row, entries=tuple(entries))


def _closing(row: PolicyRow) -> set[int]:
    return {*row.ingress_default_deny, *row.egress_default_deny}


def _place(entry: PolicyEntry) -> tuple[int, int]:
    return int(entry.direction), int(entry.identity)


def _places(entries: tuple[PolicyEntry, ...], direction: Direction, peer: int) -> tuple[int, int]:
    """Return where the peer's entries of a direction begin and end; a row's entries are sorted."""
    place = (int(direction), peer)
    first = behind = bisect_left(entries, place, key=_place)
    while behind < len(entries) and _place(entries[behind]) == place:
        behind += 1
    return first, behind


def _shadowed(entry: PolicyEntry, entries: tuple[PolicyEntry, ...]) -> bool:
    """Tell whether an entry for any peer, which stand first in each direction, covers this one and outranks it."""
    start = bisect_left(entries, (int(entry.direction), 0), key=_place)
    for place in range(start, len(entries)):
        other = entries[place]
        if other.identity or other.direction != entry.direction:
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


def _origins_of(entries: Iterable[PolicyEntry]) -> set[int]:
    return {index for one in entries for index in one.origins}
