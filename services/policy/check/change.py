"""What a proposed change would alter: over all pairs of workloads and the ports that rules name, and over recorded flows.

Only the ends whose rows the change alters are looked at, and of their peers those that a row names, with one that no row names in
place of all others; a connection is reported when the verdict of both ends together changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import msgspec

from fairlead.schema.base import Message
from fairlead.schema.policy import Direction, PolicyRow
from services.policy.check.question import why
from services.policy.check.words import traffic_text
from services.policy.check.world import RESERVED, Fleet, Party
from services.policy.labels import network
from services.policy.simulate import UNENFORCED, Decision, decide

_STAND_INS = ((6, 65535), (17, 65535), (132, 65535), (1, 8), (58, 128))
"""Traffic that rules rarely name, one of each protocol."""


class Change(Message, frozen=True, kw_only=True):
    """One connection that would change: `allowed` is the new verdict, `why` its cause, `was` the cause before."""

    source: str
    destination: str
    traffic: str
    allowed: bool
    why: str
    was: str

    def __str__(self) -> str:
        """Return the change on one line."""
        turn = "denied -> allowed" if self.allowed else "allowed -> denied"
        return f"{self.source} -> {self.destination} {self.traffic}: {turn}: {self.why} (before: {self.was})"


@dataclass(frozen=True)
class State:
    """Rows at one moment, and who stood behind each party then: a new prefix changes whose address it is."""

    rows: Mapping[int, PolicyRow]
    numbers: Mapping[str, int]

    def decision(self, subject: Party, direction: Direction, peer: Party, protocol: int, port: int) -> Decision:
        """Return what one end says."""
        row = self.rows.get(self.numbers[subject.name])
        return decide(row, direction, self.numbers[peer.name], protocol, port) if row else UNENFORCED


def parties(fleet: Fleet, prefixes: Iterable[str]) -> list[Party]:
    """Return everyone who can stand at an end: workloads, the reserved ones, and each prefix that a rule names."""
    found = list(fleet.parties.values())
    found += [Party(name, RESERVED[name]) for name in ("host", "world")]
    return found + [Party(prefix, 0) for prefix in sorted(set(prefixes))]


def state(fleet: Fleet, everyone: Iterable[Party]) -> State:
    """Return how things stand now."""
    numbers = {one.name: one.identity or _identity_of_prefix(fleet, one.name) for one in everyone}
    return State(dict(fleet.world.rows()), numbers)


def _identity_of_prefix(fleet: Fleet, prefix: str) -> int:
    own = network(prefix)
    named = ((network(outer), number) for outer, number in fleet.world.prefixes().items())
    covering = [(outer.length, number) for outer, number in named if outer.covers(own)]
    return max(covering, default=(0, RESERVED["world"]))[1]


def ports_of(rows: Iterable[PolicyRow]) -> set[tuple[int, int]]:
    """Return protocol and port of everything that an entry names, both ends of ranges, and traffic that none names."""
    found = set(_STAND_INS)
    for row in rows:
        for entry in row.entries:
            if entry.port:
                found |= {(entry.protocol, entry.port), (entry.protocol, max(entry.port, entry.end_port))}
    return found


def changes(old: State, new: State, everyone: list[Party]) -> Iterator[Change]:
    """Return every connection whose verdict differs, each once."""
    seen: set[tuple[str, str, int, int]] = set()
    for subject in everyone:
        before, after = (one.rows.get(one.numbers[subject.name]) for one in (old, new))
        if before is None and after is None:
            continue
        for direction in Direction:
            for peer, protocol, port in _flips(subject, direction, old, new, everyone):
                ends = (subject, peer) if direction is Direction.EGRESS else (peer, subject)
                key = (ends[0].name, ends[1].name, protocol, port)
                if key not in seen:
                    seen.add(key)
                    yield from compare(old, new, *ends, protocol, port)


def _flips(
    subject: Party, direction: Direction, old: State, new: State, everyone: list[Party]
) -> Iterator[tuple[Party, int, int]]:
    """Return the peers and the traffic that one end decides differently."""
    before, after = (one.rows.get(one.numbers[subject.name]) for one in (old, new))
    ports = sorted(ports_of(row for row in (before, after) if row))
    known: dict[tuple[int, int], list[tuple[int, int]]] = {}
    named = {entry.identity for row in (before, after) if row for entry in row.entries}
    for peer in everyone:
        numbers = old.numbers[peer.name], new.numbers[peer.name]
        if before == after and numbers[0] == numbers[1]:
            continue
        alike = (numbers[0] if numbers[0] in named else -1, numbers[1] if numbers[1] in named else -1)
        if alike not in known:
            rows = [_near(row, direction, number) for row, number in zip((before, after), alike, strict=True)]
            known[alike] = [
                one
                for one in ports
                if _allowed(rows[0], direction, alike[0], one) != _allowed(rows[1], direction, alike[1], one)
            ]
        yield from ((peer, *one) for one in known[alike])


def _near(row: PolicyRow | None, direction: Direction, peer: int) -> PolicyRow | None:
    """Return the row with the entries that can decide about the peer alone: the others need not be searched again."""
    if row is None:
        return None
    kept = tuple(one for one in row.entries if one.direction == direction and one.identity in (0, peer))
    return msgspec.structs.replace(row, entries=kept)


def _allowed(row: PolicyRow | None, direction: Direction, peer: int, traffic: tuple[int, int]) -> bool:
    return row is None or decide(row, direction, peer, *traffic).allowed


def compare(old: State, new: State, source: Party, destination: Party, protocol: int, port: int) -> Iterator[Change]:
    """Return the change of one connection, if there is one."""
    before, after = (_both(one, source, destination, protocol, port) for one in (old, new))
    if before[0] != after[0]:
        yield Change(
            source=source.name,
            destination=destination.name,
            traffic=traffic_text(protocol, port),
            allowed=after[0],
            why=after[1],
            was=before[1],
        )


def _both(one: State, source: Party, destination: Party, protocol: int, port: int) -> tuple[bool, str]:
    """Return the verdict of both ends, and the cause: of whoever denies, else of whoever says more."""
    leaving = one.decision(source, Direction.EGRESS, destination, protocol, port)
    entering = one.decision(destination, Direction.INGRESS, source, protocol, port)
    telling = leaving if not leaving.allowed or (entering.allowed and not entering.origins) else entering
    name = "egress" if telling is leaving else "ingress"
    return leaving.allowed and entering.allowed, f"{name} {why(telling)}"
