"""A node on a kernel in dicts and a bus in memory, with the least of a control plane beside it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path
from random import Random
from typing import Any

from fairlead import codec
from fairlead.address import Address, Prefix
from fairlead.bus import ANY_NODE, Bus, route
from fairlead.bus_memory import Hub, MemoryBus
from fairlead.clock import SystemClock
from fairlead.schema import datapath as topics
from fairlead.schema.base import BucketSpec, IdentityId, NodeName
from fairlead.schema.datapath import AttachEndpoint, EndpointStatus
from fairlead.schema.identity import (
    ADDRESSES,
    IDENTITIES,
    NODES,
    REGISTER_ENDPOINT,
    REGISTER_NODE,
    WITHDRAW_ENDPOINT,
    AddressEntry,
    AddressGroup,
    Committed,
    EndpointRegistered,
    IdentityRow,
    RegisterEndpoint,
    RegisterNode,
    WithdrawEndpoint,
)
from fairlead.schema.ipam import CLAIMS, Claim
from fairlead.schema.policy import CIDRS, POLICY_ROWS, CidrRow, CidrRows, Direction, PolicyEntry, PolicyRow
from services.datapath.kernel.fake import FakeKernel
from services.datapath.kernel.fake_world import FakeWorld
from services.datapath.service import Datapath
from services.datapath.settings import DatapathSettings
from services.datapath.store import Store

NODE = NodeName("n1")
HOST_ADDRESS = Address("192.0.2.1")


def entry(direction: int, identity: int = 0, protocol: int = 0, port: int = 0, **more: Any) -> PolicyEntry:
    """Return a line of a policy row; more: end_port, deny, precedence, origins."""
    peer = IdentityId(identity)
    return PolicyEntry(direction=Direction(direction), identity=peer, protocol=protocol, port=port, **more)


class Control:
    """Identity, ipam and policy, as far as a node sees them."""

    def __init__(self, hub: Hub, bus: Bus | None = None) -> None:
        self.bus: Bus = bus or MemoryBus(hub)
        self.revision = 100
        self.numbers: dict[tuple[str, ...], int] = {}
        self.registered: list[RegisterEndpoint] = []
        self.withdrawn: list[WithdrawEndpoint] = []
        self.nodes: list[RegisterNode] = []
        self.default_policy = True
        """Whether a new identity gets a row that allows everything."""

    async def start(self) -> None:
        specs: tuple[BucketSpec[Any], ...] = (IDENTITIES, POLICY_ROWS, ADDRESSES, NODES, CIDRS, CLAIMS)
        for spec in specs:
            bucket = self.bus.bucket(spec)
            await bucket.ensure()
            await bucket.mark_complete(1)
        routes = (
            route(REGISTER_ENDPOINT, self._register, ANY_NODE),
            route(WITHDRAW_ENDPOINT, self._withdraw, ANY_NODE),
            route(REGISTER_NODE, self._node, ANY_NODE),
        )
        await self.bus.serve("identity", routes)

    async def _register(self, ask: RegisterEndpoint) -> EndpointRegistered:
        self.registered.append(ask)
        number = await self.identity(ask.labels)
        return EndpointRegistered(identity=IdentityId(number), labels=ask.labels, revision=self.revision)

    async def _withdraw(self, ask: WithdrawEndpoint) -> Committed:
        self.withdrawn.append(ask)
        return Committed(revision=self._next())

    async def _node(self, ask: RegisterNode) -> Committed:
        self.nodes.append(ask)
        return Committed(revision=self._next())

    def _next(self) -> int:
        self.revision += 1
        return self.revision

    async def identity(self, labels: Iterable[str]) -> int:
        """Have a number for the label set, on the bus, with a policy row if that is the default."""
        key = tuple(labels)
        if key not in self.numbers:
            number = self.numbers[key] = 1000 + len(self.numbers)
            row = IdentityRow(identity=IdentityId(number), labels=key, revision=self._next())
            await self.bus.bucket(IDENTITIES).put(str(number), row)
            if self.default_policy:
                await self.allow_all(number)
        return self.numbers[key]

    async def allow_all(self, identity: int) -> int:
        return await self.policy(identity, [entry(0), entry(1)])

    async def policy(self, identity: int, entries: Iterable[PolicyEntry], **more: object) -> int:
        row = PolicyRow(identity=identity, entries=tuple(entries), revision=self._next(), **more)  # type: ignore[arg-type] # merged
        await self.bus.bucket(POLICY_ROWS).put(str(identity), row)
        return row.revision

    async def group(self, name: str, addresses: dict[str, int], revision: int = 0) -> None:
        entries = tuple(
            AddressEntry(prefix=Prefix(text), identity=IdentityId(number)) for text, number in addresses.items()
        )
        row = AddressGroup(group=name, entries=entries, revision=revision or self._next())
        await self.bus.bucket(ADDRESSES).put(name, row)

    async def cidrs(self, prefixes: dict[str, int]) -> None:
        rows = tuple(CidrRow(prefix=prefix, identity=IdentityId(number)) for prefix, number in prefixes.items())
        await self.bus.bucket(CIDRS).put("all", CidrRows(rows=rows, revision=self._next()))

    async def claim(self, *prefixes: str) -> None:
        row = Claim(node=NODE, prefixes=tuple(map(Prefix, prefixes)), revision=self._next())
        await self.bus.bucket(CLAIMS).put(NODE, row)


class TestNode:
    """One node: restartable, with its folder and its kernel."""

    __test__ = False

    def __init__(self, folder: Path, hub: Hub, world: FakeWorld | None = None, **settings: object) -> None:
        self.folder = folder
        self.hub = hub
        self.bus = MemoryBus(hub)
        self.kernel = FakeKernel(world)
        self.world = self.kernel.world
        self.conditions: dict[str, tuple[bool, str]] = {}
        self._overlay: Any = settings.pop("overlay", None)
        self._settings = DatapathSettings(node=NODE, **({"reconcile_s": 600.0} | settings))  # type: ignore[arg-type] # merged
        self._tasks: list[asyncio.Task[None]] = []

    def _report(self, name: str, ok: bool, detail: str) -> None:
        self.conditions[name] = (ok, detail)

    async def start(self) -> None:
        self.datapath = Datapath(
            self.kernel,
            self.bus,
            Store(self.folder),
            self._settings,
            SystemClock(),
            self._report,
            addresses=(HOST_ADDRESS,),
            random=Random(1),
            overlay=self._overlay,
        )
        await self.datapath.begin()
        self._tasks = [asyncio.create_task(self._run(work)) for work in self.datapath.tasks().values()]

    async def _run(self, work: Callable[[], object]) -> None:
        await work()  # type: ignore[misc] # coroutine functions

    async def stop(self) -> None:
        """End the process; its kernel stays."""
        for task in self._tasks:
            task.cancel()
        results = await asyncio.gather(*self._tasks, return_exceptions=True)
        failures = [result for result in results if isinstance(result, Exception)]
        self.datapath.close()
        assert not failures, failures

    async def restart(self) -> None:
        await self.stop()
        self.kernel = FakeKernel(self.world)
        await self.start()

    async def attach(
        self, name: str, address: str = "10.0.0.2", labels: tuple[str, ...] = ("app=web",), **more: object
    ) -> EndpointStatus:
        addresses = tuple(Address(text) for text in address.split(","))
        ask = {"name": name, "netns": f"/run/netns/{name}", "addresses": addresses, "labels": labels, "wait_s": 3.0}
        return await self.datapath.attach(AttachEndpoint(**(ask | more)))  # type: ignore[arg-type] # merged

    async def detach(self, name: str) -> bool:
        return (await self.datapath.detach(topics.DetachEndpoint(name=name))).removed

    def status(self, name: str) -> EndpointStatus:
        record = self.datapath.node.endpoints.find(name)
        assert record is not None
        return self.datapath.node.endpoints.status(record.endpoint)

    def realised(self) -> topics.RealisedRow:
        """Return the node's row as it stands on the bus."""
        data = self.hub.tables.get("realised", {}).get(NODE)
        return codec.decode(data, topics.RealisedRow) if data else topics.RealisedRow(node=NODE, rows={})


async def until(condition: Callable[[], object], what: str = "", within_s: float = 5.0) -> None:
    """Wait for the world to become so."""
    try:
        async with asyncio.timeout(within_s):
            while not condition():
                await asyncio.sleep(0.002)
    except TimeoutError:
        raise AssertionError(f"did not happen within {within_s} s: {what or condition}") from None
