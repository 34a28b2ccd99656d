"""Two real nodes and the tunnels between them: who reaches whom, as whom, what is on the wire, and whose word counts."""

from __future__ import annotations

import select
import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import closing

import pytest

from fairlead.address import Address, Prefix
from services.datapath.kernel import devices, netlink, overlay
from services.datapath.kernel.netlink import Netlink
from services.datapath.operations import PolicyKey, PolicyValue
from services.datapath.reports import DropReason as Drop
from tests.kernel.nodes import (
    PORTS,
    REMOTE_NODE,
    Fleet,
    frames,
    kind_of,
    listening_to_wire,
    new_fleet,
    opened,
    outside,
    tunnelled,
)
from tests.kernel.packets import Transport, echo, frame, udp
from tests.kernel.rig import ALLOW_IN, ALLOW_OUT, IDENTITY, pod_address, run
from tests.kernel.sending import families

pytestmark = pytest.mark.kernel

KINDS = {"vxlan over IPv4": ("vxlan", 4), "vxlan over IPv6": ("vxlan", 6), "geneve over IPv4": ("geneve", 4)}


@pytest.fixture(scope="module", params=list(KINDS.values()), ids=list(KINDS))
def world(request: pytest.FixtureRequest) -> Iterator[Fleet]:
    kind, underlay = request.param
    with closing(Netlink()) as wire:
        if not overlay.can_make(wire, kind):
            pytest.skip(f"KERNEL TESTS DO NOT RUN: this kernel makes no {kind} devices")
    with new_fleet(kind, underlay) as made:
        yield made


@pytest.fixture
def fleet(world: Fleet) -> Fleet:
    world.reset()
    return world


def say(fleet: Fleet, which: str, number: int, body: Transport, source: str, destination: str) -> None:
    """Send node 2 a tunnel's packet from a place that may or may not be a node."""
    packet = tunnelled(kind_of(fleet), number, frame(body, source, destination))
    with fleet.nodes[2].socket_in(which, socket.SOCK_DGRAM, fleet.underlay) as sender:
        sender.sendto(packet, (str(outside(2, fleet.underlay)), PORTS[kind_of(fleet)]))


def dropped(fleet: Fleet) -> list[tuple[int, int]]:
    """Return reason and identity of the source of what node 2 has dropped and told since the last time."""
    with fleet.on(2) as node:
        return [(event.reason, event.source_identity) for event in node.kernel.events(2) if event.reason]


@families
def test_everybody_reaches_everybody_although_the_network_knows_no_pod(fleet: Fleet, family: int) -> None:
    one, two = fleet.nodes[1], fleet.nodes[2]
    ways = {
        "pod to pod": one.ping("1", pod_address(2, family)),
        "pod to the other node": one.ping("1", str(outside(2, family))),
        "node to the other's pod": two.ping("n2", pod_address(1, family)),
        "node to its own pod": two.ping("n2", pod_address(2, family)),
        "pod to its own node": two.ping("2", str(outside(2, family))),
    }
    assert [way for way, passed in ways.items() if not passed] == []
    for which, server, address in (("1", "2", pod_address(2, family)), ("n1", "2", pod_address(2, family))):
        with two.listen(server, 7001, family):
            assert one.connects(which, address, 7001)
    with two.listen("n2", 7001, family):
        assert one.connects("1", str(outside(2, family)), 7001)


@families
def test_tunnels_say_who_sends(fleet: Fleet, family: int) -> None:
    port = PORTS[kind_of(fleet)]
    with listening_to_wire(fleet) as raw:
        assert fleet.nodes[1].ping("1", pod_address(2, family))
        assert fleet.nodes[1].ping("n1", pod_address(2, family))
        seen = [inner for packet in frames(raw) if (inner := opened(packet, port))]
    told = {(number, inner[14:][12:16] if family == 4 else inner[14:][8:24]) for number, inner in seen}
    pods = {number: Address(pod_address(number, family)).packed for number in (1, 2)}
    assert told == {
        (IDENTITY[1], pods[1]),
        (IDENTITY[2], pods[2]),
        (REMOTE_NODE, outside(1, family).packed),
    }
    assert {inner[21 if family == 6 else 22] for number, inner in seen if number != REMOTE_NODE} == {63}


def test_nothing_of_pods_is_on_the_wire_outside_tunnels(fleet: Fleet) -> None:
    with listening_to_wire(fleet) as raw:
        assert fleet.nodes[1].ping("1", pod_address(2, 4))
        naked = [packet for packet in frames(raw) if Address(pod_address(1, 4)).packed in packet[26:34]]
    assert naked == []


