"""Credentials on real servers: everybody can do their work, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from nats.aio.msg import Msg

from fairlead.address import Address, Prefix
from fairlead.bus import ANY_NODE, Changed, route
from fairlead.bus_nats import NatsBus
from fairlead.schema.admission import START_NOW, StartNow
from fairlead.schema.base import Empty, IdentityId, NodeName
from fairlead.schema.datapath import ENDPOINTS, REALISED, EndpointList, RealisedRow
from fairlead.schema.flow import FLOW_SEEN, Flow, FlowEnd, Verdict
from fairlead.schema.health import HEALTH
from fairlead.schema.identity import (
    NODES,
    PUT_WORKLOAD,
    REGISTER_NODE,
    WORKLOAD_PUBLISHED,
    Committed,
    ExternalWorkload,
    NodeRow,
    RegisterNode,
)
from fairlead.schema.policy import FORCE_APPLY, POLICY_ROWS, ApplyPolicy, PolicyObject, PolicyRow
from services.waiting import Waiting
from tests.support.fleet import Fleet, new_fleet, refused, until

pytestmark = pytest.mark.connected

N1, N2, N9 = NodeName("n1"), NodeName("n2"), NodeName("n9")
MACHINE = ExternalWorkload(
    source="cmdb", source_id="vm-1", generation=1, addresses=(Prefix("192.0.2.9/32"),), labels=("app=web",)
)
FLOW = Flow(
    uuid="1",
    time=datetime(2026, 1, 1, tzinfo=UTC),
    node_name=N1,
    verdict=Verdict.DROPPED,
    traffic_direction="INGRESS",
    protocol="TCP",
    source=FlowEnd(address=Address("192.0.2.1")),
    destination=FlowEnd(address=Address("192.0.2.2")),
)


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Fleet]:
    async with new_fleet(tmp_path, ("system", "cmdb", "--may", "workloads")) as made:
        yield made


def facts(node: NodeName) -> RegisterNode:
    return RegisterNode(node=node, addresses=(Address("192.0.2.1"),))


async def committed(_ask: object) -> Committed:
    return Committed(revision=5)


async def test_a_node_states_and_hears_what_is_its_own(fleet: Fleet) -> None:
    identity = await fleet.at_hub("identity-1")
    await identity.serve("identity", [route(REGISTER_NODE, committed, ANY_NODE)])
    datapath = await fleet.at_node("n1", "datapath")
    await until(lambda: datapath.request(REGISTER_NODE, facts(N1), node=N1))
    await datapath.bucket(REALISED).put("n1", RealisedRow(node=N1, rows={"7": 3}, revision=1))
    await identity.bucket(NODES).put("n9", NodeRow(node=N9, addresses=(), revision=1))
    async with asyncio.timeout(10):
        async for event in datapath.bucket(NODES).watch():
            if isinstance(event, Changed):
                assert event.key == "n9"
                break
    operator = await fleet.at_hub("operator")
    assert (await operator.bucket(REALISED).rows())["n1"].rows == {"7": 3}


async def test_an_operator_and_the_nodes_clients_are_answered(fleet: Fleet) -> None:
    datapath = await fleet.at_node("n1", "datapath")

    async def endpoints(_ask: Empty) -> EndpointList:
        return EndpointList(node=N1, endpoints=())

    await datapath.serve("datapath", [route(ENDPOINTS, endpoints, N1)])
    operator = await fleet.at_hub("operator")
    await until(lambda: operator.request(ENDPOINTS, Empty(), node=N1, timeout_s=1))
    client = await fleet.at_node("n1", "client")
    assert (await client.request(ENDPOINTS, Empty(), node=N1)).node == N1


async def test_an_operator_ends_waits_and_nobody_else_does(fleet: Fleet) -> None:
    waiting = Waiting("n1", "ipam", datetime(2026, 1, 1, tzinfo=UTC), "its place in the window")
    ipam, operator = await fleet.at_node("n1", "ipam"), await fleet.at_hub("operator")
    await ipam.serve("ipam", [route(START_NOW, waiting.start_now)], shared=False)
    everybody = StartNow()
    for stranger in (
        await fleet.at_node("n1", "client"),
        await fleet.at_node("n2", "datapath"),
        await fleet.at_hub("cmdb"),
    ):
        assert await refused(stranger.request(START_NOW, everybody, timeout_s=1))
    assert not waiting.wanted
    await until(lambda: operator.request(START_NOW, everybody, timeout_s=1))
    assert waiting.wanted


async def test_an_operator_follows_flows_of_all_nodes(fleet: Fleet) -> None:
    datapath, operator = await fleet.at_node("n1", "datapath"), await fleet.at_hub("operator")
    seen: list[Flow] = []

    async def see(flow: Flow) -> None:
        seen.append(flow)

    await operator.follow(FLOW_SEEN, see)
    async with asyncio.timeout(10):
        while not seen:
            await datapath.publish(FLOW_SEEN, FLOW, node=N1)
            await asyncio.sleep(0.05)
    assert seen[0] == FLOW


async def test_a_system_states_what_it_may(fleet: Fleet) -> None:
    identity = await fleet.at_hub("identity-1")
    heard = asyncio.Event()

    async def put(_ask: ExternalWorkload) -> Committed:
        heard.set()
        return Committed(revision=5)

    await identity.serve("identity", [route(PUT_WORKLOAD, put), route(WORKLOAD_PUBLISHED, put)])
    cmdb = await fleet.at_hub("cmdb")
    assert (await cmdb.request(PUT_WORKLOAD, MACHINE)).revision == 5
    heard.clear()
    await until(lambda: cmdb.publish(WORKLOAD_PUBLISHED, MACHINE))
    async with asyncio.timeout(10):
        await heard.wait()


async def test_each_forbidden_publish_is_refused(fleet: Fleet) -> None:
    identity = await fleet.at_hub("identity-1")
    spoken: list[object] = []

    async def hear(ask: object) -> Committed:
        spoken.append(ask)
        return Committed(revision=1)

    await identity.serve("identity", [route(REGISTER_NODE, hear, ANY_NODE), route(PUT_WORKLOAD, hear)])
    datapath, bgp = await fleet.at_node("n1", "datapath"), await fleet.at_node("n1", "bgp")
    cmdb, operator = await fleet.at_hub("cmdb"), await fleet.at_hub("operator")
    await until(lambda: datapath.request(REGISTER_NODE, facts(N1), node=N1))
    spoken.clear()
    policy = PolicyRow(identity=IdentityId(300), revision=1, entries=())
    apply = ApplyPolicy(
        document=PolicyObject(apiVersion="networking.k8s.io/v1", kind="NetworkPolicy", metadata={"name": "x"})
    )
    tries: dict[str, Awaitable[object]] = {
        "a node writes another node's row": datapath.bucket(REALISED).put("n2", RealisedRow(node=N2, rows={})),
        "a node writes policy": datapath.bucket(POLICY_ROWS).put("300", policy),
        "a node states another": datapath.request(REGISTER_NODE, facts(N2), node=N2, timeout_s=1),
        "a node states another in its own name": datapath.request(REGISTER_NODE, facts(N2), node=N1, timeout_s=1),
        "a node states a workload": datapath.request(PUT_WORKLOAD, MACHINE, timeout_s=1),
        "another service speaks for the node": bgp.request(REGISTER_NODE, facts(N1), node=N1, timeout_s=1),
        "bgp writes the datapath's row": bgp.bucket(REALISED).put("n1", RealisedRow(node=N1, rows={})),
        "a system for workloads forces a policy": cmdb.request(FORCE_APPLY, apply, timeout_s=1),
        "a system asks a node": cmdb.request(ENDPOINTS, Empty(), node=N1, timeout_s=1),
        "an operator without the right forces a policy": operator.request(FORCE_APPLY, apply, timeout_s=1),
        "an operator writes policy": operator.bucket(POLICY_ROWS).put("300", policy),
    }
    passed = [what for what, work in tries.items() if not await refused(work)]
    assert passed == []
    assert spoken == []
    assert await operator.bucket(REALISED).rows() == {}
    assert await operator.bucket(POLICY_ROWS).rows() == {}


async def test_nobody_speaks_without_a_credential(fleet: Fleet) -> None:
    for nobody in (fleet.servers.at_hub(""), fleet.servers.at_node("n1", "")):
        nobody.start()
        assert await refused(nobody.request(HEALTH, Empty(), timeout_s=1))
        assert not nobody.connected
        await nobody.close()


async def test_nobody_overhears_others(fleet: Fleet) -> None:
    """Neither requests of others nor the answers that they get."""
    listeners = [await fleet.at_node("n1", "datapath"), await fleet.at_hub("cmdb")]
    overheard: list[str] = []

    async def note(message: Msg) -> None:
        overheard.append(message.subject)

    for bus in listeners:
        client = await bus.client(3)
        for subject in ("_INBOX.>", "fairlead.>", "$KV.>"):
            await client.subscribe(subject, cb=note)
        await client.flush()
    identity, operator = await fleet.at_hub("identity-1"), await fleet.at_hub("operator")
    await identity.serve("identity", [route(PUT_WORKLOAD, committed)])
    await identity.bucket(NODES).put("n9", NodeRow(node=N9, addresses=(), revision=1))
    assert (await operator.request(PUT_WORKLOAD, MACHINE)).revision == 5
    for bus in listeners:
        await (await bus.client(3)).flush()
    assert overheard == []


async def test_rotated_and_revoked_without_a_restart(fleet: Fleet) -> None:
    identity = await fleet.at_hub("identity-1")
    await identity.serve("identity", [route(PUT_WORKLOAD, committed)])
    before = await fleet.at_hub("cmdb")
    await before.request(PUT_WORKLOAD, MACHINE)

    assert fleet.servers.command("rotate", "cmdb") == 0
    fleet.servers.reload_hub()
    after = await fleet.at_hub("cmdb")
    await until(lambda: after.request(PUT_WORKLOAD, MACHINE, timeout_s=1))
    await until(lambda: before.request(PUT_WORKLOAD, MACHINE, timeout_s=1))  # counts until the rotation is finished

    assert fleet.servers.command("rotate", "cmdb", "--finish") == 0
    fleet.servers.reload_hub()
    await cut_off(before)
    await until(lambda: after.request(PUT_WORKLOAD, MACHINE, timeout_s=1))

    assert fleet.servers.command("revoke", "cmdb") == 0
    fleet.servers.reload_hub()
    await cut_off(after)
    assert not (fleet.servers.folder / "cmdb.nk").exists()


async def cut_off(bus: NatsBus) -> None:
    async with asyncio.timeout(10):
        while not await refused(bus.request(PUT_WORKLOAD, MACHINE, timeout_s=0.5)):
            await asyncio.sleep(0.05)


async def test_a_revoked_node_is_cut_off(fleet: Fleet) -> None:
    datapath = await fleet.at_node("n1", "datapath")
    await datapath.bucket(REALISED).put("n1", RealisedRow(node=N1, rows={"7": 3}))
    assert fleet.servers.command("revoke", "n1") == 0
    fleet.servers.restart_hub()  # a leaf that is connected outlives a mere reload
    async with asyncio.timeout(10):
        while not await refused(datapath.bucket(REALISED).put("n1", RealisedRow(node=N1, rows={}))):
            await asyncio.sleep(0.05)
    other = await fleet.at_node("n2", "datapath")
    await until(other.bucket(REALISED).ensure)
    await until(lambda: other.bucket(REALISED).put("n2", RealisedRow(node=N2, rows={})))
