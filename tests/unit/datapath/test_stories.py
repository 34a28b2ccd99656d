from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from fairlead.address import Address, Prefix
from fairlead.bus_memory import Hub
from fairlead.errors import Conflict, InvalidInput
from fairlead.schema import datapath as topics
from fairlead.schema.base import Empty
from fairlead.schema.datapath import EndpointState
from fairlead.schema.flow import FlowQuery
from fairlead.schema.identity import IDENTITIES, NODES, NodeRow
from services.datapath.operations import PolicyKey, PolicyValue
from services.datapath.reports import DropReason
from services.datapath.store import Store
from tests.unit.datapath.world import Control, TestNode, entry, until

TCP = 6
INGRESS, EGRESS = 0, 1
WEB, DB = Address("10.0.0.2"), Address("10.0.0.3")


async def test_attach_with_everything_alive(node: TestNode, control: Control) -> None:
    status = await node.attach("web")
    assert (status.state, status.identity, status.labels) == (EndpointState.READY, 1000, ("container:app=web",))
    written = node.world.entries[status.endpoint]
    assert not written.held
    assert written.identity == 1000
    assert node.kernel.verdict(Address("10.9.9.9"), WEB, TCP, 80).passes
    await until(lambda: node.realised().rows.get("1000"))
    assert control.registered[0].labels == ("container:app=web",)
    assert node.kernel.lookup_address(WEB) == (WEB.prefix, 1000)


async def test_policy_travels_to_the_kernel_and_back(node: TestNode, control: Control) -> None:
    await node.attach("web", "10.0.0.2", ("app=web",))
    await node.attach("db", "10.0.0.3", ("app=db",))
    web, db = control.numbers[("container:app=web",)], control.numbers[("container:app=db",)]
    revision = await control.policy(
        db,
        [
            entry(INGRESS, web, TCP, 5432, origins=(0,)),
            entry(EGRESS),
        ],
        origins=("CiliumNetworkPolicy default/db ingress[0]", "CiliumNetworkPolicy default/db"),
        ingress_default_deny=(1,),
    )
    await until(lambda: node.realised().rows.get(str(db)) == revision)
    assert node.kernel.verdict(WEB, DB, TCP, 5432).passes
    refused = node.kernel.send(WEB, DB, TCP, 22)
    assert (refused.passes, refused.reason) == (False, DropReason.POLICY)
    await until(lambda: node.datapath.flows.query(node.datapath.name, FlowQuery()).flows)
    (flow,) = node.datapath.flows.query(node.datapath.name, FlowQuery(verdict="dropped")).flows
    assert flow.explanation.startswith(
        f"default deny, turned on by CiliumNetworkPolicy default/db; no rule of it admits identity {web} "
        "(container:app=web) on 22/TCP, known for 0."
    )
    assert flow.denied_by == ("CiliumNetworkPolicy default/db",)
    assert (flow.source.name, flow.destination.name) == ("web", "db")


async def test_without_the_bus_known_labels_attach_and_unknown_are_held(
    node: TestNode, control: Control, hub: Hub
) -> None:
    await node.attach("web")
    await until(lambda: node.realised().rows)
    hub.up = False
    second = await asyncio.wait_for(node.attach("web-2", "10.0.0.4"), 1.0)
    assert second.state is EndpointState.READY
    unknown = await node.attach("new", "10.0.0.5", ("app=new",), wait_s=0.1)
    assert unknown.state is EndpointState.WAITING_FOR_IDENTITY
    assert "container:app=new" in unknown.detail
    held = node.kernel.verdict(WEB, Address("10.0.0.5"), TCP, 80)
    assert (held.passes, held.reason) == (False, DropReason.HELD)
    await until(lambda: not node.conditions["endpoints"][0])
    hub.up = True
    await until(lambda: node.status("new").state is EndpointState.READY, within_s=20)
    assert node.kernel.verdict(WEB, Address("10.0.0.5"), TCP, 80).passes
    await until(lambda: node.conditions["endpoints"][0])


async def test_labels_that_identity_has_numbered_for_another_endpoint_here_are_known(
    node: TestNode, control: Control, hub: Hub
) -> None:
    await node.attach("web")
    (number,) = control.numbers.values()
    await control.bus.bucket(IDENTITIES).delete(str(number))  # the hub went before it could tell of the number
    await until(lambda: not node.datapath.node.identities.labels(number))
    hub.up = False
    second = await asyncio.wait_for(node.attach("web-2", "10.0.0.4"), 1.0)
    assert (second.state, second.identity) == (EndpointState.READY, number)


