"""A node under a host policy, between tunnels: what other nodes' pods may send it, and what it may send them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from services.datapath.failsafe import HOST_ENDPOINT, INBOUND, OUTBOUND, HostEntry, failsafe
from services.datapath.operations import PolicyKey, PolicyValue
from services.datapath.reports import DropReason as Drop
from tests.kernel.nodes import REMOTE_NODE, Fleet, new_fleet, outside
from tests.kernel.rig import IDENTITY, pod_address
from tests.kernel.sending import families

pytestmark = pytest.mark.kernel

IN, OUT, TCP = 0, 1, 6
ALLOW = PolicyValue()


@pytest.fixture(scope="module")
def world() -> Iterator[Fleet]:
    with new_fleet() as made:
        yield made


@pytest.fixture
def fleet(world: Fleet) -> Iterator[Fleet]:
    """Node 2 may be reached by pod 1 on port 7001, and may reach pod 1 on port 7002."""
    world.reset()
    with world.on(2) as node:
        node.policy(
            HOST_ENDPOINT,
            {PolicyKey(IDENTITY[1], 7001, TCP, IN): ALLOW, PolicyKey(IDENTITY[1], 7002, TCP, OUT): ALLOW},
        )
        ports = failsafe(INBOUND, OUTBOUND)
        node.kernel.put_host(
            HostEntry(node.kernel.own_addresses(), ports, ingress_default_deny=50, egress_default_deny=51)
        )
    yield world
    with world.on(2) as node:
        node.kernel.delete_host()


def refusals(fleet: Fleet) -> set[tuple[int, int, int, int]]:
    """Return endpoint, direction, identity of the source, and port of what node 2's policies have denied."""
    with fleet.on(2) as node:
        events = [event for event in node.kernel.events(2) if event.reason == Drop.POLICY]
    return {(event.endpoint, event.direction, event.source_identity, event.dport) for event in events}


@families
def test_tunnels_between_pods_are_nobody_elses_business(fleet: Fleet, family: int) -> None:
    assert fleet.nodes[1].ping("1", pod_address(2, family))
    assert fleet.nodes[2].ping("2", pod_address(1, family))


@families
def test_pods_of_other_nodes_reach_what_the_host_policy_allows_them(fleet: Fleet, family: int) -> None:
    one, two, node = fleet.nodes[1], fleet.nodes[2], str(outside(2, family))
    with two.listen("n2", 7001, family), two.listen("n2", 7005, family):
        assert one.connects("1", node, 7001)
        assert not one.connects("1", node, 7005)
    assert (HOST_ENDPOINT, IN, IDENTITY[1], 7005) in refusals(fleet)


@families
def test_the_node_reaches_the_pods_that_its_policy_allows(fleet: Fleet, family: int) -> None:
    one, two = fleet.nodes[1], fleet.nodes[2]
    with one.listen("1", 7002, family), one.listen("1", 7003, family):
        assert two.connects("n2", pod_address(1, family), 7002)
        assert not two.connects("n2", pod_address(1, family), 7003)
    assert (HOST_ENDPOINT, OUT, 1, 7003) in refusals(fleet)
    with fleet.on(1) as node:
        seen = {(event.source_identity, event.dport) for event in node.kernel.events(2)}
    assert (REMOTE_NODE, 7002) in seen
