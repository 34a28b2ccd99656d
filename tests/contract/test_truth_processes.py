"""identity and ipam as real processes with a real hub and a real etcd: crash, outage, lost buckets, people with etcdctl."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

import pytest

from fairlead.address import Address, Prefix
from fairlead.bus_nats import NatsBus
from fairlead.errors import FairleadError, Unavailable
from fairlead.schema.base import NodeName
from fairlead.schema.identity import (
    ADDRESSES,
    IDENTITIES,
    PUT_WORKLOAD,
    REGISTER_ENDPOINT,
    REGISTER_NODE,
    WORKLOAD_PUBLISHED,
    EndpointRegistered,
    ExternalWorkload,
    RegisterEndpoint,
    RegisterNode,
)
from fairlead.schema.ipam import ALLOCATE, CLAIMS, AllocateAddress
from tests.support.etcd import EtcdServer, etcd
from tests.support.nats import NatsServer
from tests.support.services import ServiceProcess

__all__ = ["etcd"]
T = TypeVar("T")
pytestmark = pytest.mark.connected
N1 = NodeName("n1")


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[NatsServer]:
    server = NatsServer(tmp_path).start()
    yield server
    server.kill()


@pytest.fixture
def services(hub: NatsServer, etcd: EtcdServer, tmp_path: Path) -> Iterator[dict[str, ServiceProcess]]:
    options = {"NATS": hub.url, "ETCD": etcd.url, "ETCD_TIMEOUT_S": "1", "POOLS": "10.7.0.0/16,fd07::/64"}
    made = {
        "one": ServiceProcess("identity", "id-1", tmp_path, options),
        "two": ServiceProcess("identity", "id-2", tmp_path, options),
        "ipam": ServiceProcess("ipam", "n1", tmp_path, options),
    }
    with ExitStack() as stack:
        for process in made.values():
            stack.callback(process.kill)
            process.start()
        yield made


@pytest.fixture
async def bus(hub: NatsServer) -> AsyncIterator[NatsBus]:
    connection = NatsBus(hub.url, name="test")
    connection.start()
    yield connection
    await connection.close()


async def eventually(work: Callable[[], Awaitable[bool]], seconds: float = 10) -> None:
    """Repeat until it is true; a part that is away counts as not yet."""
    async with asyncio.timeout(seconds):
        while True:
            try:
                if await work():
                    return
            except Unavailable:
                pass
            await asyncio.sleep(0.05)


async def insist(work: Callable[[], Awaitable[T]]) -> T:
    """Repeat until nothing that is needed is away any more, and return what came."""
    answers: list[T] = []

    async def done() -> bool:
        answers.append(await work())
        return True

    await eventually(done)
    return answers[-1]


def web(number: int = 2, generation: int = 1) -> RegisterEndpoint:
    return RegisterEndpoint(
        node=N1,
        endpoint=f"web-{number}",
        addresses=(Address(f"10.7.1.{number}"),),
        labels=("app=web",),
        generation=generation,
    )


async def admitted(bus: NatsBus, prefix: str) -> bool:
    rows = await bus.bucket(ADDRESSES).rows()
    return any(entry.prefix == prefix for row in rows.values() for entry in row.entries)


async def test_the_whole_way_through_crashes_and_outages(
    services: dict[str, ServiceProcess], bus: NatsBus, etcd: EtcdServer, hub: NatsServer
) -> None:
    node = RegisterNode(node=N1, addresses=(Address("192.168.7.1"),))
    await insist(lambda: bus.request(REGISTER_NODE, node, node=N1))
    answer = await bus.request(REGISTER_ENDPOINT, web(), node=N1)
    await eventually(lambda: admitted(bus, "10.7.1.2/32"))
    row = await bus.bucket(IDENTITIES).get(str(answer.identity))
    assert row is not None
    assert row.labels == ("container:app=web",)

    # another system publishes an event, a person uses etcdctl
    machine = ExternalWorkload(
        source="cmdb", source_id="vm-1", generation=1, addresses=(Prefix("172.20.0.1/32"),), labels=("app=employee",)
    )
    await bus.publish(WORKLOAD_PUBLISHED, machine)
    await eventually(lambda: admitted(bus, "172.20.0.1/32"))
    value = json.dumps({"IP": "172.20.0.2", "Mask": None, "ID": int(answer.identity)})
    etcd.ctl("put", "cilium/state/ip/v1/default/172.20.0.2", value)
    await eventually(lambda: admitted(bus, "172.20.0.2/32"))

    await replicas_die(services, bus, answer, machine)
    await etcd_and_hub_die(services["one"], bus, etcd, hub, value)
    assert services["one"].terminate() == 0


async def replicas_die(
    services: dict[str, ServiceProcess], bus: NatsBus, answer: EndpointRegistered, machine: ExternalWorkload
) -> None:
    """One dies: the other answers; both die and return: nothing was forgotten."""
    services["one"].kill()
    again = await insist(
        lambda: bus.request(REGISTER_ENDPOINT, web(3), node=N1)
    )  # the bus may still hand a request to the dead one
    assert again.identity == answer.identity
    services["two"].kill()
    services["one"].start()
    await insist(lambda: bus.request(REGISTER_ENDPOINT, web(4), node=N1))
    assert (await insist(lambda: bus.request(PUT_WORKLOAD, machine))).changed is False


async def etcd_and_hub_die(one: ServiceProcess, bus: NatsBus, etcd: EtcdServer, hub: NatsServer, value: str) -> None:
    """Requests say so, and nothing is taken back; when they return, all goes on."""
    etcd.kill()
    with pytest.raises(FairleadError, match="etcd"):
        await bus.request(REGISTER_ENDPOINT, web(5), node=N1)
    assert await admitted(bus, "10.7.1.2/32")
    assert one.alive
    etcd.start()
    await insist(lambda: bus.request(REGISTER_ENDPOINT, web(5), node=N1))
    await eventually(lambda: admitted(bus, "10.7.1.5/32"))

    # the hub dies: what is committed meanwhile is told when it returns
    hub.kill()
    etcd.ctl("put", "cilium/state/ip/v1/default/172.20.0.3", value.replace("172.20.0.2", "172.20.0.3"))
    hub.start()
    await eventually(lambda: admitted(bus, "172.20.0.3/32"), 20)


async def test_ipam_claims_once_and_leases_without_anybody(
    services: dict[str, ServiceProcess], bus: NatsBus, etcd: EtcdServer
) -> None:
    ask = AllocateAddress(owner="web")
    await insist(lambda: bus.request(ALLOCATE, ask, node=N1))
    held = await bus.request(ALLOCATE, ask, node=N1)
    assert len(held.addresses) == 2

    async def announced() -> bool:
        return await bus.bucket(CLAIMS).get("n1") is not None

    await eventually(announced)
    claim = await bus.bucket(CLAIMS).get("n1")
    assert claim is not None
    assert all(any(address in prefix for prefix in claim.prefixes) for address in held.addresses)

    etcd.kill()
    services["ipam"].kill()
    services["ipam"].start()
    await insist(lambda: bus.request(ALLOCATE, ask, node=N1))
    assert await bus.request(ALLOCATE, ask, node=N1) == held
    assert (await bus.request(ALLOCATE, AllocateAddress(owner="db"), node=N1)).addresses != held.addresses
    assert services["ipam"].terminate() == 0


async def test_services_stay_small(services: dict[str, ServiceProcess], bus: NatsBus) -> None:
    await insist(lambda: bus.request(ALLOCATE, AllocateAddress(owner="web"), node=N1))
    for name, process in services.items():
        used = process.health()["rss_bytes"]
        assert isinstance(used, int)
        assert used < 80 * 1024 * 1024, f"{name} uses {used / 1e6:.0f} MB"