async def test_an_identity_without_policy_is_held_until_its_row_comes(node: TestNode, control: Control) -> None:
    control.default_policy = False
    status = await node.attach("web", wait_s=0.2)
    assert status.state is EndpointState.WAITING_FOR_POLICY
    assert node.world.entries[status.endpoint].held
    await until(lambda: node.realised().failed.get("1000"))
    assert "waiting for the policy of identity 1000" in node.realised().failed["1000"]
    await control.allow_all(1000)
    await until(lambda: node.status("web").state is EndpointState.READY)
    await until(lambda: node.realised().rows.get("1000") and not node.realised().failed)


async def test_restart_adopts_and_changes_nothing(node: TestNode, control: Control, hub: Hub) -> None:
    await node.attach("web", "10.0.0.2,fd00::2")
    await node.attach("db", "10.0.0.3", ("app=db",))
    await control.group("n2", {"10.0.1.2": 1000, "fd00:1::2": 1000})
    await until(lambda: node.kernel.lookup_address(Address("10.0.1.2")))
    await until(lambda: len(node.realised().rows) == 2)
    hub.up = False
    node.world.log.clear()
    await node.restart()
    await until(lambda: node.status("web").state is EndpointState.READY)
    await until(lambda: node.status("db").state is EndpointState.READY)
    await until(lambda: node.datapath.node.addresses.table.initialised)
    await asyncio.sleep(0.1)
    assert node.world.log == []
    hub.up = True
    third = await node.attach("other", "10.0.0.9")
    assert third.endpoint == 3
    assert third.state is EndpointState.READY


async def test_break_glass_is_removed_and_reported(node: TestNode, control: Control, hub: Hub) -> None:
    reports: list[topics.BreakGlass] = []

    async def hear(report: topics.BreakGlass) -> None:
        reports.append(report)

    await control.bus.follow(topics.BREAK_GLASS, hear)
    await node.attach("db", "10.0.0.3", ("app=db",))
    db = control.numbers[("container:app=db",)]
    await control.policy(db, [entry(EGRESS)])
    await until(lambda: not node.kernel.verdict(WEB, DB, TCP, 80).passes)
    await node.stop()
    node.world.policies[1][PolicyKey(0, 0, 0, 0)] = PolicyValue()
    assert node.kernel.verdict(WEB, DB, TCP, 80).passes
    hub.up = False
    await node.start()
    await until(lambda: not node.kernel.verdict(WEB, DB, TCP, 80).passes)
    await until(lambda: not node.conditions.get("breakglass", (True, ""))[0])
    assert "ingress allow any peer any port" in node.conditions["breakglass"][1]
    assert reports == []
    hub.up = True
    await until(lambda: reports)
    assert (reports[0].name, reports[0].entries) == ("db", ("ingress allow any peer any port",))
    await node.restart()
    await asyncio.sleep(0.1)
    assert len(reports) == 1
    assert not node.conditions["breakglass"][0]


async def test_detach_removes_everything_and_tells_identity(node: TestNode, control: Control, hub: Hub) -> None:
    await node.attach("web")
    await until(lambda: node.kernel.lookup_address(WEB) == (WEB.prefix, 1000))
    hub.up = False
    assert await node.detach("web")
    assert not await node.detach("web")
    assert (node.world.entries, node.world.links, node.world.policies) == ({}, {}, {})
    await until(lambda: node.kernel.lookup_address(WEB) is None)
    await node.restart()
    assert control.withdrawn == []
    hub.up = True
    await until(lambda: control.withdrawn, within_s=20)
    await until(lambda: not list((node.folder / "endpoints").iterdir()))
    assert Store(node.folder).ledgers() == {}


async def test_relabelling_keeps_the_old_identity_until_the_new_one_is_known(
    node: TestNode, control: Control, hub: Hub
) -> None:
    first = await node.attach("web")
    hub.up = False
    second = await node.attach("web", labels=("app=other",), wait_s=0.1)
    assert second.endpoint == first.endpoint
    assert second.state is EndpointState.WAITING_FOR_IDENTITY
    assert node.world.entries[first.endpoint].identity == 1000
    assert not node.world.entries[first.endpoint].held
    hub.up = True
    await until(lambda: node.world.entries[first.endpoint].identity == 1001, within_s=20)
    assert node.kernel.lookup_address(WEB) == (WEB.prefix, 1001)


async def test_a_failing_endpoint_blocks_nobody_and_heals(node: TestNode, control: Control) -> None:
    node.world.faults["plug", 1] = "no such namespace"
    bad = await node.attach("bad", "10.0.0.7")
    assert bad.state is EndpointState.FAILED
    assert "no such namespace" in bad.detail
    good = await node.attach("good", "10.0.0.8")
    assert good.state is EndpointState.READY
    await until(lambda: not node.conditions["reconcile"][0])
    node.world.faults.clear()
    await until(lambda: node.status("bad").state is EndpointState.READY)


