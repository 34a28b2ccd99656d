"""The row of a subject, made the quick way: what it says of a peer is worked out once for all peers that the same rules name.

The answer is that of `resolve`, in the form that can be amended; rows that are audited or staged in part are left to `resolve`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from operator import itemgetter

from fairlead.schema.base import IdentityId
from fairlead.schema.identity import HOST
from fairlead.schema.policy import Direction, PolicyEntry, PolicyRow
from services.policy.amend import Standing, standing
from services.policy.labels import Identity
from services.policy.packed import Entries, Said, Template
from services.policy.resolve import Enforcement, Side, World, resolve, without_shadowed
from services.policy.resolve import Entries as Effects
from services.policy.rules import Rule, Stage
from services.policy.selector import WILDCARD

_DIRECTIONS = (Direction.INGRESS, Direction.EGRESS)
_ANYBODY = 0
_NO_PORTS: frozenset[object] = frozenset()


def assembled(subject: Identity, rules: Iterable[Rule], world: World, enforcement: Enforcement) -> Standing:
    """Return the row of the subject; `rules` are those that select it."""
    given = list(rules)
    if any(rule.stage is not Stage.LIVE for rule in given if not rule.audits):
        return standing(resolve(subject, given, world, enforcement))
    selecting = [rule for rule in given if not rule.audits]
    halves = [_Half(direction, subject, selecting, world, enforcement) for direction in _DIRECTIONS]
    origins = sorted(halves[0].origins() | halves[1].origins())
    number = {origin: index for index, origin in enumerate(origins)}
    audited = {rule.direction for rule in given if rule.audits}
    head = PolicyRow(
        identity=IdentityId(subject.number) if subject.number >= 0 else HOST,
        entries=(),
        origins=tuple(origins),
        ingress_default_deny=halves[0].common.closed(number),
        egress_default_deny=halves[1].common.closed(number),
        audit_ingress=Direction.INGRESS in audited,
        audit_egress=Direction.EGRESS in audited,
    )
    anybody = tuple(one for half in halves for one in half.encoded(half.anybody, number))
    said = sorted((one for half in halves for one in half.said(number)), key=itemgetter(0))
    return Standing(head, Entries(*map(list, zip(*said, strict=True))) if said else Entries([], [], []), anybody, {})


class _Half:
    """One direction of a row."""

    def __init__(
        self, direction: Direction, subject: Identity, rules: Iterable[Rule], world: World, enforcement: Enforcement
    ) -> None:
        self._direction = direction
        self._subject = subject
        self._enforcement = enforcement
        self._world = world
        mine = [rule for rule in rules if rule.direction is direction]
        self.common = self._side(mine, HOST)
        """With the local host as the only peer: what is said of it, and of anybody."""
        self.anybody = {key: effect for key, effect in self.common.entries.items() if key.identity == _ANYBODY}
        groups = {} if subject.number == HOST else _groups(mine, world, apart=direction is Direction.EGRESS)
        self._said = [(peers, self._of_peer(naming, peers[0])) for (naming, _ports), peers in groups.items()]
        """Peers of whom the same is said, and what."""

    def _side(self, rules: Iterable[Rule], peer: int) -> Side:
        identities = self._world.identities
        known = {number: identities[number] for number in (peer, self._subject.number) if number in identities}
        own = World(lambda selector: (peer,) if peer in known and selector.matches(known[peer]) else (), known)
        return Side(self._direction, self._subject, rules, own, self._enforcement)

    def _of_peer(self, naming: Sequence[Rule], peer: int) -> Effects:
        """Return what these rules say of the peer whom they name."""
        own = {key: effect for key, effect in self._side(naming, peer).entries.items() if key.identity == peer}
        left = without_shadowed({**self.anybody, **own})
        return {key: effect for key, effect in left.items() if key.identity == peer}

    def origins(self) -> set[str]:
        """Return every origin that the direction refers to."""
        found = self.common.origins()
        for _peers, effects in self._said:
            found.update(*(effect.origins for effect in effects.values()))
        return found

    def encoded(self, effects: Effects, number: Mapping[str, int]) -> list[PolicyEntry]:
        """Return entries in the form of a row, sorted."""
        return [self.common.entry(key, effect, number) for key, effect in sorted(effects.items())]

    def said(self, number: Mapping[str, int]) -> list[Said]:
        """Return what is said of anybody, of the host and of each peer."""
        host = {key: effect for key, effect in self.common.entries.items() if key.identity == HOST}
        found: list[Said] = []
        for peers, effects in (((_ANYBODY,), self.anybody), ((HOST,), host), *self._said):
            if effects:
                found += Template(self.encoded(effects, number)).said_of(self._direction, peers)
        return found


def _groups(
    rules: Sequence[Rule], world: World, *, apart: bool
) -> dict[tuple[tuple[Rule, ...], frozenset[object]], list[int]]:
    """Return the peers by the rules that name them and, where the rules look ports up by name and it is `apart`, by their ports.

    The wildcard names peers only where a port is looked up by its name at each. The host is no such peer.
    """
    naming: dict[int, int] = {}
    for index, rule in enumerate(rules):
        selectors = [peer for peer in rule.peers if peer != WILDCARD or rule.names_ports]
        for peer in set().union(*map(world.members, selectors)):
            naming[peer] = naming.get(peer, 0) | 1 << index
    naming.pop(HOST, None)
    named = {
        mask: tuple(rule for index, rule in enumerate(rules) if mask >> index & 1) for mask in set(naming.values())
    }
    by_name = {mask for mask, some in named.items() if apart and any(rule.names_ports for rule in some)}
    found: dict[tuple[tuple[Rule, ...], frozenset[object]], list[int]] = {}
    for peer, mask in naming.items():
        ports = frozenset(world.identities[peer].ports.items()) if mask in by_name else _NO_PORTS
        found.setdefault((named[mask], ports), []).append(peer)
    return found
