"""`make bench-datapath`: what the datapath costs, per packet, per connection and per change, beside what it is compared with.

Three parts, each runnable alone with `--only`: `program` (BPF_PROG_TEST_RUN), `path` (packets between namespaces) and `control` (the
service: adding endpoints, restarting, changing policy, memory). Needs root and a real kernel. Ends with `name=value` lines.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path

from tests.bench import datapath_control, datapath_path, datapath_program
from tests.bench.tables import Table

PARTS = ("program", "path", "control")
Result = tuple[list[Table], dict[str, float]]


def _program(options: argparse.Namespace) -> Result:
    rows = datapath_program.measure(options.rounds)
    return datapath_program.tables(rows), datapath_program.figures(rows)


def _path(options: argparse.Namespace) -> Result:
    found = datapath_path.measure(options.rounds, options.cpu)
    return datapath_path.tables(found), datapath_path.figures(found)


def _control(options: argparse.Namespace) -> Result:
    found = datapath_control.measure(options.restarts, options.large)
    return datapath_control.tables(found), datapath_control.figures(found)


MEASURES: dict[str, Callable[[argparse.Namespace], Result]] = {"program": _program, "path": _path, "control": _control}


def machine() -> str:
    """Return what this was measured on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = {line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")}
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return f"{os.cpu_count()} x {', '.join(models)}; Linux {platform.release()}; load before the run {load}"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.datapath", description=__doc__)
    parser.add_argument("--only", choices=PARTS, action="append", help="this part; may be given more than once")
    parser.add_argument("--rounds", type=int, default=11, help="interleaved rounds of program and path (default 11)")
    parser.add_argument("--cpu", type=int, default=max(os.sched_getaffinity(0)), help="processor of the path part")
    parser.add_argument("--restarts", type=int, default=3, help="restarts of the control part (default 3)")
    parser.add_argument(
        "--large",
        type=int,
        default=10,
        help="endpoints with 16 384 entries (default 10 of 300, and 100 of 1002; 300: all, also those whose policy changes)",
    )
    options = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("bench-datapath: needs root for network namespaces and eBPF")
    print(f"{machine()}\n")
    figures: dict[str, float] = {}
    for part in options.only or PARTS:
        tables, found = MEASURES[part](options)
        print("\n".join(table.text() for table in tables), flush=True)
        figures |= found
    for name, value in figures.items():
        print(f"{name}={value:.3f}" if "ratio" in name or "_vs_" in name else f"{name}={value:.1f}")


if __name__ == "__main__":
    main()
