"""The row of a subject, made the quick way: what it says of a peer is worked out once for all peers that the same rules name.

The answer is that of `resolve`, in the form that can be amended; rows that are audited or staged in part are left to `resolve`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from fairlead.schema.base import IdentityId
from fairlead.schema.identity import HOST
from fairlead.schema.policy import Direction, PolicyEntry, PolicyRow
from services.policy.amend import Standing, standing
from services.policy.labels import Identity
from services.policy.packed import Entries, Template, encoded_number, place
from services.policy.resolve import Enforcement, Side, World, resolve, without_shadowed
from services.policy.resolve import Entries as Effects
from services.policy.rules import Rule, Stage
from services.policy.selector import WILDCARD

_DIRECTIONS = (Direction.INGRESS, Direction.EGRESS)
_ANYBODY = 0


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
    fragments = [one for half in halves for one in half.fragments(number)]
    return Standing(
        head, Entries(*map(list, zip(*fragments, strict=True))) if fragments else Entries([], [], []), anybody, {}
    )


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
        self._by_peer = {} if subject.number == HOST else _by_peer(mine, world)
        self._said: dict[tuple[object, ...], Effects] = {}
        """What is said of peers, by what names them."""
        self._naming = {peer: self._named(peer, naming) for peer, naming in self._by_peer.items() if peer != HOST}

    def _side(self, rules: Iterable[Rule], peer: int) -> Side:
        identities = self._world.identities
        known = {number: identities[number] for number in (peer, self._subject.number) if number in identities}
        own = World(lambda selector: (peer,) if peer in known and selector.matches(known[peer]) else (), known)
        return Side(self._direction, self._subject, rules, own, self._enforcement)

    def _named(self, peer: int, naming: Sequence[Rule]) -> tuple[object, ...]:
        """Return the key of what is said of the peer, and see to it that this is worked out."""
        named = self._direction is Direction.EGRESS and any(rule.names_ports for rule in naming)
        key = (*naming, frozenset(self._world.identities[peer].ports.items())) if named else tuple(naming)
        if key not in self._said:
            own = {key: effect for key, effect in self._side(naming, peer).entries.items() if key.identity == peer}
            left = without_shadowed({**self.anybody, **own})
            self._said[key] = {key: effect for key, effect in left.items() if key.identity == peer}
        return key

    def origins(self) -> set[str]:
        """Return every origin that the direction refers to."""
        found = self.common.origins()
        for effects in self._said.values():
            found.update(*(effect.origins for effect in effects.values()))
        return found

    def encoded(self, effects: Effects, number: Mapping[str, int]) -> list[PolicyEntry]:
        """Return entries in the form of a row, sorted."""
        return [self.common.entry(key, effect, number) for key, effect in sorted(effects.items())]

    def fragments(self, number: Mapping[str, int]) -> Iterable[tuple[int, bytes, Template]]:
        """Yield place, bytes and template of anybody and of each peer, sorted."""
        host = {key: effect for key, effect in self.common.entries.items() if key.identity == HOST}
        templates = {key: Template(self.encoded(effects, number)) for key, effects in self._said.items()}
        by_peer = {peer: templates[key] for peer, key in self._naming.items()}
        by_peer[_ANYBODY], by_peer[HOST] = (
            Template(self.encoded(self.anybody, number)),
            Template(self.encoded(host, number)),
        )
        for peer in sorted(by_peer):
            template = by_peer[peer]
            if template.count:
                yield place(self._direction, peer), template.fragment(encoded_number(peer)), template


def _by_peer(rules: Iterable[Rule], world: World) -> dict[int, list[Rule]]:
    """Return the rules that name each peer. The wildcard names peers only where a port is looked up by its name at each."""
    found: dict[int, list[Rule]] = {}
    for rule in rules:
        selectors = [peer for peer in rule.peers if peer != WILDCARD or rule.names_ports]
        for peer in set().union(*map(world.members, selectors)):
            found.setdefault(peer, []).append(rule)
    return found
