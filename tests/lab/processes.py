"""Starts, watches and ends the lab's processes. Standard library only, so that a crashed lab can be removed with nothing installed.

Every process leads its own process group (killing it kills its helpers) and leaves a file with its number and start time, so that a
later `make lab-down` ends exactly what the lab began and never a stranger that got the same number.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.lab.network import NETNS, LabError, inside

_STOP_S = 5.0
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Spec:
    """One program in one namespace; `name` is `<namespace>/<program>`."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def namespace(self) -> str:
        """Return the short name of the namespace."""
        return self.name.split("/")[0]


class Process:
    """One running program."""

    def __init__(self, spec: Spec, path: str, folder: Path) -> None:
        self.spec = spec
        self._path = path
        stem = spec.name.replace("/", "-")
        self.log = folder / "log" / f"{stem}.log"
        self._mark = folder / "pids" / stem
        self._popen: subprocess.Popen[bytes] | None = None
        self._said_before = 0

    @property
    def name(self) -> str:
        """Return `<namespace>/<program>`."""
        return self.spec.name

    @property
    def pid(self) -> int:
        """Return the number of the process; `nsenter` has become the program itself. Raises LabError when it was not started."""
        if self._popen is None:
            raise LabError(f"{self.name} was not started")
        return self._popen.pid

    @property
    def started(self) -> bool:
        """Tell whether it was ever started."""
        return self._popen is not None

    @property
    def alive(self) -> bool:
        """Tell whether it runs."""
        return self._popen is not None and self._popen.poll() is None

    def start(self) -> None:
        """Start it; its output is appended to its log."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self._mark.parent.mkdir(parents=True, exist_ok=True)
        self._said_before = self.log.stat().st_size if self.log.exists() else 0
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", **self.spec.environment}
        with self.log.open("ab") as log:
            self._popen = subprocess.Popen(
                inside(self._path, *self.spec.command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                cwd=ROOT,
                start_new_session=True,
            )
        self._mark.write_text(f"{self.pid} {start_time(self.pid)}\n")

    def kill(self) -> None:
        """End it and its helpers at once, as a crash would (SIGKILL)."""
        self._signal(signal.SIGKILL)
        if self._popen is not None:
            self._popen.wait()
        self._mark.unlink(missing_ok=True)

    async def stop(self) -> None:
        """Ask it to end (SIGTERM); after five seconds kill it."""
        self._signal(signal.SIGTERM)
        until = time.monotonic() + _STOP_S
        while self.alive and time.monotonic() < until:
            await asyncio.sleep(0.02)
        self.kill()

    def rss_bytes(self) -> int:
        """Return its resident memory; 0 when it does not run."""
        if not self.alive:
            return 0
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def said(self) -> str:
        """Return what it has written to its log since it was last started."""
        with self.log.open("rb") as log:
            log.seek(self._said_before)
            return log.read().decode(errors="replace")

    def tail(self, lines: int = 15) -> str:
        """Return the last lines of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:]) if self.log.exists() else ""

    def _signal(self, number: signal.Signals) -> None:
        if self._popen is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._popen.pid, number)


def start_time(pid: int) -> str:
    """Return when the process began, in the kernel's ticks; empty when there is none. Number and start time name it for ever."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def end_marked(folder: Path) -> int:
    """Kill the groups of all processes that left a mark under `folder`; return how many were alive."""
    ended = 0
    for mark in sorted((folder / "pids").glob("*")):
        pid, _, began = mark.read_text().strip().partition(" ")
        if began and start_time(int(pid)) == began:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(int(pid), signal.SIGKILL)
            ended += 1
        mark.unlink()
    return ended


def end_inside(names: list[str]) -> int:
    """Kill every process whose network namespace is one of the lab's; return how many there were."""
    ours = {(stat.st_dev, stat.st_ino) for stat in ((NETNS / name).stat() for name in names)}
    ended = 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            stat = (folder / "ns/net").stat()
        except OSError:
            continue  # it has ended meanwhile
        if (stat.st_dev, stat.st_ino) in ours:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(folder.name), signal.SIGKILL)
            ended += 1
    return ended
