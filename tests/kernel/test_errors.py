"""What a pod hears when its packet cannot go on: the time to live ran out, or the way is narrower than the packet."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import struct
import subprocess
from collections.abc import Iterator

import pytest

from fairlead.address import Prefix
from services.datapath.kernel import devices, door, links, netlink, routes
from services.datapath.kernel.testrun import REDIRECT
from services.datapath.reports import DropReason as Drop
from services.datapath.reports import EventKind
from tests.kernel.packets import checksum, frame, udp
from tests.kernel.rig import FAR, NODE, Rig, pod_address, run
from tests.kernel.sending import carried, families

pytestmark = pytest.mark.kernel

MTU = 1400
_HIGH_PORT = 33434
NODAD = {4: (), 6: ("nodad",)}


def forget_sizes(rig: Rig) -> None:
    """Have the pods remember nothing of what they were told."""
    for family in (4, 6):
        for which in ("1", "2"):
            run("ip", "-n", rig.name + which, f"-{family}", "route", "flush", "cache")


@contextlib.contextmanager
def narrow_route(rig: Rig) -> Iterator[None]:
    """The route takes less than its device."""
    if tuple(int(part) for part in re.findall(r"\d+", os.uname().release)[:2]) < (5, 12):
        pytest.skip(f"kernel {os.uname().release} does not tell a way's own MTU (5.12): the uplinks' counts")
    for family in (4, 6):
        run("ip", f"-{family}", "route", "replace", "default", "via", FAR[family], "mtu", "lock", str(MTU))
    try:
        yield
    finally:
        for family in (4, 6):
            run("ip", f"-{family}", "route", "replace", "default", "via", FAR[family])
        forget_sizes(rig)


@contextlib.contextmanager
def narrow_uplink(rig: Rig) -> Iterator[None]:
    """The device takes less than those of pods that were there before."""
    run("ip", "link", "set", "up0", "mtu", str(MTU))
    rig.kernel.start()
    try:
        yield
    finally:
        run("ip", "link", "set", "up0", "mtu", "1500")
        rig.kernel.start()
        forget_sizes(rig)


@pytest.fixture(params=[narrow_route, narrow_uplink])
def narrow(rig: Rig, request: pytest.FixtureRequest) -> Iterator[Rig]:
    """The way off the node takes less than the pods' devices do."""
    for family in (4, 6):
        run("ip", "-n", f"{rig.name}w", f"-{family}", "addr", "replace", behind(family), "dev", "lo", *NODAD[family])
    with request.param(rig):
        yield rig
    for family in (4, 6):
        run("ip", "-n", f"{rig.name}w", f"-{family}", "addr", "del", behind(family), "dev", "lo")


def behind(family: int) -> str:
    return "198.51.100.7" if family == 4 else "2001:db8:7::7"


def errors_of(sending: socket.socket, family: int) -> tuple[int, int, str]:
    """Return the kind of the newest ICMP error, what it says beside, and who sent it."""
    _, control, _, _ = sending.recvmsg(100, 1000, socket.MSG_ERRQUEUE)
    [(_, _, data)] = [found for found in control if found[1] == (11 if family == 4 else 25)]
    _, _, kind, _, _, info, _ = struct.unpack_from("=IBBBBII", data)
    start = 16 + (4 if family == 4 else 8)
    offender = data[start : start + (4 if family == 4 else 16)]
    return kind, info, socket.inet_ntop(socket.AF_INET if family == 4 else socket.AF_INET6, offender)


def talking(rig: Rig, which: str, family: int) -> socket.socket:
    """Return a datagram socket that keeps the errors it hears."""
    made = rig.socket_in(which, socket.SOCK_DGRAM, family)
    level, option = (socket.IPPROTO_IP, 11) if family == 4 else (socket.IPPROTO_IPV6, 25)
    made.setsockopt(level, option, 1)
    return made


@families
@pytest.mark.parametrize("far", ["world", "pod"])
def test_expired_packet_is_answered_by_the_node(rig: Rig, family: int, far: str) -> None:
    target = behind(family) if far == "world" else pod_address(2, family)
    with talking(rig, "1", family) as sending:
        level, option = (socket.IPPROTO_IP, socket.IP_TTL) if family == 4 else (socket.IPPROTO_IPV6, 16)
        sending.setsockopt(level, option, 1)
        sending.connect((target, _HIGH_PORT))
        sending.send(b"how far")
        await_error(sending)
        assert errors_of(sending, family) == (11 if family == 4 else 3, 0, NODE[family])
    told = [event for event in rig.take_events() if event.kind is EventKind.DROP]
    assert [(event.reason, event.dport) for event in told] == [(Drop.TTL_EXCEEDED, _HIGH_PORT)]


def await_error(sending: socket.socket) -> None:
    """Wait until the socket has an error."""
    with pytest.raises(OSError, match=r"No route|Message too long"):
        sending.recv(100)


@families
def test_expired_packet_from_the_network_is_answered(rig: Rig, family: int) -> None:
    with talking(rig, "w", family) as sending:
        level, option = (socket.IPPROTO_IP, socket.IP_TTL) if family == 4 else (socket.IPPROTO_IPV6, 16)
        sending.setsockopt(level, option, 1)
        sending.connect((pod_address(1, family), _HIGH_PORT))
        sending.send(b"how far")
        await_error(sending)
        assert errors_of(sending, family) == (11 if family == 4 else 3, 0, NODE[family])


