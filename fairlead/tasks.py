"""Cancelling, so that it is obeyed.

Before Python 3.12 `asyncio.wait_for` loses a cancellation that comes in the same turn of the loop as the result
(https://github.com/python/cpython/issues/86296), and libraries use it. What was cancelled then goes on for ever, and whoever waits
for its end waits for ever too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

T = TypeVar("T")

_AGAIN_S = 2.0
"""Long enough for what a task does at its end, which a second cancellation would cut short."""


async def attentive(work: Awaitable[T]) -> T:
    """Await `work`; raises CancelledError also when the cancellation was lost within it."""
    task = asyncio.current_task()
    before = task.cancelling() if task else 0
    try:
        return await work
    finally:
        if task and task.cancelling() > before:
            raise asyncio.CancelledError


async def stop(*tasks: asyncio.Task[Any] | asyncio.Future[Any]) -> None:
    """Cancel tasks, as often as it takes, and return when they have ended; how they ended is nobody's concern."""
    going = {task for task in tasks if not task.done()}
    while going:
        for task in going:
            task.cancel()
        _, going = await asyncio.wait(going, timeout=_AGAIN_S)
    for task in tasks:
        if not task.cancelled():
            task.exception()  # looked at: else the loop complains of it