@families
def test_the_number_decides_and_not_the_address(fleet: Fleet, family: int) -> None:
    """The receiver has not heard of the pod yet: who it is, its node says."""
    with fleet.on(2) as node:
        node.kernel.apply_addresses({}, [Prefix(pod_address(1, family))])
        node.policy(2, {PolicyKey(IDENTITY[1], 0, 0, 0): PolicyValue()})
    assert fleet.nodes[1].ping("1", pod_address(2, family))
    assert not fleet.nodes[1].ping("n1", pod_address(2, family))
    assert (Drop.POLICY, REMOTE_NODE) in dropped(fleet)


def test_another_identity_counts_with_the_next_packet(fleet: Fleet) -> None:
    """The address map of the receiver says nothing new: the tunnel does."""
    with fleet.on(2) as node:
        node.policy(2, {PolicyKey(IDENTITY[1], 0, 0, 0): PolicyValue()})
    with fleet.nodes[2].listen("2", 7002) as listening, fleet.nodes[1].socket_in("1") as client:
        client.connect((pod_address(2, 4), 7002))
        server, _ = listening.accept()
        client.sendall(b"before")
        assert server.recv(100) == b"before"
        with fleet.on(1) as node:
            node.kernel.put_endpoint(node.entry(1, identity=1005))
        client.sendall(b"after")
        assert (Drop.POLICY, 1005) in dropped(fleet)
        assert not select.select([server], [], [], 0.3)[0]
        server.close()


@families
def test_a_stranger_can_say_nothing(fleet: Fleet, family: int) -> None:
    say(fleet, "w", IDENTITY[1], echo(family, 7), pod_address(1, family), pod_address(2, family))
    assert dropped(fleet) == [(Drop.UNKNOWN_SENDER, 0)]


@families
def test_a_node_cannot_speak_for_this_one_or_for_nobody(fleet: Fleet, family: int) -> None:
    ends = (pod_address(1, family), pod_address(2, family))
    for number in (0, 1):
        say(fleet, "n1", number, echo(family, 7), *ends)
        assert dropped(fleet) == [(Drop.INVALID_IDENTITY, 0)]
    say(fleet, "n1", IDENTITY[1], udp(1, 2), pod_address(2, family), pod_address(2, family))
    assert dropped(fleet) == [(Drop.INVALID_SOURCE, 0)]
    say(fleet, "n1", IDENTITY[1], udp(1, 2), pod_address(1, family), pod_address(9, family))
    assert dropped(fleet) == [(Drop.UNKNOWN_TARGET, IDENTITY[1])]


@families
def test_what_comes_by_tunnels_comes_by_nothing_else(fleet: Fleet, family: int) -> None:
    """A stranger on the segment sends node 2 a plain packet with pod 1's address: also into a flow that stands."""
    assert fleet.nodes[1].ping("1", pod_address(2, family))
    for body in (udp(1, 2), udp(1, 2)):
        with fleet.on(2) as node:
            uplink = devices.find_device(node.kernel._wire, "up0")
            assert uplink is not None
            plain = frame(body, pod_address(1, family), pod_address(2, family))
            program = node.program("from_network")
            assert program.run(plain, uplink.ifindex).action == 2
            program.close()
        assert [reason for reason, _ in dropped(fleet)] == [Drop.INVALID_SOURCE]
        with fleet.nodes[1].socket_in("1", socket.SOCK_DGRAM, family) as sender:
            sender.bind(("", 1))
            sender.sendto(b"x", (pod_address(2, family), 2))


def test_a_packet_without_a_tunnel_is_none_of_this_device(fleet: Fleet) -> None:
    with fleet.on(2) as node:
        program = node.program("from_overlay")
        assert program.run(frame(echo(4, 7), pod_address(1, 4), pod_address(2, 4))).action == 2
        assert program.run(b"\x02" * 12 + b"\x08\x06" + bytes(46)).action == 2
        program.close()
    assert dropped(fleet) == [(Drop.NO_TUNNEL_KEY, 0)]


def test_a_far_end_that_is_known_no_more_is_told(fleet: Fleet) -> None:
    """A flow whose prefix somebody takes out of the map by hand: the flow knows, and there is no way."""
    assert fleet.nodes[1].ping("1", pod_address(2, 4))
    with fleet.on(1) as node, node.socket_in("1", socket.SOCK_DGRAM) as sender:
        sender.sendto(b"x", (pod_address(2, 4), 9))
        table = node.kernel._tables.maps["tunnels"]
        table.delete_all(table.items())
        reasons: list[int] = []
        for _ in range(50):
            sender.sendto(b"x", (pod_address(2, 4), 9))
            reasons += [event.reason for event in node.kernel.events(0.05)]
            if Drop.NO_TUNNEL in reasons:
                break
        assert Drop.NO_TUNNEL in reasons


