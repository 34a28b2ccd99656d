"""The node itself under host policies, from the bus to the kernel in dicts and back; failsafe ports as people write them."""

from __future__ import annotations

from typing import Any

import pytest

from fairlead.address import Address
from fairlead.errors import InvalidInput
from fairlead.schema import datapath as topics
from fairlead.schema.base import Empty
from fairlead.schema.flow import FlowQuery
from fairlead.schema.identity import HOST
from fairlead.schema.policy import POLICY_ROWS, PolicyEntry, PolicyRow
from services.datapath.failsafe import HOST_ENDPOINT, INBOUND, OUTBOUND, FailsafePort, failsafe, shown
from services.datapath.hostpolicy import HostOperations
from services.datapath.operations import PolicyKey, PolicyValue
from services.datapath.reports import DropReason
from tests.unit.datapath.world import HOST_ADDRESS, NODE, Control, TestNode, entry, until

TCP, UDP = 6, 17
INGRESS, EGRESS = 0, 1
KEY = f"host-{NODE}"
STRANGER = Address("10.9.9.9")
POLICY = "CiliumClusterwideNetworkPolicy ops"


async def tell(control: Control, *entries: PolicyEntry, **more: Any) -> int:
    """Announce the node's row."""
    control.revision += 1
    row = PolicyRow(identity=HOST, entries=entries, revision=control.revision, **more)
    await control.bus.bucket(POLICY_ROWS).put(KEY, row)
    return control.revision


async def close(control: Control, *entries: PolicyEntry) -> int:
    """Announce a row that denies all but these entries to those who would reach the node."""
    return await tell(control, *entries, entry(EGRESS), origins=(POLICY,), ingress_default_deny=(0,))


async def realised(node: TestNode, revision: int) -> None:
    await until(lambda: node.realised().rows.get(KEY) == revision, f"revision {revision} of {KEY}")


async def test_a_node_that_never_heard_of_a_host_policy_is_not_filtered(node: TestNode, control: Control) -> None:
    node.world.own = (HOST_ADDRESS,)
    assert node.kernel.host() is None
    revision = await tell(control, entry(INGRESS), entry(EGRESS))
    await realised(node, revision)
    assert node.kernel.host() is None
    await until(lambda: "not filtered" in node.conditions["host policy"][1])


async def test_a_host_policy_comes_stays_and_goes(node: TestNode, control: Control) -> None:
    node.world.own = (HOST_ADDRESS,)
    revision = await close(control, entry(INGRESS, 0, TCP, 8080))
    await realised(node, revision)
    assert node.kernel.verdict(STRANGER, HOST_ADDRESS, TCP, 8080).passes
    refused = node.kernel.send(STRANGER, HOST_ADDRESS, TCP, 5432)
    assert (refused.reason, refused.endpoint) == (DropReason.POLICY, HOST_ENDPOINT)
    assert node.kernel.verdict(STRANGER, HOST_ADDRESS, TCP, 22).passes
    await until(lambda: node.datapath.flows.query(node.datapath.name, FlowQuery(verdict="dropped")).flows)
    (flow,) = node.datapath.flows.query(node.datapath.name, FlowQuery(verdict="dropped")).flows
    assert POLICY in flow.explanation
    assert flow.policy_revision == revision
    await until(lambda: f"revision {revision}" in node.conditions["host policy"][1])
    assert "tcp/22" in node.conditions["host policy"][1]
    dump = await node.datapath.questions.dump_policy(topics.EndpointQuery(endpoint="host"))
    assert (dump.endpoint, dump.name) == (HOST_ENDPOINT, "host")
    assert [(one.direction, one.port) for one in dump.entries] == [(INGRESS, 8080), (EGRESS, 0)]
    gone = await tell(control, entry(INGRESS), entry(EGRESS))
    await realised(node, gone)
    assert node.kernel.host() is None
    assert node.kernel.policy(HOST_ENDPOINT) == {}
    assert node.kernel.verdict(STRANGER, HOST_ADDRESS, TCP, 5432).passes


