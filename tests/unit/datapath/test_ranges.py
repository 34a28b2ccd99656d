"""Blocks of ports mean what the ranges meant: port by port, against an oracle that tries every range."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from services.datapath.operations import PolicyValue
from services.datapath.ranges import Block, PortRange, blocks, rank

_PORTS = st.one_of(st.integers(1, 40), st.integers(1, 65535), st.sampled_from([1, 2, 32767, 32768, 65534, 65535]))
_VALUES = st.builds(PolicyValue, st.booleans(), st.integers(0, 2), st.just(0), st.integers(0, 3))
_RANGES = st.lists(
    st.tuples(_PORTS, _PORTS, _VALUES).map(lambda t: PortRange(min(t[:2]), max(t[:2]), t[2])), max_size=8
)


def _strongest(ranges: list[PortRange], port: int) -> PolicyValue | None:
    covering = [one for one in ranges if one.first <= port <= one.last]
    if not covering:
        return None
    deny_and_precedence = max((one.value.deny, one.value.precedence) for one in covering)
    best = [one for one in covering if (one.value.deny, one.value.precedence) == deny_and_precedence]
    width = min(one.last - one.first for one in best)
    return max((one.value for one in best if one.last - one.first == width), key=rank)


def _covers(block: Block, port: int) -> bool:
    return block.port <= port <= block.port | 0xFFFF >> block.bits


def _interesting(ranges: list[PortRange]) -> set[int]:
    edges = {edge for one in ranges for edge in (one.first, one.last)}
    near = {edge + step for edge in edges for step in (-1, 0, 1)} | {1, 65535} | set(range(1, 42))
    return {port for port in near if 0 < port <= 65535}


@given(_RANGES)
def test_every_port_has_the_strongest_range(ranges: list[PortRange]) -> None:
    made = blocks(ranges)
    for port in _interesting(ranges):
        found = [block.value for block in made if _covers(block, port)]
        assert found == [value for value in [_strongest(ranges, port)] if value is not None], port


@given(_RANGES)
def test_blocks_are_aligned_and_never_overlap(ranges: list[PortRange]) -> None:
    made = sorted(blocks(ranges))
    assert all(1 <= block.bits <= 16 and block.port & 0xFFFF >> block.bits == 0 for block in made)
    for left, right in pairwise(made):
        assert left.port | 0xFFFF >> left.bits < right.port


@given(_RANGES, st.randoms())
def test_order_means_nothing(ranges: list[PortRange], random: object) -> None:
    turned = list(ranges)
    random.shuffle(turned)  # type: ignore[attr-defined] # hypothesis types it as object here
    assert blocks(turned) == blocks(ranges)


def test_one_range_takes_the_fewest_blocks() -> None:
    value = PolicyValue()
    assert blocks([PortRange(1, 65535, value)]) == [Block(1 << n, 16 - n, value) for n in range(16)]
    assert blocks([PortRange(80, 95, value)]) == [Block(80, 12, value)]
    assert blocks([PortRange(80, 87, value), PortRange(88, 95, value)]) == [Block(80, 12, value)]


def test_many_ranges_are_quick() -> None:
    ranges = [PortRange(port, port + 999, PolicyValue(provenance=port)) for port in range(1, 60_000, 6)]
    assert len(blocks(ranges)) < 100_000
