"""Waiting for the world: ask until it is as wanted or time is up, never a bare sleep."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Seen(Generic[T]):
    """The last observation, whether it was as wanted, and how long that took."""

    value: T
    ok: bool
    elapsed_ms: float
    at_s: float = 0.0
    """When it was seen, by CLOCK_MONOTONIC."""


async def until(
    observe: Callable[[], Awaitable[T]], wanted: Callable[[T], bool], *, within_s: float, every_s: float = 0.02
) -> Seen[T]:
    """Observe until it is as wanted or `within_s` is over; return the last observation either way."""
    began = time.monotonic()
    while True:
        value = await observe()
        elapsed_s = time.monotonic() - began
        if wanted(value) or elapsed_s > within_s:
            return Seen(value, wanted(value), elapsed_s * 1000, began + elapsed_s)
        await asyncio.sleep(every_s)
