"""What a host policy makes of tagged frames, groups and broadcasts: frames on a real wire, whose tags the device takes off."""

from __future__ import annotations

import select
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from services.datapath.kernel import netlink
from services.datapath.kernel.testrun import OK, SHOT
from services.datapath.operations import PolicyKey, PolicyValue
from services.datapath.reports import DropReason as Drop
from tests.kernel.firewall import OUT, Wires, protect
from tests.kernel.packets import SYN, Transport, frame, tcp, udp
from tests.kernel.rig import FAR, NODE, Rig, run
from tests.kernel.sending import families

pytestmark = pytest.mark.kernel

PORT = 7777
PRIORITY, VLAN, SERVICE_VLAN = b"\x81\x00\x60\x00", b"\x81\x00\x00\x05", b"\x88\xa8\x00\x00"
OPEN = {PolicyKey(2, PORT, 17, 0): PolicyValue()}
GROUPS = {4: ("224.0.0.5", "239.1.2.3", "255.255.255.255"), 6: ("ff02::5", "ff0e::1")}


class Wire:
    """The far end of the uplink, and a socket of the node that anybody might reach."""

    def __init__(self, rig: Rig, stack: ExitStack) -> None:
        self._rig = rig
        with netlink.inside(rig.netns("w")):
            self._raw = stack.enter_context(socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
            self._raw.bind(("eth0", 0))
        self._mac = bytes.fromhex(run("ip", "-br", "link", "show", "up0").split()[2].replace(":", ""))
        self._heard = {family: stack.enter_context(rig.socket_in("n", socket.SOCK_DGRAM, family)) for family in (4, 6)}
        for heard in self._heard.values():
            if heard.family == socket.AF_INET6:
                heard.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            heard.bind(("", PORT))

    def reaches(self, family: int, tags: bytes = b"") -> bool:
        """Send a datagram behind these tags; tell whether the node's socket hears it before one that surely comes."""
        self._send(family, PORT, b"tagged", tags)
        protect(self._rig, OPEN)
        self._send(family, PORT, b"plain", b"")
        texts = []
        while b"plain" not in texts:
            assert select.select([self._heard[family]], [], [], 5)[0], "not even the packet that is allowed has come"
            texts.append(self._heard[family].recv(100))
        return b"tagged" in texts

    def _send(self, family: int, port: int, text: bytes, tags: bytes) -> None:
        body = udp(9000, port, text)
        # an IPv6 packet needs its checksum
        packet = frame(summed(body, family), FAR[family], NODE[family])
        self._raw.send(self._mac + packet[6:12] + tags + packet[12:])


def summed(body: Transport, family: int) -> Transport:
    if family == 4:
        return body
    ends = b"".join(socket.inet_pton(socket.AF_INET6, text) for text in (FAR[6], NODE[6]))
    data = ends + struct.pack(">II", len(body.bytes), 17) + body.bytes + bytes(len(body.bytes) % 2)
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return Transport(body.protocol, body.bytes[:6] + struct.pack(">H", ~total & 0xFFFF or 0xFFFF) + body.bytes[8:])


@pytest.fixture
def wire(closed: Rig) -> Iterator[Wire]:
    with ExitStack() as stack:
        yield Wire(closed, stack)


@families
def test_a_tag_that_is_only_a_priority_hides_nothing(closed: Rig, wire: Wire, family: int) -> None:
    closed.take_events()
    assert not wire.reaches(family, PRIORITY)
    assert Drop.POLICY in {event.reason for event in closed.take_events() if event.dport == PORT}
    protect(closed, OPEN)
    assert wire.reaches(family, PRIORITY)


@families
def test_nor_does_one_behind_another(closed: Rig, wire: Wire, family: int) -> None:
    for tags in (PRIORITY * 2, SERVICE_VLAN + PRIORITY):
        before = vlan_drops(closed)
        protect(closed, {})
        assert not wire.reaches(family, tags)
        assert vlan_drops(closed) == before + 1


@families
def test_what_belongs_to_a_vlan_is_for_its_own_device_and_nobody_here(closed: Rig, wire: Wire, family: int) -> None:
    closed.take_events()
    before = vlan_drops(closed)
    for tags in (VLAN, PRIORITY + VLAN):
        assert not wire.reaches(family, tags)
    assert vlan_drops(closed) == before
    assert [event for event in closed.take_events() if event.reason] == []


@families
def test_a_priority_alone_is_no_reason_to_drop(closed: Rig, wire: Wire, family: int) -> None:
    protect(closed, OPEN)
    before = vlan_drops(closed)
    assert wire.reaches(family, PRIORITY)
    assert vlan_drops(closed) == before


def vlan_drops(rig: Rig) -> int:
    return sum(counter.packets for counter in rig.kernel.counters() if counter.reason == Drop.VLAN)


@families
def test_groups_pass_both_ways_and_are_no_flows(closed: Rig, wires: Wires, family: int) -> None:
    for group in GROUPS[family]:
        for body in (udp(9000, PORT), Transport(89, bytes(24))):
            assert wires.arrives(body, family, destination=group) == OK
            assert wires.leaves(body, family, destination=group) == OK
    assert not closed.flows()


def test_a_subnets_broadcast_is_judged_where_the_node_sends_it(closed: Rig, wires: Wires) -> None:
    assert wires.arrives(udp(9000, PORT), 4, destination="192.0.2.255") == OK
    assert wires.leaves(udp(9000, PORT), 4, destination="192.0.2.255") == SHOT
    protect(closed, {PolicyKey(2, PORT, 17, OUT): PolicyValue()})
    assert wires.leaves(udp(9000, PORT), 4, destination="192.0.2.255") == OK


@families
def test_nobody_opens_a_connection_by_a_group(closed: Rig, wires: Wires, family: int) -> None:
    """A group is no sender: what claims to come from one is judged like all others."""
    assert wires.arrives(tcp(9000, 80, SYN), family, source=GROUPS[family][0]) == SHOT
