"""A thread that lives in another network namespace: what runs on its event loop opens its sockets there."""

from __future__ import annotations

import asyncio
import ctypes
import os
import threading
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

from fairlead.bus_nats import NatsBus
from tests.lab.credentials import DOMAIN
from tests.lab.network import LabError

T = TypeVar("T")
_CLONE_NEWNET = 0x40000000
_STOP_S = 5.0


class Resident:
    """Runs coroutines inside the namespace at `path`, with one connection to the bus there."""

    def __init__(self, path: str, environment: Mapping[str, str]) -> None:
        self._path = path
        self._environment = environment
        self._bus: NatsBus | None = None
        self._loop = asyncio.new_event_loop()
        self._moved = threading.Event()
        self._error = ""
        self._thread = threading.Thread(target=self._live, name=f"resident {path}", daemon=True)
        self._thread.start()
        self._moved.wait()
        if self._error:
            raise LabError(self._error)

    async def run(self, work: Callable[[], Awaitable[T]]) -> T:
        """Return what the coroutine function `work` returns when it runs inside."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(_call(work), self._loop))

    async def ask(self, work: Callable[[NatsBus], Awaitable[T]]) -> T:
        """Return what `work` returns when it is given this namespace's bus."""
        return await self.run(lambda: self._with_bus(work))

    async def close(self) -> None:
        """Disconnect, and end the thread."""
        if self._bus is not None:
            await self.run(self._bus.close)
        self._loop.call_soon_threadsafe(self._loop.stop)
        await asyncio.to_thread(self._thread.join, _STOP_S)

    async def _with_bus(self, work: Callable[[NatsBus], Awaitable[T]]) -> T:
        if self._bus is None:
            told = self._environment
            self._bus = NatsBus(
                told["FAIRLEAD_NATS"],
                name="lab",
                domain=DOMAIN,
                seed_file=told["FAIRLEAD_NATS_CREDENTIALS"],
                authority=told["FAIRLEAD_NATS_AUTHORITY"],
            )
            self._bus.start()
        return await work(self._bus)

    def _live(self) -> None:
        try:
            descriptor = os.open(self._path, os.O_RDONLY)
            failed = ctypes.CDLL(None, use_errno=True).setns(descriptor, _CLONE_NEWNET) != 0
            self._error = f"setns {self._path}: {os.strerror(ctypes.get_errno())}" if failed else ""
            os.close(descriptor)
        except OSError as error:
            self._error = f"{self._path}: {error}"
        self._moved.set()
        if not self._error:
            asyncio.set_event_loop(self._loop)
            self._loop.run_forever()
        self._loop.close()


async def _call(work: Callable[[], Awaitable[T]]) -> T:
    return await work()
