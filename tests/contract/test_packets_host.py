"""What becomes of packets of the node itself under a host policy, asked of the real programs and of their twin alike."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from fairlead.address import Address, Prefix
from services.datapath.failsafe import HOST_ENDPOINT, FailsafePort, HostEntry
from services.datapath.kernel.twin.cases import Action, Origin
from services.datapath.operations import EndpointEntry, Link, PolicyKey, PolicyValue
from services.datapath.reports import DropReason as Drop
from tests.kernel.packets import ACK, SYN, TCP, UDP, Transport, echo, frame, icmp, tcp, udp
from tests.support import kernels
from tests.support.kernels import Bench

NODE = {4: "192.0.2.1", 6: "2001:db8::1"}
FAR = {4: "198.51.100.7", 6: "2001:db8:7::7"}
POD = {4: "10.77.0.2", 6: "fd00:77::2"}
IN, OUT = 0, 1
ALLOW, DENY = PolicyValue(), PolicyValue(deny=True)
UNTOUCHED, TO_STACK, TO_POD = (Action.UNTOUCHED, 0), (Action.STACK, 0), (Action.ENDPOINT, 0)
DENIED = (Action.DROPPED, int(Drop.POLICY))
FORWARDED = 7

_PORTS = itertools.count(2000)

families = pytest.mark.parametrize("family", [4, 6])


class Node:
    """The node, its pod and its network, and what they say to each other."""

    def __init__(self, bench: Bench, family: int) -> None:
        self.bench, self.kernel, self._family = bench, bench.kernel, family
        self.node, self.far, self.pod = NODE[family], FAR[family], POD[family]

    def protect(self, rows: dict[PolicyKey, PolicyValue], audit: bool = False) -> None:
        """Filter the node by just these rows; SSH in and DNS out are failsafe."""
        gone = self.kernel.policy(HOST_ENDPOINT).keys() - rows.keys()
        self.kernel.apply_policy(HOST_ENDPOINT, rows, gone)
        ports = frozenset((FailsafePort(IN, TCP, 22), FailsafePort(OUT, UDP, 53)))
        own = tuple(sorted(Address(text) for text in NODE.values()))
        self.kernel.put_host(HostEntry(own, ports, audit_ingress=audit, audit_egress=audit))

    def arrives(self, body: Transport, source: str = "", destination: str = "", **more: int) -> tuple[Action, int]:
        return self.bench.meet(frame(body, source or self.far, destination or self.node, **more))

    def leaves(self, body: Transport, source: str = "", destination: str = "", came_by: int = 0) -> tuple[Action, int]:
        packet = frame(body, source or self.node, destination or self.far)
        return self.bench.meet(packet, door=Origin.UPLINK, came_by=came_by)

    def pod_sends(self, body: Transport) -> tuple[Action, int]:
        return self.bench.meet(frame(body, self.pod, self.node), 1)

    def pod_gets(self, body: Transport, source: str = "", came_by: int = 0) -> tuple[Action, int]:
        return self.bench.meet(frame(body, source or self.node, self.pod), door=Origin.HOST, came_by=came_by)


@pytest.fixture(params=kernels.KINDS, scope="module")
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    """One node for all tests: each has ports of its own."""
    for made in kernels.bench(request.param):
        made.kernel.start()
        made.kernel.set_prefixes([Prefix("10.77.0.0/24"), Prefix("fd00:77::/64")])
        made.kernel.apply_addresses({Prefix(text): 1 for text in NODE.values()}, ())
        addresses = tuple(Address(text) for text in POD.values())
        plugged = made.kernel.plug(Link(1, made.namespace("pod1"), "eth0", addresses, 0))
        where = plugged.ifindex, 1001, plugged.host_mac, plugged.pod_mac
        made.kernel.put_endpoint(EndpointEntry(1, *where, addresses, held=False))
        made.kernel.apply_policy(1, {PolicyKey(0, 0, 0, IN): ALLOW, PolicyKey(0, 0, 0, OUT): ALLOW}, ())
        yield made


@pytest.fixture(params=[4, 6])
def node(request: pytest.FixtureRequest, bench: Bench) -> Iterator[Node]:
    """The node under a host policy that allows nothing."""
    made = Node(bench, request.param)
    made.protect({})
    yield made
    bench.kernel.delete_host()


@pytest.fixture
def port() -> int:
    """Return a port that no other test has."""
    return next(_PORTS)


def test_without_a_host_policy_nothing_is_judged(node: Node, port: int) -> None:
    node.kernel.delete_host()
    assert node.arrives(tcp(port, 5432, SYN)) == UNTOUCHED
    assert node.leaves(tcp(port, 5432, SYN)) == UNTOUCHED
    assert node.pod_sends(tcp(port, 5432, SYN)) == TO_STACK


def test_what_the_network_sends_is_judged_and_answered(node: Node, port: int) -> None:
    assert node.arrives(tcp(port, 5432, SYN)) == DENIED
    node.protect({PolicyKey(2, 5432, TCP, IN): ALLOW})
    assert node.arrives(tcp(port, 5432, SYN)) == UNTOUCHED
    assert node.leaves(tcp(5432, port, SYN | ACK)) == UNTOUCHED
    assert node.arrives(tcp(port, 5433, SYN)) == DENIED
    node.protect({PolicyKey(0, 0, 0, OUT): ALLOW})
    assert node.leaves(tcp(5432, port, ACK)) == DENIED
    assert node.arrives(tcp(port, 5432, ACK)) == DENIED


def test_what_the_node_sends_is_judged_and_answered(node: Node, port: int) -> None:
    assert node.leaves(tcp(port, 443, SYN)) == DENIED
    node.protect({PolicyKey(2, 443, TCP, OUT): ALLOW})
    assert node.arrives(tcp(443, port, SYN | ACK)) == DENIED
    assert node.leaves(tcp(port, 443, SYN)) == UNTOUCHED
    assert node.arrives(tcp(443, port, SYN | ACK)) == UNTOUCHED


def test_failsafe_ports_pass_whatever_the_policy_says(node: Node, port: int) -> None:
    node.protect({PolicyKey(0, 0, 0, IN): DENY, PolicyKey(0, 0, 0, OUT): DENY})
    assert node.arrives(tcp(port, 22, SYN)) == UNTOUCHED
    assert node.leaves(tcp(22, port, SYN | ACK)) == UNTOUCHED
    assert node.leaves(udp(port, 53)) == UNTOUCHED
    assert node.arrives(udp(53, port)) == UNTOUCHED
    assert node.arrives(udp(port, 53)) == (Action.DROPPED, int(Drop.POLICY_DENY))
    assert node.leaves(tcp(port, 22, SYN)) == (Action.DROPPED, int(Drop.POLICY_DENY))


def test_pods_and_the_node_are_judged_at_both_ends(node: Node, port: int) -> None:
    assert node.pod_sends(tcp(port, 80, SYN)) == DENIED
    assert node.pod_gets(tcp(port, 80, SYN)) == DENIED
    node.protect({PolicyKey(1001, 80, TCP, IN): ALLOW, PolicyKey(1001, 81, TCP, OUT): ALLOW})
    assert node.pod_sends(tcp(port, 80, SYN)) == TO_STACK
    assert node.pod_gets(tcp(80, port, SYN | ACK)) == TO_POD
    assert node.pod_gets(tcp(port, 81, SYN)) == TO_POD
    assert node.pod_sends(tcp(81, port, SYN | ACK)) == TO_STACK
    assert node.pod_gets(tcp(port, 80, SYN), source=node.far, came_by=FORWARDED) == TO_POD


def test_nobody_on_the_network_speaks_for_the_node(node: Node, port: int) -> None:
    node.protect({PolicyKey(0, 0, 0, IN): ALLOW})
    assert node.arrives(tcp(port, 80, SYN), source=node.node) == (Action.DROPPED, int(Drop.INVALID_SOURCE))
    assert node.arrives(tcp(port, 80, SYN), node.node, node.pod) == (Action.DROPPED, int(Drop.INVALID_SOURCE))


def test_what_others_send_through_the_node_is_not_its_own(node: Node, port: int) -> None:
    assert node.leaves(tcp(port, 80, SYN), source=node.pod, came_by=FORWARDED) == UNTOUCHED
    assert node.leaves(tcp(port, 80, SYN), came_by=FORWARDED) == UNTOUCHED
    assert node.arrives(tcp(80, port, SYN | ACK)) == UNTOUCHED


def test_the_link_stays_alive_whatever_the_policy_says(node: Node, port: int) -> None:
    v6 = node.pod.startswith("fd")
    client, server, group = (546, 547, "ff02::5") if v6 else (68, 67, "224.0.0.5")
    assert node.arrives(udp(server, client)) == UNTOUCHED
    assert node.leaves(udp(client, server)) == UNTOUCHED
    assert node.leaves(Transport(89, bytes(24)), destination=group) == UNTOUCHED
    assert node.arrives(udp(port, 9), destination=group) == UNTOUCHED
    for kind in (133, 135, 136, 137) if v6 else ():
        assert node.arrives(icmp(kind, v6=True)) == UNTOUCHED
        assert node.leaves(icmp(kind, v6=True)) == UNTOUCHED
    assert node.arrives(echo(6 if v6 else 4, port)) == DENIED


def test_other_protocols_are_judged_without_ports(node: Node) -> None:
    ospf = Transport(89, bytes(24))
    assert node.arrives(ospf) == DENIED
    assert node.leaves(ospf) == DENIED
    node.protect({PolicyKey(2, 0, 89, IN): ALLOW, PolicyKey(2, 0, 89, OUT): ALLOW})
    assert node.arrives(ospf) == UNTOUCHED
    assert node.leaves(ospf) == UNTOUCHED


def test_an_audited_node_is_denied_nothing(node: Node, port: int) -> None:
    node.protect({}, audit=True)
    assert node.arrives(tcp(port, 80, SYN)) == UNTOUCHED
    node.protect({})
    assert node.arrives(tcp(port, 80, ACK)) == DENIED


def test_a_connection_from_before_the_policy_goes_on_by_the_servers_port(node: Node, port: int) -> None:
    node.protect({PolicyKey(2, 80, TCP, IN): ALLOW})
    assert node.leaves(tcp(80, port, SYN)) == DENIED
    assert node.leaves(tcp(80, port, ACK)) == UNTOUCHED
    assert node.arrives(tcp(port, 80, ACK)) == UNTOUCHED
    assert node.leaves(tcp(port, 80, ACK)) == DENIED


def test_broken_glass_opens_the_node_until_its_end(node: Node, port: int) -> None:
    for opened in (HOST_ENDPOINT, 0):
        node.bench.break_glass({opened: 1 << 62})
        node.protect({})  # what was denied a moment ago counts no more
        assert node.arrives(tcp(port, 80, SYN)) == UNTOUCHED
        assert node.leaves(tcp(80, port, SYN | ACK)) == UNTOUCHED
        node.bench.break_glass({opened: 0})
        assert node.leaves(tcp(80, port)) == DENIED
        assert node.arrives(tcp(port, 80)) == DENIED


def test_what_cannot_be_read_is_dropped_by_name(node: Node, port: int) -> None:
    assert node.arrives(Transport(UDP, b"x" * 7), total=0) == (Action.DROPPED, int(Drop.TRUNCATED))
    assert node.leaves(Transport(TCP, b"x" * 12)) == (Action.DROPPED, int(Drop.TRUNCATED))
    assert node.leaves(Transport(TCP, b"x" * 12), came_by=FORWARDED) == UNTOUCHED
    v6 = node.pod.startswith("fd")
    assert node.arrives(udp(port, 80), fragment=1480 if v6 else 185) == (Action.DROPPED, int(Drop.FRAGMENT_NOT_FOUND))
