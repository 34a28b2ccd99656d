"""Two participants of a bus for tests: of the real one, and of its twin in memory."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from fairlead.bus import Bus
from fairlead.bus_memory import Hub, MemoryBus
from fairlead.bus_nats import connect
from fairlead.errors import Unavailable
from fairlead.schema.ipam import CLAIMS
from tests.support.nats import NatsServer


@contextlib.asynccontextmanager
async def two(kind: str, tmp_path: Path) -> AsyncIterator[tuple[Bus, Bus]]:
    """Give two participants of a bus of that kind; of the real one the second sits behind a leaf."""
    if kind == "memory":
        hub = Hub()
        yield MemoryBus(hub, "a"), MemoryBus(hub, "b")
        return
    server = NatsServer(tmp_path).start()
    leaf = NatsServer(tmp_path, "leaf", server).start()
    try:
        async with connect(server.url, name="a") as first, connect(leaf.url, name="b", domain="hub") as second:
            await until_joined(second)
            yield first, second
    finally:
        leaf.kill()
        server.kill()


async def until_joined(bus: Bus) -> None:
    """Wait until the leaf reaches the hub."""
    async with asyncio.timeout(10):
        while True:
            try:
                await bus.bucket(CLAIMS).ensure()
            except Unavailable:
                await asyncio.sleep(0.05)
            else:
                return
