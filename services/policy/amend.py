"""A row after one of its peers came, went or changed its labels, without resolving it anew.

What a row says of one peer depends on the rules that name that peer and on the entries for any peer, and on nothing else of the row: so
the peer's entries can be exchanged alone, and are the same for every peer that the same rules name. Where more than that would change,
the answer is None and the row is to be resolved anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from operator import itemgetter
from typing import NamedTuple

from msgspec.structs import replace

from fairlead.schema.identity import HOST
from fairlead.schema.policy import Direction, PolicyEntry, PolicyRow
from services.policy.labels import Identity
from services.policy.packed import NOTHING, Entries, Said, Template, entries_of
from services.policy.resolve import Enforcement, Side, World
from services.policy.rules import Rule

Ports = frozenset[tuple[str, tuple[int, int]]]
_DIRECTIONS = (Direction.INGRESS, Direction.EGRESS)
_place = itemgetter(0)
Pair = tuple[Template, Template]
"""What is said of one peer, by direction."""
Templates = dict[tuple[frozenset[Rule], Ports], Pair | None]
"""The same by what names the peer and the ports that the peer names. None: a row with more origins is needed."""


class Amendment(NamedTuple):
    """Peers that have changed, alike, and the rules of the subject that name them now: none for those that are gone."""

    numbers: Sequence[int]
    peer: Identity | None
    """One of them."""
    naming: AbstractSet[Rule]
    ports: Ports = frozenset()


class Standing(NamedTuple):
    """A row that is kept current: all but its entries; the entries; those for any peer, and what was worked out before."""

    head: PolicyRow
    entries: Entries
    anybody: tuple[PolicyEntry, ...]
    templates: Templates


def standing(row: PolicyRow) -> Standing:
    """Return a row in the form that can be amended."""
    anybody = tuple(one for one in row.entries if one.identity == 0)
    return Standing(replace(row, entries=()), entries_of(row.entries), anybody, {})


def amend(row: Standing, subject: Identity, changes: Iterable[Amendment], enforcement: Enforcement) -> bool:
    """Bring the entries of these peers up to date. False: the row is to be made anew, and may be half changed."""
    if row.head.staged is not None:
        return False
    said: list[Said] = []
    now: set[Template] = set()
    for change in changes:
        pair = None if HOST in change.numbers else _pair(row, subject, change, enforcement)
        if pair is None:
            return False
        now.update(pair)
        said += pair[0].said_of(Direction.INGRESS, change.numbers) + pair[1].said_of(Direction.EGRESS, change.numbers)
    said.sort(key=_place)
    gone = _origins(row.entries.exchange(said)) - _origins(now)
    gone -= {*row.head.ingress_default_deny, *row.head.egress_default_deny}
    return not gone or gone <= row.entries.origins()


def _origins(templates: Iterable[Template]) -> set[int]:
    return set().union(*(template.origins for template in templates))


def _pair(row: Standing, subject: Identity, change: Amendment, enforcement: Enforcement) -> Pair | None:
    """Return what is to be said of the peer; None: the row lacks an origin of it."""
    if change.peer is None or not change.naming:
        return NOTHING, NOTHING
    key = frozenset(change.naming), change.ports
    if key not in row.templates:
        row.templates[key] = _made(row, subject, change.peer, change.naming, enforcement)
    return row.templates[key]


def _made(
    row: Standing, subject: Identity, peer: Identity, naming: Iterable[Rule], enforcement: Enforcement
) -> Pair | None:
    own = World(
        lambda selector: (peer.number,) if selector.matches(peer) else (),
        {peer.number: peer, subject.number: subject},
    )
    number = {origin: index for index, origin in enumerate(row.head.origins)}
    sides: list[Template] = []
    for direction in _DIRECTIONS:
        mine = [rule for rule in naming if rule.direction is direction]
        found = Side(direction, subject, mine, own, enforcement).of_peer(peer.number, number) if mine else []
        if found is None:
            return None
        sides.append(Template([one for one in found if not _shadowed(one, row.anybody)]))
    return sides[0], sides[1]


def _shadowed(entry: PolicyEntry, entries: Sequence[PolicyEntry]) -> bool:
    """Tell whether one of the entries for any peer covers this one and outranks it."""
    rank = entry.deny, entry.precedence
    return any(
        other.direction == entry.direction and (other.deny, other.precedence) > rank and _covers(other, entry)
        for other in entries
    )


def _covers(outer: PolicyEntry, inner: PolicyEntry) -> bool:
    if not outer.protocol:
        return True
    if outer.protocol != inner.protocol:
        return False
    last = max(inner.port, inner.end_port)
    return not outer.port or (0 < inner.port >= outer.port and last <= max(outer.port, outer.end_port))
