"""Who broke the glass, when, until when and why: a file of lines that only grows, and what of it counts at a moment.

A line is on the disk before the kernel hears of it. The file is written by a person's command while everything else may be dead
(`emergency.py`), and read by the service, which tells the bus.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from fairlead.errors import Unavailable

WHOLE_NODE = 0
"""Stands where an endpoint's number does."""
FILE = "break-glass.log"
"""Below the folder of the datapath's state."""
_ENDLESS_S = 10 * 365 * 86_400
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_LOG = logging.getLogger("datapath.glass")


class Deed(StrEnum):
    """What was done."""

    OPENED = "opened"
    ENDED = "ended"
    """Before its time, by a person."""
    FAILED = "failed"
    """The kernel refused what the line before says."""
    FOUND = "found"
    """Open in the kernel, and no line says who did it, as after `bpftool`: the service has written this one."""


class Entry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line."""

    deed: Deed
    time: datetime
    endpoint: Annotated[int, Meta(ge=0, le=65535)]
    """0: the whole node."""
    name: str = ""
    reason: str = ""
    by: str
    until: datetime | None = None
    until_ns: int = 0
    """The same by CLOCK_MONOTONIC, as it stands in the kernel."""
    boot: str = ""
    """Under which that clock counts."""


class Open(msgspec.Struct, frozen=True, kw_only=True):
    """Glass that is broken now."""

    endpoint: int
    until_ns: int
    entry: Entry | None = None
    """What explains it; None: no line does."""

    @property
    def subject(self) -> str:
        """Return what is open, in words."""
        return subject(self.endpoint, self.entry.name if self.entry else "")

    @property
    def words(self) -> str:
        """Return all that is known of it in one line, the same while nothing changes."""
        if self.entry is None:
            return f"{self.subject} (no record explains it)"
        end = f"until {self.entry.until:%Y-%m-%dT%H:%M:%SZ}" if self.entry.until else "without end"
        return f"{self.subject} {end} by {self.entry.by}: {self.entry.reason}"


def subject(endpoint: int, name: str) -> str:
    """Return an endpoint, or the whole node, in words."""
    return f"endpoint {endpoint} {name}".strip() if endpoint else "the whole node"


def broken_now(rows: Mapping[int, int], entries: Iterable[Entry], now_ns: int, boot: str) -> tuple[Open, ...]:
    """Return what is open at this moment of CLOCK_MONOTONIC: the kernel's rows decide, the book explains."""
    explained = {
        (entry.endpoint, entry.until_ns): entry
        for entry in entries
        if entry.deed in (Deed.OPENED, Deed.FOUND) and entry.boot == boot
    }
    return tuple(
        Open(endpoint=endpoint, until_ns=until_ns, entry=explained.get((endpoint, until_ns)))
        for endpoint, until_ns in sorted(rows.items())
        if now_ns < until_ns
    )


def found(one: Open, now: datetime, now_ns: int, boot: str) -> Entry:
    """Return the line for glass that is open without one, at this moment of both clocks."""
    left_s = (one.until_ns - now_ns) / 1e9
    return Entry(
        deed=Deed.FOUND,
        time=now,
        endpoint=one.endpoint,
        reason="written into the kernel's map past `fairlead break-glass`: nobody said why",
        by="somebody unknown",
        until=now + timedelta(seconds=left_s) if left_s < _ENDLESS_S else None,
        until_ns=one.until_ns,
        boot=boot,
    )


def read(path: Path) -> list[Entry | None]:
    """Return every line of the book in order, None for one that makes no sense; nothing where there is no book."""
    try:
        lines = path.read_bytes().split(b"\n")[:-1]  # what has no end yet is being written
    except FileNotFoundError:
        return []
    return [_entry(path, number, line) for number, line in enumerate(lines, 1)]


def _entry(path: Path, number: int, line: bytes) -> Entry | None:
    try:
        return msgspec.json.decode(line, type=Entry)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        _LOG.warning("%s, line %d makes no sense: %s", path, number, error)
        return None


@contextmanager
def writing(path: Path) -> Iterator[int]:
    """Open the book for lines at its end, alone. Raises Unavailable when it cannot be written."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
    except OSError as error:
        raise Unavailable(f"{path} cannot be written ({error.strerror}): without a record nothing is opened") from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield fd
    finally:
        os.close(fd)


def append(fd: int, path: Path, entry: Entry) -> None:
    """Add a line; it is on the disk when this returns. Raises Unavailable when the disk refuses."""
    size = os.fstat(fd).st_size
    cut_short = size and os.pread(fd, 1, size - 1) != b"\n"
    line = b"\n" * bool(cut_short) + msgspec.json.encode(entry) + b"\n"
    try:
        if os.write(fd, line) != len(line):
            raise OSError("the disk takes no more")  # noqa: TRY301 - told like what the disk itself refuses
        os.fsync(fd)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise Unavailable(f"{path} cannot be written ({error}): without a record nothing is opened") from error


def boot() -> str:
    """Return what tells this boot of the machine from others."""
    return _BOOT_ID.read_text().strip() if _BOOT_ID.exists() else "unknown"
