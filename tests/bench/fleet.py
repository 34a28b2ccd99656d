"""How many agents a fleet starts per second when all its machines boot at once, and when a bad message crashes all agents again and again.

The decisions are the entrypoint's own (`services/entrypoint.py`); time is simulated, so a day takes seconds.

python -m tests.bench.fleet [--nodes N ...] [--windows W] [--lives S]
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from fairlead.admission import Record
from services.entrypoint import decide, window_s
from tests.bench.tables import Table

SERVICES = ("ipam", "datapath", "bgp")
"""What runs on each node, each with an entrypoint of its own."""
_BEGAN_S = 1.7e9
_LONG_AGO_S = 30 * 86_400.0
_SETTLED = 4
"""Windows over which the rate is told that a crashing fleet comes to: the longest that anybody is held back."""


@dataclass(frozen=True)
class Rate:
    """When the agents of a fleet started, in seconds after the cause, and what follows from that."""

    starts: tuple[float, ...]

    def peak(self, seconds: float) -> int:
        """Return the most starts within one interval of this length."""
        return max(Counter(int(at // seconds) for at in self.starts).values(), default=0)

    def per_minute(self, first_s: float, last_s: float) -> float:
        """Return the mean rate between two moments."""
        return 60 * sum(first_s <= at < last_s for at in self.starts) / (last_s - first_s)


def agents(nodes: int) -> Iterator[str]:
    """Yield the names of a fleet's agents, as their entrypoints call themselves."""
    return (f"n{number}/{service}" for number in range(nodes) for service in SERVICES)


def boot(nodes: int) -> Rate:
    """Return the starts after power has come back to all machines at once."""
    window = window_s(nodes)
    return _rate(decide(_BEGAN_S, agent, _boot_of(agent), window, Record()).wait_s for agent in agents(nodes))


def crash_loop(nodes: int, lives_s: float, windows: int) -> Rate:
    """Return the starts after everybody, up for long, has crashed at once, and goes on crashing `lives_s` after each start."""
    window = window_s(nodes)
    end_s = _BEGAN_S + windows * _length_s(nodes)
    starts: list[float] = []
    for agent in agents(nodes):
        record, now = Record(boot=_boot_of(agent), started_s=_BEGAN_S - _LONG_AGO_S), _BEGAN_S
        while True:
            decision = decide(now, agent, _boot_of(agent), window, record)
            started, record = now + decision.wait_s, decision.started
            if started >= end_s:
                break
            starts.append(started - _BEGAN_S)
            now = started + lives_s
    return _rate(starts)


def _rate(starts: Iterable[float]) -> Rate:
    return Rate(tuple(sorted(starts)))


def _boot_of(agent: str) -> str:
    """Return what tells this boot of the agent's machine from others."""
    return f"boot of {agent.partition('/')[0]}"


def _length_s(nodes: int) -> float:
    """Return the fleet's window; a minute for a fleet that has none."""
    return window_s(nodes) or 60.0


def _figures(name: str, nodes: int, rate: Rate) -> dict[str, float]:
    return {
        f"{name}_{nodes}_starts": len(rate.starts),
        f"{name}_{nodes}_peak_per_s": rate.peak(1),
        f"{name}_{nodes}_peak_per_min": rate.peak(60),
        f"{name}_{nodes}_first_window_per_min": round(rate.per_minute(0, _length_s(nodes)), 1),
    }


def simulate(fleets: Iterable[int], lives_s: float, windows: int) -> tuple[Table, dict[str, float]]:
    """Return what happens to fleets of these sizes: a table for people, and the figures by name."""
    columns = ("agents", "window", "starts", "most in 1 s", "most in 1 min", "per min, first window", "in the end")
    table, figures = Table("starts of a whole fleet", columns), dict[str, float]()
    for nodes in fleets:
        length_s = _length_s(nodes)
        figures[f"window_{nodes}_min"] = round(window_s(nodes) / 60, 1)
        facts = str(nodes * len(SERVICES)), f"{window_s(nodes) / 60:.1f} min"
        found = _figures("boot", nodes, boot(nodes))
        table.add(f"{nodes} nodes, all boot at once", *facts, *(f"{value:g}" for value in found.values()), "0")
        figures |= found
        rate = crash_loop(nodes, lives_s, windows)
        found = _figures("crash", nodes, rate)
        settled = rate.per_minute((windows - _SETTLED) * length_s, windows * length_s)
        found[f"crash_{nodes}_settled_per_min"] = round(settled, 1)
        name = f"{nodes} nodes, all crash {lives_s:g} s after each start"
        table.add(name, *facts, *(f"{value:g}" for value in found.values()))
        figures |= found
    return table, figures


def main(arguments: list[str] | None = None) -> int:
    """Simulate, and tell; the figures end the output as name=value."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, nargs="+", default=[1000, 5000], help="sizes of fleets")
    parser.add_argument("--windows", type=int, default=15, help="for how many windows everybody goes on crashing (15)")
    parser.add_argument("--lives", type=float, default=5.0, help="seconds from a start to its crash (5)")
    options = parser.parse_args(arguments)
    if min(options.nodes) < 1 or options.windows < _SETTLED or options.lives <= 0:
        parser.error(f"--nodes from 1, --windows from {_SETTLED}, --lives above 0")
    table, figures = simulate(options.nodes, options.lives, options.windows)
    print(table.text())
    for name, value in figures.items():
        print(f"{name}={value:g}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
