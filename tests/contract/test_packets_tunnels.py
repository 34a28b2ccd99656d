"""What becomes of packets that come by tunnels or leave by them, asked of the real programs and of their twin alike."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from fairlead.address import Address, Prefix
from services.datapath.failsafe import HOST_ENDPOINT, HostEntry
from services.datapath.kernel.abi import pack_address
from services.datapath.kernel.twin.cases import Action, Origin, Tunnel
from services.datapath.operations import EndpointEntry, Link, PolicyKey, PolicyValue
from services.datapath.overlay import Overlay
from services.datapath.reports import DropReason as Drop
from tests.kernel.packets import ACK, SYN, TCP, Transport, echo, frame, icmp, tcp, udp
from tests.support import kernels
from tests.support.kernels import Bench

NODE = {4: "192.0.2.1", 6: "2001:db8::1"}
OTHER = {4: "192.0.2.3", 6: "2001:db8::3"}
STRANGER = {4: "192.0.2.66", 6: "2001:db8::66"}
POD = {4: "10.77.0.2", 6: "fd00:77::2"}
BEYOND = {4: "10.77.1.5", 6: "fd00:77:1::5"}
FAR = {4: "198.51.100.7", 6: "2001:db8:7::7"}
WEB, DB, REMOTE_NODE = 1001, 2002, 6
IN, OUT = 0, 1
ALLOW = PolicyValue()
TO_POD, TO_STACK, BY_TUNNEL = (Action.ENDPOINT, 0), (Action.STACK, 0), (Action.TUNNEL, 0)

_PORTS = itertools.count(3000)


def dropped(reason: Drop) -> tuple[Action, int]:
    return Action.DROPPED, int(reason)


@pytest.fixture(params=kernels.KINDS, scope="module")
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    """A node with tunnels, for all tests: each has ports of its own."""
    for made in kernels.bench(request.param, Overlay("vxlan", ())):
        made.kernel.start()
        made.kernel.set_prefixes([Prefix("10.77.0.0/24"), Prefix("fd00:77::/64")])
        addresses = tuple(Address(text) for text in POD.values())
        plugged = made.kernel.plug(Link(1, made.namespace("pod1"), "eth0", addresses, 0))
        where = plugged.ifindex, WEB, plugged.host_mac, plugged.pod_mac
        made.kernel.put_endpoint(EndpointEntry(1, *where, addresses, held=False))
        yield made


class World:
    """The node's pod, the other node's, and the tunnel between them: outside in one family, inside in one."""

    def __init__(self, bench: Bench, family: int, outer: int) -> None:
        self.bench, self.kernel, self.family = bench, bench.kernel, family
        self.pod, self.beyond, self.far, self.node = POD[family], BEYOND[family], FAR[family], NODE[family]
        self.peer, self.stranger = pack_address(Address(OTHER[outer])), pack_address(Address(STRANGER[outer]))
        wanted = {Prefix(text): 1 for text in NODE.values()} | {Prefix(text): REMOTE_NODE for text in OTHER.values()}
        self.kernel.apply_addresses(wanted, self.kernel.addresses().keys() - wanted.keys())
        prefixes = [Prefix(text) for text in ("10.77.1.0/24", "fd00:77:1::/64", *OTHER.values())]
        self.kernel.apply_tunnels(dict.fromkeys(prefixes, Address(OTHER[outer])), ())
        self.allow({PolicyKey(DB, 80, TCP, IN): ALLOW, PolicyKey(0, 0, 0, OUT): ALLOW})

    def allow(self, rows: dict[PolicyKey, PolicyValue], endpoint: int = 1) -> None:
        """Make the policy of the pod be just these rows."""
        self.kernel.apply_policy(endpoint, rows, self.kernel.policy(endpoint).keys() - rows.keys())

    def protect(self, rows: dict[PolicyKey, PolicyValue]) -> None:
        """Filter the node itself by just these rows."""
        self.allow(rows, HOST_ENDPOINT)
        self.kernel.put_host(HostEntry(tuple(sorted(Address(text) for text in NODE.values()))))

    def comes(
        self, body: Transport, number: int = DB, source: str = "", destination: str = "", **more: int
    ) -> tuple[Action, int]:
        packet = frame(body, source or self.beyond, destination or self.pod, **more)
        return self.bench.meet(packet, door=Origin.OVERLAY, tunnel=Tunnel(self.peer, number))

    def sends(self, body: Transport, destination: str = "", **more: int) -> tuple[Action, int]:
        return self.bench.meet(frame(body, self.pod, destination or self.beyond, **more), 1)

    def stack_sends(self, body: Transport, source: str = "", came_by: int = 0) -> tuple[Action, int]:
        return self.bench.meet(frame(body, source or self.node, self.beyond), door=Origin.HOST, came_by=came_by)


@pytest.fixture(params=[(4, 4), (6, 4), (4, 6), (6, 6)], ids=["4 in 4", "6 in 4", "4 in 6", "6 in 6"])
def world(request: pytest.FixtureRequest, bench: Bench) -> Iterator[World]:
    """The pod lets in TCP port 80 of db, which lives on the other node, and may send everything."""
    made = World(bench, *request.param)
    yield made
    bench.kernel.delete_host()


@pytest.fixture
def port() -> int:
    """Return a port that no other test has."""
    return next(_PORTS)


def test_the_number_says_who_sends(world: World, port: int) -> None:
    assert world.comes(tcp(port, 80, SYN), WEB) == dropped(Drop.POLICY)
    assert world.comes(tcp(port, 80, SYN)) == TO_POD
    assert world.comes(tcp(port, 81, SYN)) == dropped(Drop.POLICY)
    assert world.sends(tcp(80, port, SYN | ACK)) == BY_TUNNEL


def test_another_number_is_judged_anew(world: World, port: int) -> None:
    assert world.comes(tcp(port, 80, SYN)) == TO_POD
    assert world.comes(tcp(port, 80, ACK), WEB) == dropped(Drop.POLICY)
    assert world.comes(tcp(port, 80, ACK)) == TO_POD


def test_what_the_number_has_no_room_for_the_address_tells(world: World, port: int) -> None:
    world.kernel.apply_addresses({Prefix(world.beyond): DB}, ())
    assert world.comes(tcp(port, 80, SYN), 2) == TO_POD
    assert world.comes(tcp(port, 80, SYN), 1 << 23, source=world.far) == dropped(Drop.POLICY)


def test_only_nodes_that_are_known_are_believed(world: World, port: int) -> None:
    packet = frame(tcp(port, 80, SYN), world.beyond, world.pod)
    stranger = Tunnel(world.stranger, DB)
    assert world.bench.meet(packet, door=Origin.OVERLAY, tunnel=stranger) == dropped(Drop.UNKNOWN_SENDER)
    assert world.bench.meet(packet, door=Origin.OVERLAY) == dropped(Drop.NO_TUNNEL_KEY)
    assert world.comes(tcp(port, 80, SYN), 0) == dropped(Drop.INVALID_IDENTITY)
    assert world.comes(tcp(port, 80, SYN), 1) == dropped(Drop.INVALID_IDENTITY)


def test_nobody_in_a_tunnel_speaks_for_this_nodes_pods_or_for_the_node(world: World, port: int) -> None:
    assert world.comes(tcp(port, 80, SYN), source=world.pod) == dropped(Drop.INVALID_SOURCE)
    world.protect({PolicyKey(0, 0, 0, IN): ALLOW})
    assert world.comes(tcp(port, 80, SYN), source=world.node) == dropped(Drop.INVALID_SOURCE)


def test_what_comes_by_tunnels_comes_by_nothing_else(world: World, port: int) -> None:
    packet = frame(tcp(port, 80, SYN), world.beyond, world.pod)
    assert world.bench.meet(packet) == dropped(Drop.INVALID_SOURCE)
    assert world.comes(tcp(port, 80, SYN)) == TO_POD
    assert world.bench.meet(packet) == dropped(Drop.INVALID_SOURCE)


def test_what_is_for_nobody_here_is_dropped(world: World, port: int) -> None:
    assert world.comes(udp(port, 9), destination=world.far) == dropped(Drop.UNKNOWN_TARGET)
    assert world.comes(udp(port, 9), destination=world.node) == TO_STACK
    world.protect({PolicyKey(DB, 9, 17, IN): ALLOW})
    assert world.comes(udp(port, 9), destination=world.node) == TO_STACK
    assert world.comes(udp(port, 10), destination=world.node) == dropped(Drop.POLICY)


def test_what_cannot_be_read_is_dropped_by_name(world: World, port: int) -> None:
    assert world.comes(Transport(TCP, b"x" * 12)) == dropped(Drop.TRUNCATED)
    assert world.comes(tcp(port, 80, SYN), total=1400) == dropped(Drop.INVALID_PACKET)
    assert world.comes(Transport(253, b"x" * 40)) == dropped(Drop.UNKNOWN_L4)
    assert world.comes(udp(port, 80), fragment=185 if world.family == 4 else 1480) == dropped(Drop.FRAGMENT_NOT_FOUND)
    assert world.comes(tcp(port, 80, SYN), ttl=1) == (Action.REFUSED, int(Drop.TTL_EXCEEDED))
    arp = b"\x02" * 12 + b"\x08\x06" + bytes(46)
    assert world.bench.meet(arp, door=Origin.OVERLAY, tunnel=Tunnel(world.peer, DB))[0] is Action.DROPPED


def test_a_tunnel_inside_a_tunnel_is_a_packet_like_others(world: World, port: int) -> None:
    inner = frame(tcp(port, 80, SYN), world.beyond, world.pod)
    vxlan = b"\x08\0\0\0" + DB.to_bytes(3, "big") + b"\0"
    assert world.comes(udp(port, 8472, vxlan + inner)) == dropped(Drop.POLICY)
    assert world.comes(udp(port, 8472, vxlan + inner), destination=world.far) == dropped(Drop.UNKNOWN_TARGET)


def test_what_pods_send_says_who_they_are(world: World, port: int) -> None:
    assert world.sends(tcp(port, 443, SYN)) == BY_TUNNEL
    assert world.bench.taken == Tunnel(world.peer, WEB)
    assert world.comes(tcp(443, port, SYN | ACK)) == TO_POD
    assert world.sends(udp(port, 9), destination=world.far)[0] is not Action.TUNNEL
    assert world.sends(tcp(port, 443, SYN), ttl=1) == (Action.REFUSED, int(Drop.TTL_EXCEEDED))
    assert world.sends(udp(port, 9, b"x" * 1500)) == (Action.REFUSED, int(Drop.TOO_BIG))
    world.allow({})
    assert world.sends(tcp(port, 443, ACK)) == dropped(Drop.POLICY)


def test_errors_pass_for_what_was_sent(world: World, port: int) -> None:
    sent = frame(udp(port, 9), world.pod, world.beyond)
    error = icmp(3 if world.family == 4 else 1, 0, sent[14:], v6=world.family == 6)
    assert world.comes(error) == dropped(Drop.POLICY)
    assert world.sends(udp(port, 9)) == BY_TUNNEL
    assert world.comes(error) == TO_POD


def test_what_the_stack_sends_goes_as_the_node_or_as_the_source(world: World, port: int) -> None:
    assert world.stack_sends(tcp(port, 80, SYN)) == BY_TUNNEL
    assert world.bench.taken == Tunnel(world.peer, REMOTE_NODE)
    world.kernel.apply_addresses({Prefix(world.far): DB}, ())
    assert world.stack_sends(tcp(port, 80, SYN), world.far, came_by=7) == BY_TUNNEL
    assert world.bench.taken == Tunnel(world.peer, DB)
    world.kernel.apply_addresses({Prefix(world.far): (1 << 24) + 5}, ())
    assert world.stack_sends(tcp(port, 80, SYN), world.far, came_by=7) == BY_TUNNEL
    assert world.bench.taken == Tunnel(world.peer, 2)


def test_a_filtered_node_is_judged_on_its_way_into_tunnels(world: World, port: int) -> None:
    world.kernel.apply_addresses({Prefix(world.beyond): DB}, ())
    world.protect({PolicyKey(DB, 80, TCP, OUT): ALLOW})
    assert world.stack_sends(tcp(port, 81, SYN)) == dropped(Drop.POLICY)
    assert world.stack_sends(tcp(port, 80, SYN)) == BY_TUNNEL
    assert world.comes(tcp(80, port, SYN | ACK), destination=world.node) == TO_STACK
    assert world.comes(echo(world.family, port), destination=world.node) == dropped(Drop.POLICY)


def test_a_frame_of_another_kind_is_not_led_into_a_tunnel(world: World, port: int) -> None:
    packet = frame(tcp(port, 80, SYN), world.node, world.beyond)
    foreign = packet[:12] + b"\x88\xb5" + packet[14:]
    assert world.bench.meet(foreign, door=Origin.HOST) == (Action.UNTOUCHED, 0)


def test_what_the_node_carries_on_for_others_keeps_its_way_into_the_tunnel(world: World, port: int) -> None:
    """It was seen at an uplink before its prefix was another node's."""
    world.protect({})
    packet = frame(tcp(port, 80, SYN), world.node, world.beyond)
    assert world.bench.meet(packet, door=Origin.UPLINK, came_by=7) == (Action.UNTOUCHED, 0)
    assert world.stack_sends(tcp(port, 80, SYN), came_by=7) == BY_TUNNEL
