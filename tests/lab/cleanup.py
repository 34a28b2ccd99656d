"""Removes everything a lab has made, whether it ended well or not. Standard library only."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.lab import network, processes
from tests.lab.network import LabError
from tests.lab.programs import PINS

RUN = Path("/run")
_GONE_S = 5.0
_MOUNTED = "mounted-bpffs"


def folder_of(prefix: str) -> Path:
    """Return where the lab of this prefix keeps state, logs and marks."""
    return RUN / f"fairlead-{prefix}"


def pins_of(prefix: str) -> Path:
    """Return where the lab of this prefix pins its maps."""
    return PINS / f"fairlead-{prefix}"


@contextmanager
def only_one(prefix: str) -> Iterator[None]:
    """Hold the lab's lock. Raises LabError naming the process that holds it already."""
    path = RUN / f"fairlead-{prefix}.lock"
    with path.open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            holder = lock.read().strip() or "unknown"
            raise LabError(
                f"a lab is running (process {holder}): end it with Ctrl-C there, or `kill -INT {holder}`"
            ) from error
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield
        path.unlink(missing_ok=True)


def mount_bpffs(prefix: str) -> None:
    """Make bpffs be there; remember if it was us."""
    if os.path.ismount(PINS):
        return
    network.run(["mount", "-t", "bpf", "bpf", str(PINS)])
    folder_of(prefix).mkdir(parents=True, exist_ok=True)
    (folder_of(prefix) / _MOUNTED).touch()


def clean(prefix: str) -> str:
    """Remove processes, namespaces, pins and files of the lab, and say how many there were."""
    folder = folder_of(prefix)
    ended = processes.end_marked(folder)
    names = network.standing(prefix)
    until = time.monotonic() + _GONE_S
    while (found := processes.end_inside(names)) and time.monotonic() < until:
        ended += found
        time.sleep(0.05)
    network.remove(prefix)
    pins = pins_of(prefix)
    pinned = sum(1 for path in pins.rglob("*") if path.is_file()) if pins.exists() else 0
    shutil.rmtree(pins, ignore_errors=True)
    _unmount(folder)
    shutil.rmtree(folder, ignore_errors=True)
    return f"{ended} processes, {len(names)} namespaces, {pinned} pins"


def _unmount(folder: Path) -> None:
    """Unmount bpffs if the lab had mounted it and nobody else has come to use it."""
    if (folder / _MOUNTED).exists() and os.path.ismount(PINS) and not any(PINS.iterdir()):
        try:
            network.run(["umount", str(PINS)])
        except LabError as error:
            print(f"bpffs stays mounted: {error}")


def leftovers(prefix: str) -> list[str]:
    """Return what of a lab exists now."""
    places = [str(path) for path in (folder_of(prefix), pins_of(prefix)) if path.exists()]
    return [*network.standing(prefix), *places]
