"""One store, one hub and any number of identity replicas on them."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable

from fairlead.address import Address, Prefix
from fairlead.bus_memory import Hub, MemoryBus
from fairlead.clock import SYSTEM, Clock
from fairlead.kv import Kv, Put
from fairlead.schema.base import NodeName
from fairlead.schema.identity import AddressEntry, ExternalWorkload, RegisterEndpoint, RegisterNode, WithdrawEndpoint
from services.identity.announcer import Announcer, LeaseWatch
from services.identity.catalogue import Catalogue
from services.identity.keys import Keys
from services.identity.service import Identity

N1, N2 = NodeName("n1"), NodeName("n2")
NODE_ADDRESSES = {N1: Address("192.168.0.1"), N2: Address("192.168.0.2")}


class Replica:
    """One identity service without its process."""

    def __init__(self, kv: Kv, hub: Hub, clock: Clock = SYSTEM) -> None:
        self.kv = kv
        self.bus = MemoryBus(hub)
        self.conditions: dict[str, tuple[bool, str]] = {}
        self.keys = Keys("cilium", "default")
        self.catalogue = Catalogue(self.keys)
        self.announcer = Announcer(kv, self.bus, self.keys, self.catalogue, self.state, clock)
        self.leases = LeaseWatch(kv, self.state, clock)
        self.service = Identity(kv, self.keys, self.catalogue, clock)

    def state(self, name: str, ok: bool, detail: str = "") -> None:
        """Keep a condition."""
        self.conditions[name] = (ok, detail)

    async def put(self, key: str, value: str | bytes) -> int:
        """Write a key as etcdctl would."""
        return await self.kv.commit([], [Put(key, value.encode() if isinstance(value, str) else value)])

    def entries(self) -> dict[str, AddressEntry]:
        """Return every announced address by prefix."""
        rows = self.announcer.addresses.rows.values()
        return {entry.prefix: entry for row in rows for entry in row.entries}

    def group_of(self, prefix: str) -> str:
        """Return the group in which a prefix is announced."""
        groups = [
            key
            for key, row in self.announcer.addresses.rows.items()
            if any(entry.prefix == prefix for entry in row.entries)
        ]
        assert len(groups) == 1, f"{prefix} is in {groups}"
        return groups[0]

    async def catch_up(self) -> None:
        """Wait until everything committed so far is in the rows, and the rows are in the buckets."""
        mark = await self.put("cilium/state/mark", str(time.monotonic()))
        await until(lambda: self.announcer.follower.revision >= mark)
        for projector in (self.announcer.identities, self.announcer.addresses, self.announcer.nodes):
            await asyncio.wait_for(projector.flushed(), 5)

    async def run(self) -> None:
        """Follow and announce for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.announcer.follower.run())
            group.create_task(self.announcer.identities.run())
            group.create_task(self.announcer.addresses.run())
            group.create_task(self.announcer.nodes.run())
            group.create_task(self.leases.follower.run())


@contextlib.asynccontextmanager
async def running(kv: Kv, hub: Hub, clock: Clock = SYSTEM) -> AsyncIterator[Replica]:
    """Run a replica that has read the store."""
    replica = Replica(kv, hub, clock)
    task = asyncio.create_task(replica.run())
    try:
        await until(lambda: replica.catalogue.complete)
        yield replica
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(true: Callable[[], bool], seconds: float = 5) -> None:
    """Wait until something is true."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"not so within {seconds} s"
        await asyncio.sleep(0.002)


async def register_nodes(replica: Replica) -> None:
    """Make both nodes known."""
    for node, address in NODE_ADDRESSES.items():
        await replica.service.register_node(RegisterNode(node=node, addresses=(address,)))
    await replica.catch_up()


def endpoint(name: str = "web", node: NodeName = N1, generation: int = 1, **more: object) -> RegisterEndpoint:
    """Return an endpoint of a node."""
    given: dict[str, object] = {"addresses": (Address("10.0.1.2"), Address("fd00:1::2")), "labels": ("app=web",)}
    return RegisterEndpoint(node=node, endpoint=name, generation=generation, **{**given, **more})  # type: ignore[arg-type]  # the tests pass right fields


def gone(name: str = "web", node: NodeName = N1, generation: int = 1) -> WithdrawEndpoint:
    """Return the end of the endpoint."""
    return WithdrawEndpoint(
        node=node, endpoint=name, generation=generation, addresses=(Address("10.0.1.2"), Address("fd00:1::2"))
    )


def machine(generation: int = 1, **more: object) -> ExternalWorkload:
    """Return an external workload."""
    given: dict[str, object] = {
        "source": "cmdb",
        "source_id": "vm-1",
        "addresses": (Prefix("10.9.0.1/32"),),
        "labels": ("app=employee",),
    }
    return ExternalWorkload(generation=generation, **{**given, **more})  # type: ignore[arg-type]  # the tests pass right fields
