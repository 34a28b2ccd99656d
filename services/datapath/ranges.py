"""Port ranges as blocks for the kernel's longest-prefix map. All functions are pure.

A longest-prefix look-up returns one block only, so the blocks of one peer, protocol and direction never overlap: each port belongs to the
range that wins there, which is the one of the highest (deny, precedence), and of equals the narrower.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from services.datapath.operations import PolicyValue

PORT_BITS = 16


class PortRange(NamedTuple):
    """What holds for the ports from `first` to `last`, inclusive."""

    first: int
    last: int
    value: PolicyValue


class Block(NamedTuple):
    """The ports that share their first `bits` bits with `port`."""

    port: int
    bits: int
    value: PolicyValue


def rank(value: PolicyValue) -> tuple[bool, int, int, int]:
    """Order values as the programs order entries; the rest makes the choice the same every time."""
    return value.deny, value.precedence, -value.proxy_port, -value.provenance


def blocks(ranges: Sequence[PortRange]) -> list[Block]:
    """Return the blocks that mean the same as these ranges of one peer, protocol and direction."""
    return [
        Block(port, bits, value)
        for first, last, value in _merged(_winners(ranges))
        for port, bits in _aligned(first, last)
    ]


def _strength(one: PortRange) -> tuple[bool, int, int, int, int]:
    deny, precedence, proxy_port, provenance = rank(one.value)
    return deny, precedence, one.first - one.last, proxy_port, provenance


def _winners(ranges: Sequence[PortRange]) -> Iterator[PortRange]:
    """Yield, from low ports to high, stretches in which one range wins."""
    waiting = sorted(ranges, key=lambda one: one.first)
    edges = sorted({edge for one in ranges for edge in (one.first, one.last + 1)})
    present: list[tuple[tuple[int, ...], int, PortRange]] = []
    taken = 0
    for start, end in pairwise(edges):
        while taken < len(waiting) and waiting[taken].first <= start:
            weakness = tuple(-part for part in _strength(waiting[taken]))
            heapq.heappush(present, (weakness, taken, waiting[taken]))
            taken += 1
        while present and present[0][2].last < start:
            heapq.heappop(present)
        if present:
            yield PortRange(start, end - 1, present[0][2].value)


def _merged(stretches: Iterator[PortRange]) -> Iterator[PortRange]:
    """Join neighbours that say the same."""
    last = next(stretches, None)
    for following in stretches:
        if last is not None and following.first == last.last + 1 and following.value == last.value:
            last = last._replace(last=following.last)
            continue
        if last is not None:
            yield last
        last = following
    if last is not None:
        yield last


def _aligned(first: int, last: int) -> Iterator[tuple[int, int]]:
    """Yield the fewest (port, bits) that cover exactly the ports from `first` to `last`."""
    while first <= last:
        size = first & -first or 1 << PORT_BITS
        while first + size - 1 > last:
            size >>= 1
        yield first, PORT_BITS - size.bit_length() + 1
        first += size
