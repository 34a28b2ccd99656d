"""`make test-kernels`: the programs on kernels of the distributions, each in a virtual machine; some minutes for each, since they are emulated.

Exit status 1 if something failed, 3 if a kernel could not be had and was not tried.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from tests.kernels import machine, packages
from tests.kernels.inside import LEFT_OUT, ROOT, SHORT, SUITE, Stage
from tests.kernels.packages import KERNELS, Kernel
from tests.support.archive import Unobtainable

_FAILED, _NOT_TRIED = 1, 3


@dataclass(frozen=True)
class Result:
    """What came of one kernel."""

    kernel: Kernel
    release: str
    stages: tuple[Stage, ...]
    problem: str = ""
    tried: bool = True

    @property
    def good(self) -> bool:
        return not self.problem and all(stage.good for stage in self.stages)


def try_kernel(kernel: Kernel, wanted: list[str], limit_s: float, refresh: bool) -> Result:
    """Boot one kernel and do all that is wanted in it."""
    try:
        unpacked = packages.obtain(kernel, refresh)
    except Unobtainable as error:
        return Result(kernel, "", (), f"NOT TRIED: {error}", tried=False)
    print(f"{kernel.name} of {kernel.distribution}: {', '.join(unpacked.packages)}", flush=True)
    told = Path(tempfile.mkdtemp(prefix=f"fairlead-kernel-{kernel.name}-"))
    try:
        record = [sys.executable, "-m", "tests.kernels.recording", str(told / "programs.json")]
        subprocess.run(record, cwd=ROOT, check=True)
        command = f"{sys.executable} -m tests.kernels.inside {' '.join(wanted)}"
        last = ""
        for line in machine.run(unpacked, command, ROOT, told, limit_s):
            last = line.rstrip() or last
            print(f"  {kernel.name} | {line.rstrip()}", flush=True)
        return Result(kernel, unpacked.release, _stages(told), _problem(told, last))
    finally:
        shutil.rmtree(told)


def _stages(told: Path) -> tuple[Stage, ...]:
    file = told / "stages.json"
    return tuple(Stage(**one) for one in json.loads(file.read_text())) if file.exists() else ()


def _problem(told: Path, last: str) -> str:
    status = machine.status(told)
    if status is not None:
        return "" if status == 0 else f"what runs in the machine failed with status {status}"
    for out in sorted(told.glob("*.out"), key=lambda path: path.stat().st_mtime):
        print(f"{out.stem} when the machine stopped:\n{out.read_text()[-3000:]}", flush=True)
    return f"the machine stopped before it was done, or its time was over; its last words: {last}"


def table(results: list[Result]) -> list[str]:
    """Return what came of everything, a line for each part."""
    lines = []
    for one in results:
        head = f"{one.kernel.name:5} {one.kernel.distribution:13} {one.release:28}"
        lines += [
            f"{head} {stage.name:9} {'ok' if stage.good else 'FAILED':7} {stage.seconds:5.0f} s  {stage.words}"
            for stage in one.stages
        ]
        if one.problem:
            lines.append(f"{head} {one.problem}")
    return lines


def exit_status(results: list[Result]) -> int:
    """Return 1 if something failed, else 3 if a kernel was not tried, else 0."""
    if not all(one.good for one in results if one.tried):
        return _FAILED
    return 0 if all(one.tried for one in results) else _NOT_TRIED


def main() -> None:
    """Try the kernels, and print what came of it."""
    parser = argparse.ArgumentParser(prog="python -m tests.kernels", description=__doc__)
    names = [one.name for one in KERNELS]
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="these kernels")
    parser.add_argument(
        "--stages",
        nargs="+",
        default=["features", "compile", "suite"],
        help="`short`, or names of tests/kernel/test_*.py, too",
    )
    parser.add_argument("--limit", type=float, default=3600.0, help="seconds for one kernel")
    parser.add_argument("--refresh", action="store_true", help="ask the archives for newer packages")
    options = parser.parse_args()
    if reason := machine.missing():
        sys.exit(f"test-kernels: {reason}")
    began = time.monotonic()
    print(
        f"accelerator: {machine.accelerator()}; suite: {', '.join(SUITE)}; short: {', '.join(SHORT)}; left out: {', '.join(LEFT_OUT)}"
    )
    chosen = [one for one in KERNELS if one.name in options.only]
    results = [try_kernel(one, options.stages, options.limit, options.refresh) for one in chosen]
    print("\n".join(["", *table(results), f"{time.monotonic() - began:.0f} s"]), flush=True)
    sys.exit(exit_status(results))


if __name__ == "__main__":
    main()