@families
def test_bulk_arrives_whole_without_being_sent_twice(fleet: Fleet, family: int) -> None:
    payload = bytes(range(256)) * (1 << 14)
    with fleet.nodes[2].listen("2", 7003, family) as listening, fleet.nodes[1].socket_in("1", family=family) as client:
        client.connect((pod_address(2, family), 7003))
        server, _ = listening.accept()
        server.settimeout(5)
        client.setblocking(False)
        sent, received = 0, bytearray()
        while len(received) < len(payload):
            readable, writable, _ = select.select([server], [client] if sent < len(payload) else [], [], 5)
            assert readable or writable, "nothing moves"
            if writable:
                sent += client.send(payload[sent : sent + (1 << 16)])
            if readable:
                received += server.recv(1 << 18)
        again = struct.unpack_from("=I", client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256), 100)[0]
        segment_bytes = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)
        server.close()
    assert received == payload
    assert again <= 20, f"{again} segments of some 3000 were sent again"
    # 12: the timestamp option
    assert segment_bytes == mtu_of(fleet) - (40 if family == 4 else 60) - 12


def mtu_of(fleet: Fleet) -> int:
    return 1500 - (50 if fleet.underlay == 4 else 70)


@families
def test_the_largest_packet_fits_and_a_larger_one_is_cut(fleet: Fleet, family: int) -> None:
    largest = mtu_of(fleet) - (28 if family == 4 else 48)
    ask = ("nsenter", f"--net={fleet.nodes[1].netns('1')}", "ping", "-n", "-c1", "-W2", "-q")
    with listening_to_wire(fleet) as raw:
        run(*ask, "-M", "do", "-s", str(largest), pod_address(2, family))
        seen = frames(raw)
    assert max(map(len, seen)) == 1500 + 14
    run(*ask, "-s", str(largest + 2000), pod_address(2, family))
    run("nsenter", f"--net={fleet.nodes[1].netns('n1')}", *ask[2:], "-s", str(largest + 2000), pod_address(2, family))


@families
def test_who_sends_more_than_fits_is_told(fleet: Fleet, family: int) -> None:
    """A pod whose device somebody made larger than the way."""
    pod = ("nsenter", f"--net={fleet.nodes[1].netns('1')}")
    with fleet.on(1):
        run("ip", "link", "set", "fl00001", "mtu", "9000")
    run(*pod, "ip", "link", "set", "eth0", "mtu", "9000")
    asked = subprocess.run(
        [*pod, "ping", "-n", "-c1", "-W2", "-M", "do", "-s", "1500", pod_address(2, family)],
        capture_output=True,
        text=True,
        check=False,
        timeout=10,
    )
    with fleet.on(1) as node:
        node.kernel.plug(node.link(1))
        assert Drop.TOO_BIG in [event.reason for event in node.kernel.events(2)]
    run(*pod, "ip", "route", "flush", "cache")
    run(*pod, "ip", "-6", "route", "flush", "cache")
    assert f"mtu={mtu_of(fleet)}" in asked.stdout.replace(" = ", "=").replace("mtu: ", "mtu="), asked.stdout


def test_flows_go_on_when_the_service_starts_again(fleet: Fleet) -> None:
    with fleet.on(1) as node:
        before = devices.find_device(node.kernel._wire, overlay.DEVICES[kind_of(fleet)])
        node.kernel.start()
        after = devices.find_device(node.kernel._wire, overlay.DEVICES[kind_of(fleet)])
        assert before == after
        assert node.kernel.tunnels() == fleet.tunnels(1)
    assert fleet.nodes[1].ping("1", pod_address(2, 4))


def test_policy_of_the_sender_counts_too(fleet: Fleet) -> None:
    with fleet.on(1) as node:
        node.policy(1, {ALLOW_IN: PolicyValue(), PolicyKey(IDENTITY[2], 0, 17, 1): PolicyValue()})
    assert not fleet.nodes[1].ping("1", pod_address(2, 4))
    with fleet.on(1) as node:
        node.policy(1, {ALLOW_IN: PolicyValue(), ALLOW_OUT: PolicyValue()})
    assert fleet.nodes[1].ping("1", pod_address(2, 4))


def test_the_main_table_is_not_ours(fleet: Fleet) -> None:
    with fleet.on(1), netlink.inside(fleet.nodes[1].netns("n1")):
        assert "10.7.0" not in run("ip", "route", "show", "table", "main")
        assert "10.7.0.2/31 dev fairlead_host" in run("ip", "route", "show", "table", "2047")