async def test_it_is_kept_through_a_restart_with_the_bus_away(node: TestNode, control: Control) -> None:
    node.world.own = (HOST_ADDRESS,)
    revision = await close(control)
    await realised(node, revision)
    await node.stop()
    for copy in [path for path in node.folder.rglob("*") if path.is_file() and path.stem == "policy"]:
        copy.unlink()
    node.hub.tables.pop("policy")
    node.hub.tables.pop("realised")
    written = len(node.world.log)
    await node.start()
    await realised(node, revision)
    assert not [line for line in node.world.log[written:] if "host" in line or str(HOST_ENDPOINT) in line]
    assert not node.kernel.verdict(STRANGER, HOST_ADDRESS, TCP, 5432).passes


async def test_a_row_that_is_gone_or_refused_changes_nothing(node: TestNode, control: Control) -> None:
    node.world.own = (HOST_ADDRESS,)
    revision = await close(control)
    await realised(node, revision)
    await tell(control, entry(INGRESS, 0, TCP, 9, end_port=3), entry(EGRESS))
    await until(lambda: "contradict" in node.realised().failed.get(KEY, ""))
    await until(lambda: not node.conditions["host policy"][0])
    await control.bus.bucket(POLICY_ROWS).delete(KEY)
    again = await close(control)
    await realised(node, again)
    assert KEY not in node.realised().failed
    assert node.kernel.host() is not None


async def test_what_the_kernel_refuses_is_told_and_tried_again(node: TestNode, control: Control) -> None:
    node.world.own = (HOST_ADDRESS,)
    node.world.faults["put_host", HOST_ENDPOINT] = "no room"
    revision = await close(control)
    await until(lambda: "no room" in node.realised().failed.get(KEY, ""))
    assert KEY not in node.realised().rows
    node.world.faults.clear()
    await realised(node, revision)


async def test_drift_is_found_named_and_repaired(node: TestNode, control: Control) -> None:
    node.world.own = (HOST_ADDRESS,)
    await realised(node, await close(control))
    assert (await node.datapath.questions.verify(Empty())).differences == ()
    intruder = PolicyKey(0, 0, 0, INGRESS)
    node.world.policies[HOST_ENDPOINT][intruder] = PolicyValue()
    node.world.own = (HOST_ADDRESS, Address("192.0.2.77"))
    found = {(one.subject, one.problem) for one in (await node.datapath.questions.verify(Empty())).differences}
    assert found == {("host", "filter: wrong addresses"), (f"endpoint {HOST_ENDPOINT}", "policy entry foreign")}
    node.world.host = None
    found = {(one.subject, one.problem) for one in (await node.datapath.questions.verify(Empty())).differences}
    assert ("host", "filter missing") in found
    known = node.datapath
    operations = HostOperations(known.node.host, known._realiser, node.kernel, known.thread)
    await operations.prune(node.datapath.node.host.table.desired())
    await until(lambda: node.world.host and len(node.world.host.addresses) == 2)
    assert intruder not in node.world.policies[HOST_ENDPOINT]
    assert [event.name for event in node.datapath.breakglass.newest()] == ["host"]


def test_failsafe_ports_as_people_write_them() -> None:
    ports = failsafe(("tcp/22", "udp/3784-3785", "udp/3786"), ("udp/53",))
    assert FailsafePort(INGRESS, UDP, 3785) in ports
    assert shown(ports, INGRESS) == ("tcp/22", "udp/3784-3786")
    assert shown(ports, EGRESS) == ("udp/53",)
    defaults = failsafe(INBOUND, OUTBOUND)
    assert {FailsafePort(INGRESS, TCP, port) for port in (22, 179, 2379, 2380, 4222, 6222, 7422)} <= defaults
    assert {FailsafePort(EGRESS, UDP, port) for port in (53, 67, 123, 547, 3784, 8472)} <= defaults
    assert FailsafePort(EGRESS, TCP, 22) not in defaults


@pytest.mark.parametrize(
    "text",
    ["22", "tcp/0", "tcp/65536", "tcp/9-3", "icmp/8", "tcp/", "TCP/22", "tcp/22,23", "udp/1-3000", "tcp/ 22", ""],
)
def test_what_is_no_port_is_refused_by_the_options_name(text: str) -> None:
    with pytest.raises(InvalidInput, match="`failsafe_inbound`"):
        failsafe((text,), ())
    with pytest.raises(InvalidInput, match="`failsafe_outbound`"):
        failsafe((), (text,))
