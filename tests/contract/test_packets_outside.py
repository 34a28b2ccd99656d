"""What becomes of packets that leave as the node's, and of the answers, asked of the real programs and of their twin alike."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address

import pytest

from fairlead.address import Address, Family, Prefix
from services.datapath.kernel.twin.cases import Action
from services.datapath.operations import EndpointEntry, Link, PolicyKey, PolicyValue
from services.datapath.outside import Masquerade
from services.datapath.reports import DropReason as Drop
from tests.kernel.packets import ACK, RST, SYN, TCP, Transport, echo, frame, icmp, tcp, udp
from tests.support import kernels
from tests.support.kernels import Bench

NODE = {4: "192.0.2.1", 6: "2001:db8::1"}
GATEWAY = {4: "192.0.2.2", 6: "2001:db8::2"}
WORLD = {4: "198.51.100.7", 6: "2001:db8:7::7"}
FRIEND = {4: "203.0.113.9", 6: "2001:db8:9::9"}
PODS = {1: {4: "10.77.0.2", 6: "fd00:77::2"}, 2: {4: "10.77.0.3", 6: "fd00:77::3"}}
ANY_OUT = PolicyKey(0, 0, 0, 1)
FIRST, LAST = 61000, 61001
OUT, IN, UNTOUCHED = (Action.NETWORK, 0), (Action.ENDPOINT, 0), (Action.UNTOUCHED, 0)

_PORTS = itertools.count(5000)


def dropped(reason: Drop) -> tuple[Action, int]:
    return Action.DROPPED, int(reason)


@pytest.fixture(params=kernels.KINDS, scope="module")
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    """A node with an uplink, for all tests: each has ports of its own."""
    for made in kernels.bench(request.param, uplink=dict(zip(NODE.values(), GATEWAY.values(), strict=True))):
        made.kernel.start()
        made.kernel.set_prefixes([Prefix("10.77.0.0/24"), Prefix("fd00:77::/64")])
        made.kernel.apply_addresses({Prefix(text): 1 for text in NODE.values()}, ())
        for endpoint, texts in PODS.items():
            addresses = tuple(Address(text) for text in texts.values())
            plugged = made.kernel.plug(Link(endpoint, made.namespace(f"pod{endpoint}"), "eth0", addresses, 0))
            where = plugged.ifindex, 1000 + endpoint, plugged.host_mac, plugged.pod_mac
            made.kernel.put_endpoint(EndpointEntry(endpoint, *where, addresses, held=False))
        yield made


class World:
    """The node's two pods and the world, in one family; two ports are all that the node has for them."""

    def __init__(self, bench: Bench, family: int) -> None:
        self.bench, self.kernel, self.family, self.v6 = bench, bench.kernel, family, family == 6
        self.world, self.node, self.ends = WORLD[family], NODE[family], slice(26, 34) if family == 4 else slice(22, 54)
        self.masquerade()
        for endpoint in PODS:
            gone = self.kernel.policy(endpoint).keys() - {ANY_OUT}
            self.kernel.apply_policy(endpoint, {ANY_OUT: PolicyValue()}, gone)

    def masquerade(self, *families: Family) -> None:
        """Have flows of these families (none: both) leave as the node's, but for those to a friend."""
        friends = frozenset(Address(text).prefix for text in FRIEND.values())
        own = tuple(sorted(Address(text) for text in NODE.values()))
        self.kernel.set_masquerade(Masquerade(frozenset(families or Family), FIRST, LAST, friends, own))

    def sends(self, body: Transport, /, *, pod: int = 1, to: str = "", fragment: int = -1) -> tuple[Action, int]:
        more = {} if fragment < 0 else {"fragment": fragment}
        return self.bench.meet(frame(body, PODS[pod][self.family], to or self.world, **more), pod)

    def answers(self, body: Transport, source: str = "", *, ttl: int = 64, fragment: int = -1) -> tuple[Action, int]:
        more = {"ttl": ttl} if fragment < 0 else {"fragment": fragment}
        return self.bench.meet(frame(body, source or self.world, self.node, **more))

    @property
    def source(self) -> str:
        """Return the source address of the frame as it left."""
        ends = self.bench.left[self.ends]
        return str(ip_address(ends[: len(ends) // 2]))

    @property
    def ports(self) -> tuple[int, int]:
        """Return source and destination port of the frame as it left."""
        ports: tuple[int, int] = struct.unpack_from(">HH", self.bench.left, self.ends.stop)
        return ports


@pytest.fixture(params=[4, 6])
def world(request: pytest.FixtureRequest, bench: Bench) -> Iterator[World]:
    made = World(bench, request.param)
    yield made
    bench.kernel.set_masquerade(Masquerade())


@pytest.fixture
def port() -> int:
    """Return a port that no other test has."""
    return next(_PORTS)


def test_the_world_sees_the_node_and_its_answers_reach_the_pod(world: World, port: int) -> None:
    assert world.sends(tcp(port, 80, SYN)) == OUT
    outer, remote = world.ports
    assert (world.source, remote) == (world.node, 80)
    assert FIRST <= outer <= LAST
    assert world.answers(tcp(80, outer, SYN | ACK)) == IN
    assert world.ports == (80, port)
    assert world.sends(tcp(port, 80, ACK)) == OUT
    assert world.ports == (outer, 80)


def test_a_pods_own_port_is_kept_when_it_is_free(world: World, port: int) -> None:
    assert world.sends(udp(LAST, port)) == OUT
    assert world.ports == (LAST, port)
    assert world.sends(udp(LAST, port), pod=2) == OUT
    assert world.ports == (FIRST, port)
    assert world.answers(udp(port, FIRST)) == IN
    assert world.ports == (port, LAST)


def test_who_finds_no_free_port_is_dropped_by_name(world: World, port: int) -> None:
    assert [world.sends(udp(number, port)) for number in (1, 2)] == [OUT, OUT]
    assert world.sends(udp(3, port)) == dropped(Drop.NO_MAPPING)
    assert world.sends(udp(1, port)) == OUT
    assert world.sends(udp(3, port), to=FRIEND[world.family]) == OUT


def test_only_the_world_sees_the_node(world: World, port: int) -> None:
    assert world.sends(udp(port, 9), to=FRIEND[world.family]) == OUT
    assert world.source == PODS[1][world.family]
    world.masquerade(Family.IPV4 if world.v6 else Family.IPV6)
    assert world.sends(udp(port, 10)) == OUT
    assert world.source == PODS[1][world.family]


def test_who_was_not_asked_gets_no_answer_through(world: World, port: int) -> None:
    assert world.answers(tcp(port, FIRST, SYN)) == UNTOUCHED
    assert world.sends(tcp(port, port, SYN)) == OUT
    outer, _ = world.ports
    assert world.answers(tcp(port, outer, SYN)) == dropped(Drop.NO_MAPPING)
    assert world.answers(tcp(port, outer, ACK), FRIEND[world.family]) == UNTOUCHED
    assert world.answers(tcp(port, outer, ACK), ttl=1) == dropped(Drop.TTL_EXCEEDED)


def test_an_echo_keeps_its_pod(world: World, port: int) -> None:
    assert world.sends(echo(world.family, port)) == OUT
    outer = int.from_bytes(world.bench.left[world.ends.stop + 4 : world.ends.stop + 6], "big")
    assert world.answers(echo(world.family, outer, reply=True)) == IN
    assert int.from_bytes(world.bench.left[world.ends.stop + 4 : world.ends.stop + 6], "big") == port


def test_errors_reach_the_pod_and_leave_it(world: World, port: int) -> None:
    assert world.sends(udp(port, 33434)) == OUT
    kind, quoted = (1 if world.v6 else 3), world.bench.left[14:]
    outer, _ = world.ports
    assert world.answers(icmp(kind, 0, quoted, v6=world.v6), GATEWAY[world.family]) == IN
    inside = world.bench.left[world.ends.stop + 8 :]
    at = 40 if world.v6 else 20
    assert struct.unpack_from(">H", inside, at) == (port,)
    assert world.answers(udp(33434, outer)) == IN
    assert world.sends(icmp(kind, 0, world.bench.left[14:], v6=world.v6)) == OUT
    assert world.source == world.node


def test_what_cannot_be_told_apart_by_its_answer_is_dropped(world: World, port: int) -> None:
    assert world.sends(icmp(13 if not world.v6 else 150, port, v6=world.v6)) == dropped(Drop.NO_MASQUERADE)
    assert world.sends(tcp(port, 80, RST)) == dropped(Drop.NO_MAPPING)


def test_policy_judges_the_pod_by_its_own_address(world: World, port: int) -> None:
    assert world.sends(tcp(port, 80, SYN)) == OUT
    outer, _ = world.ports
    world.kernel.apply_policy(1, {PolicyKey(2, 80, TCP, 1): PolicyValue(deny=True)}, ())
    assert world.sends(tcp(port, 80, ACK)) == dropped(Drop.POLICY_DENY)
    assert world.answers(tcp(80, outer, ACK)) == dropped(Drop.POLICY_DENY)


def test_fragments_follow_their_first_one(world: World, port: int) -> None:
    first, later = (0x2000, 185) if not world.v6 else (1, 1480)
    rest = Transport(17, b"x" * 32)
    assert world.answers(rest, fragment=later) == UNTOUCHED
    assert world.sends(udp(port, 4500)) == OUT
    outer, _ = world.ports
    assert world.sends(rest, fragment=later) == dropped(Drop.FRAGMENT_NOT_FOUND)
    assert world.sends(udp(port, 4500), fragment=first) == OUT
    assert world.sends(rest, fragment=later) == OUT
    assert world.source == world.node
    assert world.answers(udp(4500, outer), fragment=first) == IN
    assert world.answers(rest, fragment=later) == IN


def test_a_flow_whose_far_end_moves_to_another_pod_is_the_pods_again(world: World, port: int) -> None:
    assert world.sends(udp(port, 4501)) == OUT
    pods = world.kernel.endpoints()
    moved = tuple(sorted((*pods[2].addresses, Address(world.world))))
    world.kernel.put_endpoint(replace(pods[2], addresses=moved))
    assert world.sends(udp(port, 4501)) == dropped(Drop.POLICY)
    world.kernel.apply_policy(2, {PolicyKey(0, 0, 0, 0): PolicyValue()}, ())
    assert world.sends(udp(port, 4501)) == IN
    assert world.source == PODS[1][world.family]
    world.kernel.put_endpoint(pods[2])


def test_the_outer_ends_can_be_listed(world: World, port: int) -> None:
    assert world.sends(udp(port, 4502)) == OUT
    outer, _ = world.ports
    held = [row for row in world.kernel.masqueraded() if row.pod_port == port]
    assert [(row.protocol, row.own, row.own_port, row.remote_port) for row in held] == [
        (17, Address(world.node), outer, 4502)
    ]
