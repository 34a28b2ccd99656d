"""A pod comes to another one by a port that the node publishes: the stack turns its packets round. Asked of the programs and of their twin."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from fairlead.address import Address, Prefix
from services.datapath.failsafe import HOST_ENDPOINT, HostEntry
from services.datapath.kernel.twin.cases import Action, Origin
from services.datapath.operations import EndpointEntry, Link, PolicyKey, PolicyValue
from services.datapath.reports import DropReason as Drop
from tests.kernel.packets import ACK, SYN, TCP, UDP, Transport, frame, tcp, udp
from tests.support import kernels
from tests.support.kernels import Bench

NODE = {4: "192.0.2.1", 6: "2001:db8::1"}
PODS = {4: ("10.77.0.2", "10.77.0.3"), 6: ("fd00:77::2", "fd00:77::3")}
IN, OUT = 0, 1
HOST, FIRST, SECOND = 1, 1001, 1002
TO_STACK, TO_POD = (Action.STACK, 0), (Action.ENDPOINT, 0)
DENIED, SPOOFED = (Action.DROPPED, int(Drop.POLICY)), (Action.DROPPED, int(Drop.INVALID_SOURCE))
PUBLISHED, SERVED = 8080, 80
_PORTS = itertools.count(3000)


class Node:
    """A node, a pod that asks, and a pod that answers at a published port."""

    def __init__(self, bench: Bench, family: int) -> None:
        self.bench, self.kernel = bench, bench.kernel
        self.node, (self.asks, self.answers) = NODE[family], PODS[family]
        self.port = next(_PORTS)

    def policies(self, of_asking: tuple[PolicyKey, ...], of_answering: tuple[PolicyKey, ...]) -> None:
        for endpoint, keys in ((1, of_asking), (2, of_answering)):
            rows = dict.fromkeys(keys, PolicyValue())
            self.kernel.apply_policy(endpoint, rows, self.kernel.policy(endpoint).keys() - rows.keys())

    def to_node(self, body: Transport) -> tuple[Action, int]:
        return self.bench.meet(frame(body, self.asks, self.node), 1)

    def turned(self, body: Transport, source: str = "") -> tuple[Action, int]:
        """The stack has changed the destination, and sends the packet on."""
        return self.bench.meet(frame(body, source or self.asks, self.answers), door=Origin.HOST, turned=True)

    def back(self, body: Transport) -> tuple[Action, int]:
        return self.bench.meet(frame(body, self.answers, self.asks), 2)

    def back_in_the_nodes_name(self, body: Transport) -> tuple[Action, int]:
        return self.bench.meet(frame(body, self.node, self.asks), door=Origin.HOST, turned=True)

    def exchange(self) -> list[tuple[Action, int]]:
        """Begin a connection through the published port, and let it go on."""
        port, seen = self.port, []
        for flags in ((SYN, SYN | ACK), (ACK, ACK)):
            seen.append(self.to_node(tcp(port, PUBLISHED, flags[0])))
            seen.append(self.turned(tcp(port, SERVED, flags[0])))
            seen.append(self.back(tcp(SERVED, port, flags[1])))
            seen.append(self.back_in_the_nodes_name(tcp(PUBLISHED, port, flags[1])))
        return seen


@pytest.fixture(params=kernels.KINDS, scope="module")
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    """One node for all tests: each has ports of its own."""
    for made in kernels.bench(request.param):
        made.kernel.start()
        made.kernel.set_prefixes([Prefix("10.77.0.0/24"), Prefix("fd00:77::/64")])
        made.kernel.apply_addresses({Prefix(text): HOST for text in NODE.values()}, ())
        for number, identity in ((1, FIRST), (2, SECOND)):
            addresses = tuple(Address(PODS[family][number - 1]) for family in (4, 6))
            link = made.kernel.plug(Link(number, made.namespace(f"pod{number}"), "eth0", addresses, 0))
            where = link.ifindex, identity, link.host_mac, link.pod_mac
            made.kernel.put_endpoint(EndpointEntry(number, *where, addresses, held=False))
        yield made


@pytest.fixture(params=[4, 6])
def node(request: pytest.FixtureRequest, bench: Bench) -> Node:
    made = Node(bench, request.param)
    asks = PolicyKey(HOST, PUBLISHED, TCP, OUT), PolicyKey(SECOND, SERVED, TCP, OUT)
    made.policies(asks, (PolicyKey(FIRST, SERVED, TCP, IN),))
    return made


WHOLE_WAY = [TO_STACK, TO_POD, TO_STACK, TO_POD] * 2


def test_both_pods_policies_decide_by_who_asks(node: Node) -> None:
    assert node.exchange() == WHOLE_WAY


def test_the_node_filtered_or_not_both_directions_stay(node: Node) -> None:
    own = tuple(sorted(Address(text) for text in NODE.values()))
    node.kernel.apply_policy(HOST_ENDPOINT, {PolicyKey(FIRST, PUBLISHED, TCP, IN): PolicyValue()}, ())
    node.kernel.put_host(HostEntry(own, frozenset()))
    try:
        assert node.exchange() == WHOLE_WAY
        node.kernel.apply_policy(HOST_ENDPOINT, {}, (PolicyKey(FIRST, PUBLISHED, TCP, IN),))
        assert node.to_node(tcp(node.port, PUBLISHED, ACK)) == DENIED, "the published port is the node's too"
    finally:
        node.kernel.delete_host()
    node.port = next(_PORTS)
    assert node.exchange() == WHOLE_WAY


@pytest.mark.parametrize("closed", ["egress", "ingress"])
def test_a_published_port_is_no_way_around_a_policy(node: Node, closed: str) -> None:
    begun = node.exchange()
    to_node = PolicyKey(HOST, PUBLISHED, TCP, OUT)
    asks = (to_node,) if closed == "egress" else (to_node, PolicyKey(SECOND, SERVED, TCP, OUT))
    answers = (PolicyKey(HOST, 0, 0, IN),) if closed == "ingress" else (PolicyKey(FIRST, SERVED, TCP, IN),)
    node.policies(asks, answers)
    assert (begun, node.turned(tcp(node.port, SERVED, ACK))) == (WHOLE_WAY, DENIED)
    assert node.back(tcp(SERVED, node.port, ACK)) == DENIED
    assert node.turned(tcp(next(_PORTS), SERVED, SYN)) == DENIED


def test_nobody_else_speaks_as_the_pod(node: Node) -> None:
    body = tcp(node.port, SERVED, SYN)
    assert node.bench.meet(frame(body, node.asks, node.answers), door=Origin.HOST, came_by=7) == SPOOFED
    assert node.bench.meet(frame(body, node.asks, node.answers), door=Origin.HOST) == SPOOFED
    assert node.exchange() == WHOLE_WAY
    assert (
        node.bench.meet(frame(tcp(node.port, SERVED, ACK), node.asks, node.answers), door=Origin.HOST, came_by=7)
        == SPOOFED
    )
    assert node.bench.meet(frame(tcp(node.port, SERVED, ACK), node.asks, node.answers)) == SPOOFED


def test_a_beginning_under_the_nodes_name_is_not_the_nodes(node: Node) -> None:
    """Else rules that hide pods behind the node would make each of them the node."""
    node.policies((), (PolicyKey(HOST, 0, 0, IN),))
    body = udp(node.port, SERVED, b"x")
    assert node.turned(body, source=node.node) == DENIED
    assert node.bench.meet(frame(udp(node.port, SERVED + 1, b"x"), node.node, node.answers), door=Origin.HOST) == TO_POD
    assert (UDP, node.turned(udp(node.port, SERVED + 2, b"x"), source=node.node)) == (UDP, DENIED)


def test_a_pods_own_connection_with_the_same_ports_goes_straight(node: Node) -> None:
    assert node.exchange() == WHOLE_WAY
    node.turned(tcp(node.port, SERVED, 1 | ACK))  # FIN
    node.back(tcp(SERVED, node.port, 1 | ACK))
    assert node.bench.meet(frame(tcp(node.port, SERVED, SYN), node.asks, node.answers), 1) == TO_POD
    assert node.back(tcp(SERVED, node.port, SYN | ACK)) == TO_POD
