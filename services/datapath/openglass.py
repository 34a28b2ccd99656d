"""Glass that a person broke on this node (`emergency.py`): told to the bus line by line until it has each, and shown while it lasts.

Nothing here opens, closes or prolongs anything: the kernel's rows end by themselves. A row without a line gets one, so that it is told too.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from fairlead import telemetry
from fairlead.bus import Bus
from fairlead.clock import Clock
from fairlead.errors import FairleadError
from fairlead.schema.base import NodeName
from fairlead.schema.datapath import BREAK_GLASS_USED, BreakGlassUsed
from services.datapath import glassbook
from services.datapath.glassbook import Entry, Open
from services.datapath.operations import Kernel
from services.datapath.worker import KernelThread

_LOG = logging.getLogger("datapath.glass")
_LOOK_EVERY_S = 1.0


class OpenGlass:
    """The book of one node, and what is open on it."""

    def __init__(self, node: NodeName, folder: Path, kernel: Kernel, thread: KernelThread, clock: Clock) -> None:
        self._node, self._kernel, self._thread, self._clock = node, kernel, thread, clock
        self._book, self._told = folder / glassbook.FILE, folder / "break-glass.told"
        self._entries: list[Entry | None] = []
        self._seen: tuple[int, int] = (-1, 0)
        self.open: tuple[Open, ...] = ()

    async def run(self) -> None:
        """Look now and then what is open, for ever."""
        telemetry.gauge(
            "fairlead_break_glass_seconds", self.seconds_left, unit="s", summary="how long glass stays open"
        )
        while True:
            await self.look()
            await self._clock.sleep(_LOOK_EVERY_S)

    async def look(self) -> None:
        """Learn what is open at this moment."""
        rows = await self._thread.call(self._kernel.broken_glass)
        entries = [entry for entry in await asyncio.to_thread(self._read) if entry is not None]
        found = glassbook.broken_now(rows, entries, self._now_ns(), glassbook.boot())
        if strange := [one for one in found if one.entry is None]:
            found = await self._explain(rows, strange)
        for one in found:
            if one not in self.open:
                _LOG.warning("break-glass: %s", one.words)
        for one in self.open:
            if one not in found:
                _LOG.warning("break-glass of %s is over", one.subject)
        self.open = found

    async def _explain(self, rows: Mapping[int, int], strange: Sequence[Open]) -> tuple[Open, ...]:
        """Write into the book what is open without a line there, so that the bus hears of it too; return what is open."""
        now, now_ns, boot = self._clock.now(), self._now_ns(), glassbook.boot()
        lines = [glassbook.found(one, now, now_ns, boot) for one in strange]
        try:
            await asyncio.to_thread(self._append, lines)
        except FairleadError as error:
            _LOG.warning("break-glass without a record: %s", error.message)
        entries = [entry for entry in await asyncio.to_thread(self._read) if entry is not None]
        return glassbook.broken_now(rows, entries, now_ns, boot)

    def _append(self, lines: Sequence[Entry]) -> None:
        with glassbook.writing(self._book) as fd:
            for line in lines:
                glassbook.append(fd, self._book, line)

    def condition(self) -> tuple[bool, str]:
        """Return whether no glass is broken, and which is."""
        found = [one for one in self.open if self._now_ns() < one.until_ns]
        return not found, "; ".join(one.words for one in found)

    def seconds_left(self) -> Mapping[str, float]:
        """Return how long what is open stays so, by what it is."""
        left = {one.subject: (one.until_ns - self._now_ns()) / 1e9 for one in self.open}
        return {name: seconds for name, seconds in left.items() if seconds > 0}

    async def publish(self, bus: Bus) -> None:
        """Tell the bus what the book says, each line until the bus has it, for ever; needs no kernel."""
        while True:
            try:
                await self._publish_new(bus)
            except FairleadError as error:
                _LOG.info("break-glass report is waiting: %s", error.message)
            await self._clock.sleep(_LOOK_EVERY_S)

    async def _publish_new(self, bus: Bus) -> None:
        entries = await asyncio.to_thread(self._read)
        for number in range(self._count_told(len(entries)), len(entries)):
            if (entry := entries[number]) is not None:
                await bus.publish(BREAK_GLASS_USED, self._event(entry), node=self._node)
            await asyncio.to_thread(self._told.write_text, f"{number + 1}\n")

    def _count_told(self, lines: int) -> int:
        """Return how many lines the bus has; none if the book is another one than that."""
        try:
            told = int(self._told.read_text())
        except (OSError, ValueError):
            return 0
        return told if told <= lines else 0

    def _event(self, entry: Entry) -> BreakGlassUsed:
        return BreakGlassUsed(
            node=self._node,
            endpoint=entry.endpoint,
            name=entry.name,
            time=entry.time,
            until=entry.until,
            reason=entry.reason,
            by=entry.by,
            deed=str(entry.deed),
        )

    def _read(self) -> list[Entry | None]:
        """Return the book; read again when it is another one than before."""
        try:
            status = self._book.stat()
        except FileNotFoundError:
            return []
        seen = status.st_mtime_ns, status.st_size
        if seen != self._seen:
            self._entries, self._seen = glassbook.read(self._book), seen
        return self._entries

    def _now_ns(self) -> int:
        return int(self._clock.monotonic_s() * 1e9)
