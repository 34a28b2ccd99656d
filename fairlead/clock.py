"""The only home of time: everything else takes a `Clock`, so that tests decide what time it is."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Tells the time and waits."""

    def now(self) -> datetime:
        """Return the wall clock time, aware, in UTC."""

    def monotonic_s(self) -> float:
        """Return seconds that never run backwards; the origin means nothing."""

    async def sleep(self, seconds: float) -> None:
        """Wait without blocking others."""


class SystemClock:
    """The machine's own clock."""

    def now(self) -> datetime:
        """Return the wall clock time, aware, in UTC."""
        return datetime.now(UTC)

    def monotonic_s(self) -> float:
        """Return CLOCK_MONOTONIC in seconds."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait without blocking others."""
        await asyncio.sleep(seconds)


class ManualClock:
    """A clock that a test moves by hand; sleeping moves it forward at once."""

    def __init__(self, start: datetime | None = None) -> None:
        self._now = start or datetime(2026, 1, 1, tzinfo=UTC)
        self._monotonic_s = 0.0

    def now(self) -> datetime:
        """Return the time the test has set."""
        return self._now

    def monotonic_s(self) -> float:
        """Return the seconds that the test has let pass."""
        return self._monotonic_s

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass."""
        from datetime import timedelta  # noqa: PLC0415 - only tests come here

        self._now += timedelta(seconds=seconds)
        self._monotonic_s += seconds

    async def sleep(self, seconds: float) -> None:
        """Let `seconds` pass at once, and give others their turn."""
        self.advance(seconds)
        await asyncio.sleep(0)


SYSTEM = SystemClock()
