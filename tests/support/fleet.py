"""A small fleet on which only holders of credentials speak: a hub, two nodes, and everybody connected with a key of their own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from fairlead.bus_nats import NatsBus
from fairlead.errors import FairleadError
from fairlead.schema.datapath import REALISED
from fairlead.schema.identity import NODES
from fairlead.schema.policy import POLICY_ROWS
from tests.support.secured import SecuredBus


class Fleet:
    """A hub, two nodes, and everybody connected with a credential of their own."""

    def __init__(self, servers: SecuredBus, stack: AsyncExitStack) -> None:
        self.servers = servers
        self._stack = stack

    async def at_hub(self, name: str) -> NatsBus:
        return await self._join(self.servers.at_hub(name))

    async def at_node(self, node: str, who: str) -> NatsBus:
        return await self._join(self.servers.at_node(node, who))

    async def _join(self, bus: NatsBus) -> NatsBus:
        bus.start()
        self._stack.push_async_callback(bus.close)
        await bus.client(5.0)
        return bus


@asynccontextmanager
async def new_fleet(folder: Path, *issued: tuple[str, ...]) -> AsyncIterator[Fleet]:
    """Start it, with credentials for these beside the nodes n1 and n2."""
    servers = SecuredBus(folder)
    for words in (("node", "n1"), ("node", "n2"), *issued):
        assert servers.command("issue", *words) == 0
    try:
        servers.start_hub()
        for node in ("n1", "n2"):
            servers.start_leaf(node)
        async with AsyncExitStack() as stack:
            made = Fleet(servers, stack)
            await (await made.at_hub("identity-1")).bucket(NODES).ensure()
            await (await made.at_hub("policy-1")).bucket(POLICY_ROWS).ensure()
            for node in ("n1", "n2"):
                joined = await made.at_node(node, "datapath")
                await until(joined.bucket(REALISED).ensure)
            yield made
    finally:
        servers.stop()


async def until(work: Callable[[], Awaitable[object]]) -> None:
    """Do the work again and again until it succeeds."""
    async with asyncio.timeout(15):
        while await refused(work()):
            await asyncio.sleep(0.05)


async def refused(work: Awaitable[object]) -> bool:
    """Tell whether what is tried comes to nothing."""
    try:
        async with asyncio.timeout(4):
            await work
    except (FairleadError, TimeoutError):
        return True
    return False
