"""Protocols packet by packet, by test-run: ICMP, fragments, extension headers, ARP and neighbour discovery."""

from __future__ import annotations

import struct

import pytest

from fairlead.address import Address
from services.datapath.kernel import abi
from services.datapath.kernel.testrun import REDIRECT, SHOT, TestRun
from services.datapath.operations import PolicyKey, PolicyValue
from services.datapath.reports import DropReason as Drop
from tests.kernel.packets import (
    SYN,
    TCP,
    Transport,
    arp_request,
    checksum,
    echo,
    frame,
    icmp,
    sctp,
    solicitation,
    tcp,
    udp,
)
from tests.kernel.rig import ALLOW_OUT, FAR, Rig, pod_address
from tests.kernel.sending import families, reasons, send

pytestmark = pytest.mark.kernel


@families
def test_echo_is_judged_by_type_and_its_reply_passes(rig: Rig, pod: TestRun, family: int) -> None:
    protocol, request = (1, 8) if family == 4 else (58, 128)
    rig.policy(2, {PolicyKey(0, request, protocol, 0): PolicyValue()})
    rig.policy(1, {ALLOW_OUT: PolicyValue()})
    assert send(rig, pod, echo(family, 5, reply=True), family, sender=2) == SHOT
    assert send(rig, pod, echo(family, 5), family) == REDIRECT
    assert send(rig, pod, echo(family, 5, reply=True), family, sender=2) == REDIRECT
    assert send(rig, pod, echo(family, 6, reply=True), family, sender=2) == SHOT
    assert send(rig, pod, echo(family, 5), family, sender=2) == SHOT


@families
def test_icmp_errors_pass_only_with_their_flow(rig: Rig, pod: TestRun, network: TestRun, family: int) -> None:
    rig.policy(1, {ALLOW_OUT: PolicyValue()})
    sent = frame(udp(1000, 53), pod_address(1, family), FAR[family])
    router = "198.51.100.1" if family == 4 else "2001:db8:9::1"
    kind = 3 if family == 4 else 1
    error = frame(icmp(kind, 0, sent[14:], v6=family == 6), router, pod_address(1, family))
    assert network.run(error).action == SHOT
    pod.run(sent, rig.plugged[1].ifindex)
    assert network.run(error).action == REDIRECT
    to_other = frame(icmp(kind, 0, sent[14:], v6=family == 6), router, pod_address(2, family))
    rig.policy(2, {ALLOW_OUT: PolicyValue()})
    assert network.run(to_other).action == SHOT
    rig.policy(1, {})
    assert network.run(error).action == SHOT


@families
def test_later_fragments_follow_their_first(rig: Rig, pod: TestRun, family: int) -> None:
    rig.policy(2, {PolicyKey(0, 53, 17, 0): PolicyValue()})
    first, later = (0x2000, 185) if family == 4 else (1, 185 << 3)
    tail = Transport(17, b"x" * 40)
    assert send(rig, pod, tail, family, fragment=later, ident=9) == SHOT
    assert reasons(rig) == [Drop.FRAGMENT_NOT_FOUND]
    assert send(rig, pod, udp(1000, 53), family, fragment=first, ident=9) == REDIRECT
    assert send(rig, pod, tail, family, fragment=later, ident=9) == REDIRECT
    assert send(rig, pod, tail, family, fragment=later, ident=10) == SHOT
    assert send(rig, pod, udp(1000, 54), family, fragment=first, ident=11) == SHOT
    assert send(rig, pod, tail, family, fragment=later, ident=11) == SHOT


@families
def test_fragment_that_would_overwrite_tcp_flags_is_refused(rig: Rig, pod: TestRun, family: int) -> None:
    at_8 = 1 if family == 4 else 1 << 3
    assert send(rig, pod, Transport(TCP, bytes(40)), family, fragment=at_8) == SHOT
    assert reasons(rig) == [Drop.INVALID_PACKET]


@families
def test_sctp_has_ports(rig: Rig, pod: TestRun, family: int) -> None:
    rig.policy(2, {PolicyKey(0, 80, 132, 0): PolicyValue()})
    assert send(rig, pod, sctp(1000, 80), family) == REDIRECT
    assert send(rig, pod, sctp(1000, 81), family) == SHOT


