"""From the rules that select a subject to its policy row: entries, who asked for them, and default deny.

A row depends on nothing but its arguments, and equal arguments give equal rows, whatever the order in which they came to be known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import NamedTuple

from fairlead.schema.base import IdentityId
from fairlead.schema.identity import HOST, UNKNOWN
from fairlead.schema.policy import Direction, PolicyEntry, PolicyRow, StagedPolicy
from services.policy.labels import Identity
from services.policy.ports import PortMatch
from services.policy.rules import Proxy, Rule, Stage, Traffic
from services.policy.selector import WILDCARD, Selector

LOCALHOST = "built-in: a host may reach its own workloads"
ALWAYS = "built-in: enforcement mode always"
INIT = "built-in: a workload without labels yet is closed"
_ANY_PEER = int(UNKNOWN)


class Mode(StrEnum):
    """Whether directions without rules are closed, and whether rules count at all."""

    DEFAULT = "default"
    ALWAYS = "always"
    NEVER = "never"


@dataclass(frozen=True)
class Enforcement:
    """The settings that rows depend on."""

    mode: Mode = Mode.DEFAULT
    allow_localhost: bool = True
    proxies: frozenset[Proxy] = frozenset(Proxy)
    """The proxies that traffic can be redirected to."""
    authenticator: bool = True
    """Whether peers can be made to prove who they are."""

    def lacking(self, rule: Rule, traffic: Traffic) -> str:
        """Return why what the rule allows here must be refused instead; empty when nothing is lacking."""
        if rule.deny:
            return ""
        if traffic.proxy is not Proxy.NONE and traffic.proxy not in self.proxies:
            return f"no {traffic.proxy.upper()} proxy here"
        return "nobody here can authenticate peers" if rule.authenticates and not self.authenticator else ""


class Key(NamedTuple):
    """What an entry matches: identity 0 is any peer, protocol 0 all traffic, port 0 every port."""

    identity: int
    protocol: int = 0
    port: int = 0
    end_port: int = 0


@dataclass
class Effect:
    """What becomes of matching traffic; `deny` beats everything, then the higher precedence wins."""

    deny: bool = False
    precedence: int = 0
    origins: set[str] = field(default_factory=set)

    @property
    def rank(self) -> tuple[bool, int]:
        """Return what decides between effects."""
        return self.deny, self.precedence


Entries = dict[Key, Effect]


@dataclass(frozen=True)
class World:
    """What resolution asks of the world: members of selectors, and identities."""

    members: Callable[[Selector], Iterable[int]]
    identities: Mapping[int, Identity]


def resolve(subject: Identity, rules: Iterable[Rule], world: World, enforcement: Enforcement) -> PolicyRow:
    """Return the row of the subject; `rules` are those that select it. Revision and trace are left to the caller.

    A subject below 0 is a node: built-in rules and the enforcement mode `always` are for workloads, so that neither can lock people out.
    """
    given = list(rules)
    selecting = [rule for rule in given if not rule.audits]
    audited = {rule.direction for rule in given if rule.audits}
    live = [Side(direction, subject, _live(selecting), world, enforcement) for direction in Direction]
    staged: list[Side] = []
    if any(rule.stage is not Stage.LIVE for rule in selecting):
        staged = [Side(direction, subject, selecting, world, enforcement) for direction in Direction]
    origins = sorted({origin for side in (*live, *staged) for origin in side.origins()})
    number = {origin: index for index, origin in enumerate(origins)}
    return PolicyRow(
        identity=IdentityId(subject.number) if subject.number >= 0 else HOST,
        entries=tuple(entry for side in live for entry in side.encoded(number)),
        origins=tuple(origins),
        ingress_default_deny=live[0].closed(number),
        egress_default_deny=live[1].closed(number),
        staged=_staged(staged, number) if staged else None,
        audit_ingress=Direction.INGRESS in audited,
        audit_egress=Direction.EGRESS in audited,
    )


def _staged(sides: Sequence[Side], number: Mapping[str, int]) -> StagedPolicy:
    return StagedPolicy(
        entries=tuple(entry for side in sides for entry in side.encoded(number)),
        ingress_default_deny=sides[0].closed(number),
        egress_default_deny=sides[1].closed(number),
    )


def _live(rules: Iterable[Rule]) -> list[Rule]:
    """Return the rules that take effect; those that are audited close no direction."""
    return [
        replace(rule, default_deny=False, silent=True) if rule.stage is Stage.AUDIT else rule
        for rule in rules
        if rule.stage is Stage.LIVE or (rule.stage is Stage.AUDIT and not rule.deny)
    ]


class Side:
    """One direction of a subject's policy."""

    def __init__(
        self, direction: Direction, subject: Identity, rules: Iterable[Rule], world: World, enforcement: Enforcement
    ) -> None:
        self._direction = direction
        self._subject = subject
        self._world = world
        self._enforcement = enforcement
        enforced = enforcement.mode is not Mode.NEVER and subject.number != HOST
        mine = [rule for rule in rules if rule.direction is direction] if enforced else []
        self.closed_by = _closed_by(subject, mine, enforcement) if enforced else set()
        self.entries: Entries = {}
        for rule in mine:
            self._add_rule(rule)
        if mine and direction is Direction.INGRESS and enforcement.allow_localhost and subject.number >= 0:
            self._add(Key(HOST), deny=False, precedence=0, origin=LOCALHOST)
        if not self.closed_by:
            self._add(Key(_ANY_PEER), deny=False, precedence=0, origin="")
        self.entries = without_shadowed(self.entries)

    def origins(self) -> set[str]:
        """Return every origin that the direction refers to."""
        return self.closed_by | {origin for effect in self.entries.values() for origin in effect.origins}

    def closed(self, number: Mapping[str, int]) -> tuple[int, ...]:
        """Return who closed the direction, by number."""
        return tuple(sorted(number[origin] for origin in self.closed_by))

    def encoded(self, number: Mapping[str, int]) -> list[PolicyEntry]:
        """Return the entries in the form of a row, sorted."""
        return [self.entry(key, effect, number) for key, effect in sorted(self.entries.items())]

    def of_peer(self, peer: int, number: Mapping[str, int]) -> list[PolicyEntry] | None:
        """Return the entries of one peer as `encoded` does; None: an origin of theirs has no number."""
        mine = sorted(key for key in self.entries if key.identity == peer)
        if any(origin not in number for key in mine for origin in self.entries[key].origins):
            return None
        return [self.entry(key, self.entries[key], number) for key in mine]

    def entry(self, key: Key, effect: Effect, number: Mapping[str, int]) -> PolicyEntry:
        """Return an entry in the form of a row."""
        return PolicyEntry(
            direction=self._direction,
            identity=IdentityId(key.identity),
            protocol=key.protocol,
            port=key.port,
            end_port=key.end_port,
            deny=effect.deny,
            precedence=effect.precedence,
            origins=tuple(sorted(number[origin] for origin in effect.origins)),
        )

    def _add_rule(self, rule: Rule) -> None:
        for traffic in rule.traffic:
            lacking = self._enforcement.lacking(rule, traffic)
            if lacking and rule.silent:
                continue
            origin = f"{rule.origin} (closed: {lacking})" if lacking else rule.origin
            for key in self._keys(rule, traffic):
                # A deny in place of a redirect decides the same packets: both beat every plain allow.
                precedence = 0 if lacking else traffic.precedence
                self._add(key, deny=rule.deny or bool(lacking), precedence=precedence, origin=origin)

    def _keys(self, rule: Rule, traffic: Traffic) -> Iterable[Key]:
        match = traffic.port
        if not match.name:
            return [Key(peer, *match[:3]) for peer in self._peers(rule)]
        if self._direction is Direction.INGRESS:
            numbered = _numbered(match, self._subject)
            return [Key(peer, *numbered) for peer in self._peers(rule)] if numbered else []
        return self._named_at_peers(rule, match)

    def _named_at_peers(self, rule: Rule, match: PortMatch) -> Iterable[Key]:
        """Return the port of each destination that has one by this name; a name has no meaning for any other."""
        for selector in rule.peers:
            for peer in self._world.members(selector):
                numbered = _numbered(match, self._world.identities[peer])
                if numbered:
                    yield Key(peer, *numbered)

    def _peers(self, rule: Rule) -> Iterable[int]:
        if WILDCARD in rule.peers:
            return [_ANY_PEER]
        return {member for selector in rule.peers for member in self._world.members(selector)}

    def _add(self, key: Key, *, deny: bool, precedence: int, origin: str) -> None:
        effect = self.entries.setdefault(key, Effect(deny, precedence))
        if (deny, precedence) > effect.rank:
            effect.deny, effect.precedence, effect.origins = deny, precedence, set()
        if origin and (deny, precedence) == effect.rank:
            effect.origins.add(origin)


