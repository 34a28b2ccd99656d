"""The service on a store and a bus in memory, ready to be started, stopped and asked."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from fairlead.address import Address, Prefix
from fairlead.bus_memory import Hub, MemoryBus
from fairlead.clock import SYSTEM
from fairlead.kv import Put
from fairlead.kv_memory import MemoryKv
from fairlead.schema.base import IdentityId, NodeName
from fairlead.schema.datapath import REALISED, RealisedRow
from fairlead.schema.identity import ADDRESSES, AddressEntry, AddressGroup
from fairlead.schema.policy import (
    CIDRS,
    POLICY_ROWS,
    CidrRows,
    PolicyObject,
    PolicyRow,
)
from services.policy.__main__ import compose
from services.policy.owned import OwnedPolicies
from services.policy.settings import PolicySettings

IDENTITIES = "cilium/state/identities/v1/id/"
EMPLOYEE, DATABASE, INTERN = 1001, 1002, 1003
Rows = dict[str, PolicyRow]


def seed(port: str = "6379") -> PolicyObject:
    return PolicyObject(
        apiVersion="cilium.io/v2",
        kind="CiliumNetworkPolicy",
        metadata={"name": "clustermesh-ingress-l4-policy"},
        spec={
            "endpointSelector": {"matchLabels": {"app": "protected-db"}},
            "ingress": [
                {
                    "fromEndpoints": [{"matchLabels": {"app": "employee"}}],
                    "toPorts": [{"ports": [{"port": port, "protocol": "TCP"}]}],
                }
            ],
        },
    )


def clusterwide(name: str, **spec: Any) -> PolicyObject:
    return PolicyObject(
        apiVersion="cilium.io/v2",
        kind="CiliumClusterwideNetworkPolicy",
        metadata={"name": name},
        spec={"endpointSelector": {}, **spec},
    )


class World:
    """One store and one hub; services come and go."""

    def __init__(self) -> None:
        self.kv = MemoryKv()
        self.hub = Hub()
        self.bus = MemoryBus(self.hub, "test")
        self.conditions: dict[str, tuple[bool, str]] = {}
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self, **options: Any) -> None:
        settings = PolicySettings(node="p1", prefix_grace_s=options.pop("grace_s", 30.0), **options)
        bus = MemoryBus(self.hub, "policy")
        service, work = compose(settings, self.kv, bus, SYSTEM, self._report)
        self.service = service
        self._tasks = [asyncio.create_task(_forever(run)) for run in work.values()]
        await bus.serve("policy", (*service.routes(), *OwnedPolicies(service).routes()))

    def _report(self, name: str, ok: bool, detail: str) -> None:
        self.conditions[name] = (ok, detail)

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.hub.routes.clear()

    async def identity(self, number: int, labels: str) -> None:
        await self.kv.commit([], [Put(f"{IDENTITIES}{number}", labels.encode())])

    async def rows(self) -> Rows:
        return await self.bus.bucket(POLICY_ROWS).rows()

    async def cidrs(self) -> CidrRows:
        return (await self.bus.bucket(CIDRS).rows()).get("all", CidrRows())

    async def until(self, reached: Callable[[Rows], bool]) -> Rows:
        async with asyncio.timeout(5):
            while not reached(rows := await self.rows()):
                await asyncio.sleep(0.005)
        return rows

    async def host(self, node: str, *identities: int) -> None:
        entries = tuple(
            AddressEntry(
                prefix=Prefix(f"10.0.0.{number % 250}/32"), identity=IdentityId(number), host=Address("192.0.2.1")
            )
            for number in identities
        )
        bucket = self.bus.bucket(ADDRESSES)
        await bucket.ensure()
        await bucket.put(node, AddressGroup(group=node, entries=entries))
        await bucket.mark_complete(1)

    async def confirm(self, node: str, rows: dict[int, int], failed: dict[int, str] | None = None) -> None:
        bucket = self.bus.bucket(REALISED)
        await bucket.ensure()
        said = {str(number): revision for number, revision in rows.items()}
        problems = {str(number): text for number, text in (failed or {}).items()}
        await bucket.put(node, RealisedRow(node=NodeName(node), rows=said, failed=problems))


async def _forever(run: Callable[[], Awaitable[None]]) -> None:
    await run()


def by_number(rows: Rows) -> dict[int, PolicyRow]:
    return {int(key): row for key, row in rows.items()}