@families
def test_unknown_transport_is_refused(rig: Rig, pod: TestRun, family: int) -> None:
    assert send(rig, pod, Transport(47, bytes(30)), family) == SHOT
    assert reasons(rig) == [Drop.UNKNOWN_L4]


@pytest.mark.parametrize("ihl", [6, 15])
def test_ipv4_options_are_walked(rig: Rig, pod: TestRun, ihl: int) -> None:
    rig.policy(2, {PolicyKey(0, 80, TCP, 0): PolicyValue()})
    assert send(rig, pod, tcp(1000, 80, SYN), 4, ihl=ihl) == REDIRECT
    assert send(rig, pod, tcp(1000, 81, SYN), 4, ihl=ihl) == SHOT
    assert send(rig, pod, tcp(1000, 80, SYN), 4, ihl=ihl, total=4 * ihl - 4) == SHOT


def test_extension_headers_are_walked(rig: Rig, pod: TestRun) -> None:
    rig.policy(2, {PolicyKey(0, 80, TCP, 0): PolicyValue()})
    for chain, expected in ((1, REDIRECT), (4, REDIRECT), (9, SHOT)):
        packet = frame(_chain(chain, 80), pod_address(1, 6), pod_address(2, 6))
        assert pod.run(packet, rig.plugged[1].ifindex).action == expected, chain
    packet = frame(_chain(2, 81), pod_address(1, 6), pod_address(2, 6))
    assert pod.run(packet, rig.plugged[1].ifindex).action == SHOT


def _chain(length: int, port: int) -> Transport:
    """Return TCP behind `length` destination option headers."""
    body, following = tcp(1000, port, SYN).bytes, TCP
    for _ in range(length):
        body, following = bytes([following, 0, 1, 4, 0, 0, 0, 0]) + body, 60
    return Transport(following, body)


def test_arp_is_answered_by_the_gateway_mac(rig: Rig, pod: TestRun) -> None:
    mac = rig.plugged[1].pod_mac
    after = pod.run(arp_request("10.7.0.1", "169.254.1.1", mac), rig.plugged[1].ifindex)
    assert after.action == REDIRECT
    assert after.packet[:12] == mac + abi.GATEWAY_MAC
    assert after.packet[20:42] == (
        b"\0\x02" + abi.GATEWAY_MAC + Address("169.254.1.1").packed + mac + Address("10.7.0.1").packed
    )
    assert pod.run(arp_request("10.7.0.1", "10.7.0.1", mac), rig.plugged[1].ifindex).action == SHOT


@pytest.mark.parametrize("sender", ["fd07::1", "fe80::9"])
def test_solicitation_is_answered(rig: Rig, pod: TestRun, sender: str) -> None:
    mac = rig.plugged[1].pod_mac
    after = pod.run(solicitation(sender, "fe80::1", mac), rig.plugged[1].ifindex)
    assert after.action == REDIRECT
    assert after.packet[:12] == mac + abi.GATEWAY_MAC
    ip, message = after.packet[14:54], after.packet[54:]
    assert ip[8:] == Address("fe80::1").packed + Address(sender).packed
    assert message[0] == 136
    assert message[8:] == Address("fe80::1").packed + b"\x02\x01" + abi.GATEWAY_MAC
    assert checksum(ip[8:] + struct.pack(">II", len(message), 58) + message) == 0


def test_chatter_of_the_link_is_dropped_without_a_report(rig: Rig, pod: TestRun) -> None:
    for body, source, destination in (
        (icmp(133, v6=True), "fe80::9", "ff02::2"),
        (icmp(143, v6=True), "::", "ff02::16"),
        (udp(546, 547), "fe80::9", "ff02::1:2"),
    ):
        assert pod.run(frame(body, source, destination), rig.plugged[1].ifindex).action == SHOT
    assert reasons(rig) == []


def test_mapped_addresses_are_not_ipv6(rig: Rig, pod: TestRun) -> None:
    packet = frame(tcp(1, 2), "fd07::1", "fd07::2")
    disguised = packet[:22] + bytes(10) + b"\xff\xff" + Address("10.7.0.1").packed + packet[38:]
    assert pod.run(disguised, rig.plugged[1].ifindex).action == SHOT
    assert reasons(rig) == [Drop.INVALID_PACKET]