def _closed_by(subject: Identity, rules: Iterable[Rule], enforcement: Enforcement) -> set[str]:
    """Return who closed the direction for everything that no entry allows; nobody: it is open."""
    found = {rule.origin for rule in rules if rule.default_deny}
    if enforcement.mode is Mode.ALWAYS and subject.number >= 0:
        found.add(ALWAYS)
    if subject.reserved("init"):
        found.add(INIT)
    return found


def _numbered(match: PortMatch, owner: Identity) -> tuple[int, int] | None:
    """Return protocol and port of the owner's port by that name, or None where it has none."""
    named = owner.ports.get(match.name)
    if named is None or named.protocol != match.protocol:
        return None
    return named.protocol, named.port


def without_shadowed(entries: Entries) -> Entries:
    """Return the entries that can decide anything: not those that a broader entry of higher rank covers."""
    ranges: dict[tuple[int, int], list[Key]] = {}
    for key in entries:
        if key.end_port:
            ranges.setdefault((key.identity, key.protocol), []).append(key)
    return {
        key: effect
        for key, effect in entries.items()
        if not any(broader in entries and entries[broader].rank > effect.rank for broader in _broader(key, ranges))
    }


def _broader(key: Key, ranges: Mapping[tuple[int, int], list[Key]]) -> Iterable[Key]:
    for peer in {key.identity, _ANY_PEER}:
        yield Key(peer)
        yield Key(peer, key.protocol)
        yield Key(peer, *key[1:])
        last = key.end_port or key.port
        for outer in ranges.get((peer, key.protocol), ()):
            if key.port and outer.port <= key.port and last <= outer.end_port:
                yield outer
