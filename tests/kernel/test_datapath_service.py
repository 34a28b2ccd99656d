"""The datapath service on the real kernel: the stories that only real packets can tell."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from fairlead.address import Address
from fairlead.bus_memory import Hub, MemoryBus
from fairlead.clock import SystemClock
from fairlead.schema import flow
from fairlead.schema.datapath import AttachEndpoint, EndpointState, EndpointStatus
from services.datapath.operations import PolicyKey, PolicyValue
from services.datapath.service import Datapath
from services.datapath.settings import DatapathSettings
from services.datapath.store import Store
from tests.support import kernels
from tests.support.kernels import Bench
from tests.unit.datapath.world import NODE, Control, entry, until

pytestmark = pytest.mark.kernel
TCP, EGRESS = 6, 1


@pytest.fixture
def bench() -> Iterator[Bench]:
    yield from kernels.bench("linux")


class Process:
    """One life of the service."""

    def __init__(self, folder: Path, hub: Hub, bench: Bench) -> None:
        settings = DatapathSettings(node=NODE, reconcile_s=600)
        self.conditions: dict[str, str] = {}
        self.bench = bench
        self.datapath = Datapath(
            bench.kernel, MemoryBus(hub), Store(folder), settings, SystemClock(), self._report, addresses=()
        )
        self._tasks: list[asyncio.Task[None]] = []

    def _report(self, name: str, ok: bool, detail: str) -> None:
        self.conditions[name] = "" if ok else detail

    async def start(self) -> Process:
        await self.datapath.begin()
        self._tasks = [asyncio.ensure_future(work()) for work in self.datapath.tasks().values()]
        return self

    async def end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.datapath.close()

    async def attach(self, name: str, address: str, label: str) -> EndpointStatus:
        netns = self.bench.namespace(name)
        ask = AttachEndpoint(name=name, netns=netns, addresses=(Address(address),), labels=(label,), wait_s=60)
        return await self.datapath.attach(ask)

    async def connects(self, source: tuple[str, str], destination: tuple[str, str], port: int) -> bool:
        ends = [(self.bench.namespace(name), Address(address)) for name, address in (source, destination)]
        return await asyncio.to_thread(self.bench.connects, ends[0], ends[1], port)


async def test_policy_outage_restart_and_emergency_with_real_packets(bench: Bench, tmp_path: Path) -> None:
    hub = Hub()
    control = Control(hub)
    await control.start()
    employee, intern, db = ends = ("employee", "10.77.0.2"), ("intern", "10.77.0.3"), ("db", "10.77.0.4")
    first = await Process(tmp_path, hub, bench).start()
    states = [(await first.attach(name, address, f"app={name}")).state for name, address in ends]
    assert set(states) == {EndpointState.READY}
    assert await first.connects(intern, db, 6379)
    number, friend = control.numbers[("container:app=db",)], control.numbers[("container:app=employee",)]
    revision = await control.policy(
        number, [entry(0, friend, TCP, 6379), entry(EGRESS)], origins=("default/db",), ingress_default_deny=(0,)
    )
    await until(lambda: first.datapath.node.endpoints.status(3).policy_revision == revision)
    assert await first.connects(employee, db, 6379)
    assert not await first.connects(employee, db, 22)
    assert not await first.connects(intern, db, 6379)
    await until(lambda: any("default/db" in flow.explanation for flow in _flows(first)))

    hub.up = False
    await first.end()
    bench.again().start()  # somebody with bpftool: the service is dead, the emergency is now
    bench.kernel.apply_policy(3, {PolicyKey(0, 0, 0, 0): PolicyValue()}, ())
    assert await first.connects(intern, db, 6379)
    bench.again()
    second = await Process(tmp_path, hub, bench).start()
    await until(lambda: "ingress allow any peer any port" in second.conditions.get("breakglass", ""), within_s=10)
    await until(lambda: second.datapath.node.endpoints.status(3).state is EndpointState.READY)
    assert not await second.connects(intern, db, 6379)
    assert await second.connects(employee, db, 6379)
    late = await second.attach("employee-2", "10.77.0.5", "app=employee")
    assert late.state is EndpointState.READY
    assert await second.connects(("employee-2", "10.77.0.5"), db, 6379)
    unknown = await asyncio.wait_for(_attach_briefly(second), 2)
    assert unknown.state is EndpointState.WAITING_FOR_IDENTITY
    assert not await second.connects(("new", "10.77.0.6"), employee, 80)
    hub.up = True
    await until(lambda: second.datapath.node.endpoints.status(5).state is EndpointState.READY, within_s=15)
    assert await second.connects(("new", "10.77.0.6"), employee, 80)
    await second.end()


async def _attach_briefly(process: Process) -> EndpointStatus:
    netns = process.bench.namespace("new")
    ask = AttachEndpoint(name="new", netns=netns, addresses=(Address("10.77.0.6"),), labels=("app=new",), wait_s=0.5)
    return await process.datapath.attach(ask)


def _flows(process: Process) -> tuple[flow.Flow, ...]:
    return process.datapath.flows.query(NODE, flow.FlowQuery(verdict="DROPPED")).flows
