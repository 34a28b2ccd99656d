"""A host policy from the bus to the kernel and back, by the service, on the real kernel, with real packets."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from fairlead.bus_memory import Hub
from fairlead.schema.identity import HOST
from fairlead.schema.policy import HOST_ROWS, POLICY_ROWS, PolicyEntry, PolicyRow
from services.datapath.failsafe import HOST_ENDPOINT
from tests.kernel.test_datapath_service import Process
from tests.support import kernels
from tests.support.kernels import Bench
from tests.unit.datapath.world import NODE, Control, entry, until

pytestmark = pytest.mark.kernel

TCP, INGRESS, EGRESS = 6, 0, 1
KEY = f"{HOST_ROWS}{NODE}"
ADDRESS = "10.99.0.1"


@pytest.fixture
def bench() -> Iterator[Bench]:
    for made in kernels.bench("linux"):
        node = made.namespace("node")
        subprocess.run(
            ["nsenter", f"--net={node}", "ip", "address", "add", f"{ADDRESS}/32", "dev", "lo", "scope", "global"],
            check=True,
        )
        yield made


async def announce(control: Control, *entries: PolicyEntry, closed: bool) -> int:
    """Announce the node's row; `closed`: what it does not allow to come in is denied."""
    control.revision += 1
    more = {"origins": ("ops",), "ingress_default_deny": (0,)} if closed else {}
    row = PolicyRow(identity=HOST, entries=(*entries, entry(EGRESS)), revision=control.revision, **more)  # type: ignore[arg-type] # merged
    await control.bus.bucket(POLICY_ROWS).put(KEY, row)
    return control.revision


async def stands(process: Process, revision: int) -> None:
    host = process.datapath.node.host
    await until(lambda: host.standing is not None and host.standing.revision == revision, within_s=20)


async def test_a_host_policy_comes_stays_through_an_outage_and_goes(bench: Bench, tmp_path: Path) -> None:
    hub = Hub()
    control = Control(hub)
    await control.start()
    await control.claim("10.77.0.0/24")
    await control.group("nodes", {f"{ADDRESS}/32": int(HOST)})
    pod, node = ("pod", "10.77.0.2"), ("node", ADDRESS)
    first = await Process(tmp_path, hub, bench).start()
    status = await first.attach(*pod, "app=pod")
    addresses = first.datapath.node.addresses.table
    await until(lambda: addresses.desired() and not addresses.due(0.0), within_s=20)
    assert await first.connects(pod, node, 5432)
    assert bench.kernel.host() is None

    await stands(first, await announce(control, entry(INGRESS, status.identity, TCP, 8080), closed=True))
    assert await first.connects(pod, node, 8080)
    assert await first.connects(pod, node, 22)
    assert not await first.connects(pod, node, 5432)
    assert await first.connects(node, pod, 80)
    assert (await first.datapath.questions.verify(None)).differences == ()  # type: ignore[arg-type] # it is not looked at

    hub.up = False
    await first.end()
    bench.again()
    second = await Process(tmp_path, hub, bench).start()
    await until(lambda: second.datapath.node.host.looked_at, within_s=20)
    assert not await second.connects(pod, node, 5432)
    assert await second.connects(pod, node, 8080)

    hub.up = True
    await stands(second, await announce(control, entry(INGRESS), closed=False))
    assert await second.connects(pod, node, 5432)
    assert bench.kernel.host() is None
    assert bench.kernel.policy(HOST_ENDPOINT) == {}
    await second.end()
