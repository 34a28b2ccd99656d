"""The kernel thread: every change of the kernel happens in it, one after the other, while the event loop stays free."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class KernelThread:
    """One thread, and a queue before it."""

    def __init__(self, name: str = "kernel") -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)

    async def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `function` in the thread, after everything that was asked for before."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, lambda: function(*args, **kwargs))

    def close(self) -> None:
        """Finish what runs, drop what waits, end the thread."""
        self._executor.shutdown(wait=True, cancel_futures=True)