async def test_a_policy_that_does_not_fit_leaves_the_previous_one(node: TestNode, control: Control) -> None:
    await node.attach("web")
    await until(lambda: node.realised().rows.get("1000"))
    before = node.realised().rows["1000"]
    many = [entry(INGRESS, 5000 + peer, TCP, 1, end_port=65535) for peer in range(1100)]
    await control.policy(1000, many)
    await until(lambda: "17600 entries" in node.realised().failed.get("1000", ""))
    assert node.realised().rows["1000"] == before
    assert node.kernel.verdict(DB, WEB, TCP, 80).passes
    assert node.status("web").state is EndpointState.READY
    after = await control.allow_all(1000)
    await until(lambda: node.realised().rows["1000"] == after)
    assert not node.realised().failed


async def test_a_mass_removal_is_held_until_a_person_speaks(node: TestNode, control: Control) -> None:
    await control.group("n2", {f"10.0.2.{i}": 500 for i in range(1, 101)})
    await until(lambda: len(node.world.addresses) >= 100)
    await control.group("n2", {f"10.0.2.{i}": 500 for i in range(1, 95)})
    await until(lambda: node.kernel.lookup_address(Address("10.0.2.99")) is None)
    await control.group("n2", {"10.0.2.1": 500})
    await until(lambda: not node.conditions.get("held deletes", (True, ""))[0])
    assert node.kernel.lookup_address(Address("10.0.2.50")) == (Prefix("10.0.2.50"), 500)
    assert "93 rows of kernel addresses" in node.conditions["held deletes"][1]
    told = await node.datapath.release_held(Empty())
    assert told.rows["kernel addresses"] == 93
    await until(lambda: node.kernel.lookup_address(Address("10.0.2.50")) is None)
    await until(lambda: node.conditions["held deletes"][0])
    assert node.kernel.lookup_address(Address("10.0.2.1")) == (Prefix("10.0.2.1"), 500)


async def test_drift_is_repaired(tmp_path: Path, hub: Hub, control: Control) -> None:
    node = TestNode(tmp_path, hub, reconcile_s=0.05)
    await node.start()
    try:
        await node.attach("web")
        await until(lambda: node.kernel.lookup_address(WEB))
        del node.world.links[1]
        await until(lambda: 1 in node.world.links)
        del node.world.entries[1]
        await until(lambda: 1 in node.world.entries)
        node.world.policies[1].clear()
        await until(lambda: node.world.policies[1])
        node.world.addresses.clear()
        await until(lambda: WEB.prefix in node.world.addresses)
        node.world.policies[1][PolicyKey(7, 0, 0, 1)] = PolicyValue(deny=True)
        await until(lambda: PolicyKey(7, 0, 0, 1) not in node.world.policies[1])
        await until(lambda: not node.conditions["breakglass"][0])
        assert node.status("web").state is EndpointState.READY
    finally:
        await node.stop()


async def test_own_and_other_nodes_and_prefixes(node: TestNode, control: Control) -> None:
    row = NodeRow(node="n2", addresses=(Address("192.0.2.2"), Address("2001:db8::2")), revision=5)  # type: ignore[arg-type] # a name
    await control.bus.bucket(NODES).put("n2", row)
    await control.cidrs({"203.0.113.0/24": 1 << 24})
    await control.claim("10.0.0.0/24")
    await until(lambda: node.world.prefixes == (Prefix("10.0.0.0/24"),))
    await until(lambda: control.nodes and control.nodes[-1].prefixes == (Prefix("10.0.0.0/24"),))
    expected = {"192.0.2.1": 1, "192.0.2.2": 6, "2001:db8::2": 6, "203.0.113.7": 1 << 24}
    await until(lambda: len(node.world.addresses) == len(expected))
    for text, identity in expected.items():
        found = node.kernel.lookup_address(Address(text))
        assert found is not None
        assert found[1] == identity, text
    answer = await node.datapath.questions.look_up(topics.AddressQuery(address=Address("198.51.100.1")))
    assert (answer.identity, answer.prefix, answer.labels) == (2, "", ("reserved:world",))


async def test_bad_requests_are_refused_and_change_nothing(node: TestNode, control: Control) -> None:
    await node.attach("web")
    with pytest.raises(Conflict, match=r"10\.0\.0\.2 belongs to endpoint web"):
        await node.attach("thief")
    with pytest.raises(InvalidInput, match="reserved"):
        await node.attach("host", "10.0.0.9", ("reserved:host",))
    listed = await node.datapath.questions.list_endpoints(Empty())
    assert [status.name for status in listed.endpoints] == ["web"]


async def test_the_realised_row_comes_back_when_the_bucket_is_lost(node: TestNode, control: Control, hub: Hub) -> None:
    await node.attach("web")
    await until(lambda: node.realised().rows)
    hub.drop_bucket("realised")
    assert not node.realised().rows
    await until(lambda: node.realised().rows, within_s=20)
