"""The service as its own process, on a real etcd and a real NATS server: kill it, take its store or its bus away, and look."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fairlead import telemetry
from fairlead.bus_nats import NatsBus
from fairlead.schema.policy import (
    APPLY,
    DELETE,
    POLICY_ROWS,
    ApplyPolicy,
    DeletePolicy,
    PolicyObject,
    PolicyReference,
    PolicyRow,
)
from tests.support.etcd import EtcdServer
from tests.support.nats import NatsServer
from tests.support.services import ServiceProcess

pytestmark = pytest.mark.connected
KIND = "CiliumNetworkPolicy"
DATABASE = "1002"


class Stack:
    """One etcd, one NATS server, one policy service."""

    def __init__(self, folder: Path) -> None:
        self.etcd = EtcdServer(folder / "etcd")
        self.nats = NatsServer(folder)
        self.etcd.start()
        self.nats.start()
        for number, name in enumerate(("employee", "protected-db", "intern"), 1001):
            self.etcd.ctl("put", f"cilium/state/identities/v1/id/{number}", f"container:app={name};")
        self.policy = ServiceProcess("policy", "p1", folder, {"NATS": self.nats.url, "ETCD": self.etcd.url})
        self.policy.start()

    def stop(self) -> None:
        self.policy.kill()
        self.nats.kill()
        self.etcd.kill()


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    stack = Stack(tmp_path_factory.mktemp("policy"))
    yield stack
    stack.stop()


@pytest.fixture
async def bus(stack: Stack) -> AsyncIterator[NatsBus]:
    bus = NatsBus(stack.nats.url, name="test")
    bus.start()
    await until(lambda: answered(bus))
    yield bus
    await bus.close()


async def answered(bus: NatsBus) -> bool:
    try:
        await bus.request(DELETE, DeletePolicy(policy=PolicyReference(kind=KIND, name="none")), timeout_s=0.5)
    except Exception:  # noqa: BLE001 - whatever it is, the stack is not ready yet
        return False
    return True


async def until(reached: Callable[[], Awaitable[bool]], timeout_s: float = 20) -> None:
    async with asyncio.timeout(timeout_s):
        while not await reached():
            await asyncio.sleep(0.02)


def document(name: str, port: int) -> PolicyObject:
    item: dict[str, Any] = {
        "fromEndpoints": [{"matchLabels": {"app": "employee"}}],
        "toPorts": [{"ports": [{"port": str(port), "protocol": "TCP"}]}],
    }
    spec = {"endpointSelector": {"matchLabels": {"app": "protected-db"}}, "ingress": [item]}
    return PolicyObject(apiVersion="cilium.io/v2", kind=KIND, metadata={"name": name}, spec=spec)


async def database(bus: NatsBus) -> PolicyRow:
    row = await bus.bucket(POLICY_ROWS).get(DATABASE)
    assert row is not None
    return row


def ports(row: PolicyRow) -> set[int]:
    return {entry.port for entry in row.entries if entry.identity == 1001}


async def test_from_commit_to_row_in_a_few_milliseconds(stack: Stack, bus: NatsBus) -> None:
    await until(lambda: _has(bus, DATABASE))
    taken: list[float] = []
    for port in range(1, 41):
        begun = time.perf_counter()
        answer = await bus.request(APPLY, ApplyPolicy(document=document("timed", port)))
        while (await database(bus)).revision < answer.revision:
            pass
        taken.append((time.perf_counter() - begun) * 1000)
        assert ports(await database(bus)) == {port}
    print(f"request to row: median {statistics.median(taken):.1f} ms, worst {max(taken):.1f} ms")
    assert statistics.median(taken) < 100
    await bus.request(DELETE, DeletePolicy(policy=PolicyReference(kind=KIND, name="timed")))


async def test_a_row_carries_the_trace_of_what_caused_it(bus: NatsBus) -> None:
    telemetry.setup("test", "t1", {})
    reference = PolicyReference(kind=KIND, name="traced")
    with telemetry.span("publish"):
        cause = telemetry.trace_id(telemetry.traceparent())
        answer = await bus.request(APPLY, ApplyPolicy(document=document("traced", 90)))
    await until(lambda: _reached(bus, answer.revision))
    assert telemetry.trace_id((await database(bus)).trace) == cause
    with telemetry.span("withdraw"):
        cause = telemetry.trace_id(telemetry.traceparent())
        answer = await bus.request(DELETE, DeletePolicy(policy=reference))
    await until(lambda: _reached(bus, answer.revision))
    assert telemetry.trace_id((await database(bus)).trace) == cause


async def test_a_killed_service_takes_up_where_it_was(stack: Stack, bus: NatsBus) -> None:
    answer = await bus.request(APPLY, ApplyPolicy(document=document("kept", 80)))
    await until(lambda: _reached(bus, answer.revision))
    before = await bus.bucket(POLICY_ROWS).rows()
    stack.policy.kill()
    stack.etcd.ctl("put", "cilium/state/identities/v1/id/1004", "container:app=employee;")
    stack.policy.start()
    await until(lambda: _has(bus, "1004"))
    after = await bus.bucket(POLICY_ROWS).rows()
    assert {key for key in before if after[key] != before[key]} == {DATABASE}
    assert after[DATABASE].revision > before[DATABASE].revision
    stack.etcd.ctl("del", "cilium/state/identities/v1/id/1004")


async def test_it_waits_for_store_and_bus(stack: Stack, bus: NatsBus) -> None:
    stack.etcd.kill()
    with pytest.raises(Exception, match=r"."):
        await bus.request(APPLY, ApplyPolicy(document=document("away", 81)), timeout_s=5)
    assert stack.policy.alive
    stack.etcd.start()
    await until(lambda: _applied(bus, document("away", 81)))
    await until(lambda: _allows(bus, 81))
    stack.nats.kill()
    stack.etcd.ctl("put", "cilium/state/identities/v1/id/1005", "container:app=employee;")
    await asyncio.sleep(0.3)
    stack.nats.start()
    await until(lambda: _has(bus, "1005"))
    assert stack.policy.alive


async def _reached(bus: NatsBus, revision: int) -> bool:
    return (await database(bus)).revision >= revision


async def _has(bus: NatsBus, key: str) -> bool:
    try:
        return key in await bus.bucket(POLICY_ROWS).rows()
    except Exception:  # noqa: BLE001 - the hub is starting
        return False


async def _applied(bus: NatsBus, wanted: PolicyObject) -> bool:
    try:
        await bus.request(APPLY, ApplyPolicy(document=wanted), timeout_s=3)
    except Exception:  # noqa: BLE001 - the store is starting
        return False
    return True


async def _allows(bus: NatsBus, port: int) -> bool:
    return port in ports(await database(bus))
