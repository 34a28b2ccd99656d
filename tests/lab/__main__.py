"""`make lab`: the whole network comes up on this machine, tells its story step by step, and goes away again."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import os
import pkgutil
import signal
import sys
import time
import traceback
from types import ModuleType

from tests.lab import steps
from tests.lab.lab import Lab
from tests.lab.network import LabError
from tests.lab.report import Report
from tests.lab.steps.story import Story
from tests.lab.topology import Ways, describe

_NEEDED = {"1", "2"}
"""Steps that the later ones stand on."""

_LOOK_AROUND = """
The lab is still running. Look around:
  nsenter --net={ctl} env {control} .venv/bin/fairlead status
  nsenter --net={n1} env {environment} .venv/bin/fairlead endpoint list --node n1
  nsenter --net={ctl} env {control} .venv/bin/fairlead trace
  nsenter --net={tor1} birdc -s {tor1_socket} show route
  nsenter --net={employee} redis-cli -h {database} PING
  ls {folder}/log {pins}
Remove it with `make lab-down`."""


def chapters() -> list[tuple[str, ModuleType]]:
    """Return the steps by number, in order; the modules are called `s<number>_<name>`."""
    names = sorted(
        name for _, name, _ in pkgutil.iter_modules(steps.__path__) if name[0] == "s" and name[1:3].isdigit()
    )
    return [(str(int(name[1:3])), importlib.import_module(f"{steps.__name__}.{name}")) for name in names]


async def tell(story: Story, wanted: set[str]) -> None:
    """Run the steps; one that breaks is a line that is not as expected, and those that stand on it are left out."""
    broken = ""
    for number, module in chapters():
        if wanted and number not in wanted:
            continue
        story.report.step(number, module.TITLE)
        if broken:
            story.report.check("the step runs", f"left out: step {broken} failed", ok=False)
            continue
        try:
            await module.run(story)
        except Exception as error:  # noqa: BLE001 - a step must not take the table away
            story.report.note("".join(traceback.format_exception(error)))
            story.report.check("the step runs to its end", f"{type(error).__name__}: {error}", ok=False)
        broken = number if number in _NEEDED and not story.report.ok else ""


async def main(options: argparse.Namespace) -> int:
    """Run the lab; return its exit status."""
    report, began_s = Report(), time.monotonic()
    lab = Lab(describe(ways=Ways(options.routing, options.family, options.underlay)))
    _interrupt_once()
    lab.take_lock()
    keep = options.keep
    try:
        report.step("0", "the network and its processes start")
        lab.build()
        lab.start_all()
        report.note(
            f"{len(lab.topology.namespaces)} namespaces, {len(lab.processes)} processes, logs in {lab.folder}/log"
        )
        await tell(Story(lab, report), set(options.steps.split(",")) - {""})
    except asyncio.CancelledError:
        report.step("-", "interrupted")
        report.check("all steps run", "interrupted", ok=False)
        keep = False
    finally:
        complaints(lab, report)
        print(f"\n{report.table()}" if report.lines else "")
        await (stay(lab) if keep else leave(lab))
    good = sum(line.ok for line in report.lines)
    print(f"{good} of {len(report.lines)} as expected in {time.monotonic() - began_s:.0f} s")
    return 0 if report.ok else 1


def _interrupt_once() -> None:
    """Let SIGINT and SIGTERM end the steps; a second one does not disturb the removal."""
    loop, task, interrupted = asyncio.get_running_loop(), asyncio.current_task(), asyncio.Event()

    def interrupt() -> None:
        if task and not interrupted.is_set():
            interrupted.set()
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupt)


def complaints(lab: Lab, report: Report) -> None:
    """Where something failed, print the end of the logs of processes that ended by themselves."""
    if report.ok:
        return
    for name, process in sorted(lab.processes.items()):
        if not process.alive and process.started:
            print(f"\n{name} has ended; the end of {process.log}:\n{process.tail()}")


async def stay(lab: Lab) -> None:
    """Leave the lab running, and say how to look around."""
    await lab.keep()
    print(
        _LOOK_AROUND.format(
            n1=lab.topology.path("n1"),
            ctl=lab.topology.path("ctl"),
            tor1=lab.topology.path("tor1"),
            employee=lab.topology.path("employee-1"),
            environment=_options(lab.environment("n1"), "FAIRLEAD_NATS"),
            control=_options(lab.environment("ctl"), "FAIRLEAD_NATS", "FAIRLEAD_TRACES"),
            tor1_socket=lab.programs.control_socket("tor1"),
            database=lab.address("protected-db") if "protected-db" in lab.workloads else "ADDRESS",
            folder=lab.folder,
            pins=lab.programs.all_pins,
        )
    )


def _options(environment: dict[str, str], *beginnings: str) -> str:
    """Return the variables that begin so, as `env` takes them."""
    return " ".join(f"{name}={value}" for name, value in environment.items() if name.startswith(beginnings) and value)


async def leave(lab: Lab) -> None:
    """Remove the lab, and say if anything stayed."""
    said = await lab.remove()
    print(f"removed {said}")


def arguments() -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(prog="python -m tests.lab", description=__doc__)
    parser.add_argument(
        "--keep", action="store_true", default=bool(os.environ.get("KEEP")), help="leave it running (KEEP=1)"
    )
    parser.add_argument(
        "--steps", default="", metavar="1,2,...", help="run these only; 1 and 2 are needed by the others"
    )
    parser.add_argument(
        "--routing", default="native", choices=("native", "vxlan", "geneve"), help="how packets travel between nodes"
    )
    parser.add_argument("--family", type=int, default=4, choices=(4, 6), help="what the story's traffic is made of")
    parser.add_argument("--underlay", type=int, default=4, choices=(4, 6), help="what tunnels are made of")
    return parser.parse_args()


if __name__ == "__main__":
    if os.geteuid() != 0:
        sys.exit("lab: needs root for network namespaces and BPF")
    try:
        sys.exit(asyncio.run(main(arguments())))
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        sys.exit(2)
