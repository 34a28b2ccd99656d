"""A row after one of its peers came, went or changed its labels, without resolving it anew.

What a row says of one peer depends on the rules that name that peer and on the entries for any peer, and on nothing else of the row: so
the peer's entries can be exchanged alone, and are the same for every peer that the same rules name. Where more than that would change,
the answer is None and the row is to be resolved anew.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from operator import attrgetter
from typing import NamedTuple

import msgspec

from fairlead.schema.base import IdentityId
from fairlead.schema.identity import HOST
from fairlead.schema.policy import Direction, PolicyEntry, PolicyRow
from services.policy.labels import Identity
from services.policy.resolve import Enforcement, Side, World
from services.policy.rules import Rule

_place = attrgetter("direction", "identity")
_Ports = frozenset[tuple[str, tuple[int, int]]]
Pair = tuple[tuple[PolicyEntry, ...], tuple[PolicyEntry, ...]]
"""Entries of one peer, by direction."""
Templates = dict[tuple[frozenset[Rule], _Ports], Pair | None]
"""Entries by what names the peer and the ports that the peer names; as they were for one peer. None: a row with more origins is needed."""


class Amendment(NamedTuple):
    """A peer that has changed, and the rules of the subject that name it now: none for one that is gone."""

    number: int
    peer: Identity | None
    naming: frozenset[Rule]
    ports: _Ports = frozenset()


def amended(
    row: PolicyRow, subject: Identity, change: Amendment, templates: Templates, enforcement: Enforcement
) -> PolicyRow | None:
    """Return the row with the entries of the peer as they are now. None: anew. `templates` is the row's own, and is filled."""
    if change.number == HOST or row.staged is not None:
        return None
    new = _entries(row, subject, change, templates, enforcement)
    if new is None:
        return None
    entries = row.entries
    (start, middle), (again, end) = (_places(entries, direction, change.number) for direction in Direction)
    if start == middle and again == end and not (new[0] or new[1]):
        return row
    changed = (*entries[:start], *new[0], *entries[middle:again], *new[1], *entries[end:])
    lost = _origins_of(entries[start:middle]) | _origins_of(entries[again:end])
    if lost and not _still_named(lost - _origins_of(new[0]) - _origins_of(new[1]), row, changed):
        return None
    return msgspec.structs.replace(row, entries=changed)


def _entries(
    row: PolicyRow, subject: Identity, change: Amendment, templates: Templates, enforcement: Enforcement
) -> Pair | None:
    """Return the entries of the peer; None: the row lacks an origin of theirs."""
    if change.peer is None or not change.naming:
        return (), ()
    key = change.naming, change.ports
    if key not in templates:
        templates[key] = _made(row, subject, change.peer, change.naming, enforcement)
    found = templates[key]
    return found and (_of_peer(found[0], change.number), _of_peer(found[1], change.number))


def _made(
    row: PolicyRow, subject: Identity, peer: Identity, naming: Iterable[Rule], enforcement: Enforcement
) -> Pair | None:
    own = World(
        lambda selector: (peer.number,) if selector.matches(peer) else (),
        {peer.number: peer, subject.number: subject},
    )
    number = {origin: index for index, origin in enumerate(row.origins)}
    sides: list[tuple[PolicyEntry, ...]] = []
    for direction in Direction:
        mine = [rule for rule in naming if rule.direction is direction]
        found = Side(direction, subject, mine, own, enforcement).of_peer(peer.number, number) if mine else []
        if found is None:
            return None
        sides.append(tuple(one for one in found if not _shadowed(one, row.entries)))
    return sides[0], sides[1]


def _of_peer(template: tuple[PolicyEntry, ...], number: int) -> tuple[PolicyEntry, ...]:
    return tuple(
        PolicyEntry(
            direction=one.direction,
            identity=IdentityId(number),
            protocol=one.protocol,
            port=one.port,
            end_port=one.end_port,
            deny=one.deny,
            precedence=one.precedence,
            origins=one.origins,
        )
        for one in template
    )


def _still_named(lost: set[int], row: PolicyRow, entries: tuple[PolicyEntry, ...]) -> bool:
    """Tell whether every one of these origins is still an entry's, or has closed a direction."""
    lost -= {*row.ingress_default_deny, *row.egress_default_deny}
    return not lost or lost <= _origins_of(entries)


def _places(entries: tuple[PolicyEntry, ...], direction: Direction, peer: int) -> tuple[int, int]:
    """Return where the peer's entries of a direction begin and end; a row's entries are sorted."""
    place = (direction, peer)
    first = behind = bisect_left(entries, place, key=_place)
    while behind < len(entries) and _place(entries[behind]) == place:
        behind += 1
    return first, behind


def _shadowed(entry: PolicyEntry, entries: tuple[PolicyEntry, ...]) -> bool:
    """Tell whether an entry for any peer, which stand first in each direction, covers this one and outranks it."""
    start = bisect_left(entries, (entry.direction, 0), key=_place)
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
