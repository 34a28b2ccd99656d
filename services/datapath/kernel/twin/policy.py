"""Which entry of a policy decides: a deny, then the higher precedence, then the more specific in layer 4, then the one that names the peer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import NamedTuple

from services.datapath.operations import PolicyKey, PolicyValue

INGRESS, EGRESS = 0, 1
_PORT, _RANGE, _PROTOCOL, _ANYTHING = 3, 2, 1, 0

Match = tuple[PolicyKey, PolicyValue]
_Question = tuple[int, int, int, int]


class _Block(NamedTuple):
    """A range of ports of one peer, protocol and direction; both ends belong to it."""

    first: int
    last: int
    match: Match


class Policy:
    """What one endpoint's policy map and its companion of ranges say."""

    def __init__(self, entries: Mapping[PolicyKey, PolicyValue] | None = None) -> None:
        self.given = dict(entries or {})
        self._entries: dict[tuple[int, int, int, int], Match] = {}
        self._blocks: dict[tuple[int, int, int], list[_Block]] = defaultdict(list)
        self._answers: dict[_Question, Match | None] = {}
        for key, value in self.given.items():
            if key.port_bits:
                last = key.port | 0xFFFF >> key.port_bits
                self._blocks[key.identity, key.protocol, key.direction].append(_Block(key.port, last, (key, value)))
            else:
                self._entries[key.identity, key.port, key.protocol, key.direction] = key, value

    def best(self, peer: int, protocol: int, port: int, direction: int) -> Match | None:
        """Return the entry that decides about a packet to or from the peer, or None."""
        question = peer, protocol, port, direction
        if question not in self._answers:
            self._answers[question] = self._best(*question)
        return self._answers[question]

    def _best(self, peer: int, protocol: int, port: int, direction: int) -> Match | None:
        layer4 = [(0, protocol, _PROTOCOL), (0, 0, _ANYTHING)]
        if port:
            layer4.append((port, protocol, _PORT))
        found: list[tuple[tuple[bool, int, int, bool], Match]] = []
        for identity in (peer, 0):
            for number, proto, specificity in layer4:
                match = self._entries.get((identity, number, proto, direction))
                if match is not None:
                    found.append((_strength(match, specificity), match))
            blocks = self._blocks.get((identity, protocol, direction), ())
            covering = [block for block in blocks if block.first <= port <= block.last]
            if covering:
                match = min(covering, key=lambda block: block.last - block.first).match
                found.append((_strength(match, _RANGE), match))
        return max(found, key=lambda one: one[0])[1] if found else None


def _strength(match: Match, specificity: int) -> tuple[bool, int, int, bool]:
    key, value = match
    return value.deny, value.precedence, specificity, key.identity != 0
