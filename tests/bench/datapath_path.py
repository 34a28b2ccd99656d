"""What a packet's whole way costs between two namespaces, interleaved with a bare veth pair, the limit and plain routing.

Sender and receiver are one thread on one processor (`path.c`), so that neither wake-ups nor the other processor's load are measured.
"""

from __future__ import annotations

import ctypes
import os
import statistics
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field

from tests.bench import wire
from tests.bench.programs import Programs
from tests.bench.tables import Table

LIMIT, ROUTED_AWAY = "redirect_peer alone", "plain routing, off the node"
OURS, OURS_LARGE, OURS_AWAY = "Fairlead, 10 entries", "Fairlead, 16384 entries", "Fairlead, 10 entries, off the node"
TRIALS = 3
PEERS: Mapping[str, tuple[str, ...]] = {
    "Calico eBPF": ("1.089", "1.085", "1.121", "0.926"),
    "Cilium 1.19.4": ("1.249", "1.226", "1.234", "0.822"),
    "nftables with conntrack": ("1.322", "1.306", "1.281", "0.789"),
}
"""Ratios to the limit that other datapaths had on this kind of machine."""


@dataclass
class Rounds:
    """The figures of one path in every round, by measurement."""

    path: wire.Way
    values: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in wire.MEASUREMENTS})

    def median(self, what: str) -> float:
        """Return the median of the rounds."""
        return statistics.median(self.values[what])

    def ratio(self, what: str, base: Rounds) -> float:
        """Return the median of the rounds' ratios to another path."""
        pairs = zip(self.values[what], base.values[what], strict=True)
        return statistics.median(mine / theirs for mine, theirs in pairs)


def measure(rounds: int, cpu: int) -> dict[str, Rounds]:
    """Build all paths, measure each in every round, best of a few trials, and return what was found by name."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    try:
        with ExitStack() as stack, wire.library() as native:
            ground = wire.Ground(stack)
            paths = [wire.direct(ground), wire.limit(ground, Programs()), wire.routed(ground), wire.routed_away(ground)]
            paths += [*wire.ours(stack, 10), wire.ours(stack, 16_384)[0]]
            found = {path.name: Rounds(path) for path in paths}
            for _ in range(rounds):
                _round(native, found)
            return found
    finally:
        os.sched_setaffinity(0, before)


def _round(native: ctypes.CDLL, found: dict[str, Rounds]) -> None:
    """Measure everything once; of the trials, which go round the paths in turn, the best counts."""
    for what, function in wire.MEASUREMENTS.items():
        trials: dict[str, list[float]] = {name: [] for name in found}
        for _ in range(TRIALS):
            for name, rounds in found.items():
                trials[name].append(function(native, rounds.path))
        best = max if what == "bulk" else min
        for name, rounds in found.items():
            rounds.values[what].append(best(trials[name]))


def figures(found: dict[str, Rounds]) -> dict[str, float]:
    """Return the figures that this part is judged by, and two more: flat in rules, and between nodes."""
    limit, away = found[LIMIT], found[ROUTED_AWAY]
    named = {f"whole_{what}_vs_limit": found[OURS].ratio(what, limit) for what in wire.MEASUREMENTS}
    named |= {f"away_{what}_vs_routed": found[OURS_AWAY].ratio(what, away) for what in wire.MEASUREMENTS}
    return named | {"whole_connection_growth_ratio": found[OURS_LARGE].ratio("connection", found[OURS])}


def tables(found: dict[str, Rounds]) -> list[Table]:
    """Return the tables to print."""
    units = ("UDP ns", "TCP RR ns", "connection us", "bulk Gbit/s")
    absolute = Table("whole path, median of the rounds", units)
    ratios = Table(f"whole path as a ratio to `{LIMIT}` of the same round (off the node: to plain routing)", units)
    for name, rounds in found.items():
        medians = [rounds.median(what) for what in wire.MEASUREMENTS]
        absolute.add(name, *(f"{value:.1f}" if value < 1000 else f"{value:.0f}" for value in medians))
        base = found[ROUTED_AWAY] if name.endswith("off the node") else found[LIMIT]
        ratios.add(name, *(f"{rounds.ratio(what, base):.3f}" for what in wire.MEASUREMENTS))
    for name, cells in PEERS.items():
        ratios.add(f"{name} (elsewhere)", *cells)
    return [absolute, ratios]