@pytest.fixture
def sink(narrow: Rig, family: int) -> Iterator[socket.socket]:
    """Something that takes datagrams, behind the narrow way."""
    with narrow.socket_in("w", socket.SOCK_DGRAM, family) as receiving:
        receiving.bind((behind(family), _HIGH_PORT))
        receiving.settimeout(0.3)
        yield receiving


@families
def test_packet_larger_than_the_way_is_refused_with_the_size_that_fits(
    narrow: Rig, sink: socket.socket, family: int
) -> None:
    with talking(narrow, "1", family) as sending:
        level, option = (socket.IPPROTO_IP, 10) if family == 4 else (socket.IPPROTO_IPV6, 23)
        sending.setsockopt(level, option, 2)
        sending.connect((behind(family), _HIGH_PORT))
        for size in (100, 1300):  # the way is cached from now on
            sending.send(b"x" * size)
            assert len(sink.recv(3000)) == size
        sending.send(b"x" * 1440)
        await_error(sending)
        assert errors_of(sending, family) == (3 if family == 4 else 2, MTU, NODE[family])
        with pytest.raises(OSError, match="Message too long"):
            sending.send(b"x" * 1440)
    told = [event.reason for event in narrow.take_events() if event.kind is EventKind.DROP]
    assert told == [Drop.TOO_BIG]


@families
def test_sender_that_lets_its_packets_be_cut_cuts_them_itself(narrow: Rig, sink: socket.socket, family: int) -> None:
    with narrow.socket_in("1", socket.SOCK_DGRAM, family) as sending:
        level, option = (socket.IPPROTO_IP, 10) if family == 4 else (socket.IPPROTO_IPV6, 23)
        sending.setsockopt(level, option, 0)
        sending.connect((behind(family), _HIGH_PORT))
        received = b""
        for _ in range(10):
            sending.send(b"x" * 1440)
            with contextlib.suppress(TimeoutError):
                received = sink.recv(3000)
                break
    assert received == b"x" * 1440
    assert Drop.TOO_BIG in [event.reason for event in narrow.take_events()]


@families
def test_transfer_finds_the_size_that_fits(narrow: Rig, family: int) -> None:
    """Segments too long are refused once; the sender cuts smaller ones, and everything arrives."""
    target = behind(family)
    payload = b"x" * 300_000
    with narrow.listen("w", 7300, family) as listening, narrow.socket_in("1", family=family) as sending:
        sending.connect((target, 7300))
        receiving, _ = listening.accept()
        received = carried(sending, receiving, payload)
        receiving.close()
    assert received == payload
    assert Drop.TOO_BIG in [event.reason for event in narrow.take_events()]


def test_refused_packet_that_might_be_cut_keeps_a_sound_header(narrow: Rig) -> None:
    packet = frame(udp(1000, 80, b"x" * 1400), pod_address(1, 4), behind(4), fragment=0)
    after = narrow.program("from_pod").run(packet, narrow.plugged[1].ifindex)
    assert after.action == REDIRECT
    assert after.packet[20:22] == b"\x40\x00"
    assert checksum(after.packet[14:34]) == 0


def test_the_stack_forwards_nothing_that_was_refused(narrow: Rig) -> None:
    """It must refuse, never send on: no oversized packet reaches the network by another way."""
    with netlink.inside(narrow.netns("w")):
        sniffing = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    sniffing.bind(("eth0", 3))
    sniffing.settimeout(0.3)
    with narrow.socket_in("1", socket.SOCK_DGRAM) as sending:
        sending.setsockopt(socket.IPPROTO_IP, 10, 0)
        sending.sendto(b"x" * 1440, (behind(4), _HIGH_PORT))
        sending.sendto(b"end", (behind(4), _HIGH_PORT))
    lengths: list[int] = []
    while not lengths or lengths[-1] != 14 + 20 + 8 + 3:
        lengths.append(len(sniffing.recv(3000)))
    sniffing.close()
    assert max(lengths) < 1440


def test_ipv6_is_forwarded_by_our_own_device_alone(rig: Rig) -> None:
    done = subprocess.run(
        ("sysctl", "-n", f"net.ipv6.conf.{links.HOST_DEVICE}.force_forwarding", "net.ipv6.conf.all.forwarding"),
        capture_output=True,
        text=True,
        check=False,
    )
    if "force_forwarding" in done.stderr:
        pytest.skip(
            f"kernel {os.uname().release} has no force_forwarding (6.17): IPv6 errors need net.ipv6.conf.all.forwarding"
        )
    assert done.stdout.split() == ["1", "0"]


def test_the_stack_speaks_to_pods_in_their_size_where_its_device_takes_any(rig: Rig) -> None:
    """As on kernels that hand a device nothing larger than its MTU: what is too large would never be refused."""
    prefixes = Prefix("10.7.0.0/24"), Prefix("fd07::/64")
    try:
        with contextlib.closing(netlink.Netlink()) as wire:
            made = door.ensure(wire, MTU, features=())
            device = devices.find_device(wire, links.HOST_DEVICE)
            assert device is not None
            assert (device.mtu_bytes, made) == (65_535, door.Door(device.ifindex, MTU))
            routes.set_routes(wire, prefixes, made)
            for far in ("10.7.0.77", "fd07::77"):
                assert f"mtu {MTU} " in run("ip", "route", "get", far)
    finally:
        rig.kernel.start()
        rig.kernel.set_prefixes(prefixes)
