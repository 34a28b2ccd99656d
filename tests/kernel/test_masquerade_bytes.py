"""What masquerade does to the bytes of packets, by test-run: addresses, ports and every checksum, there and back."""

from __future__ import annotations

import struct

import pytest

from fairlead.address import Address
from services.datapath.kernel import devices
from services.datapath.kernel.testrun import OK, REDIRECT, SHOT, TestRun
from services.datapath.operations import PolicyValue
from services.datapath.reports import DropReason as Drop
from tests.kernel.outside import drops
from tests.kernel.packets import (
    ACK,
    ICMP,
    ICMP6,
    RST,
    SYN,
    TCP,
    UDP,
    Transport,
    checksum,
    echo,
    frame,
    icmp,
    ipv4,
    ipv6,
    tcp,
    udp,
)
from tests.kernel.rig import ALLOW_IN, FAR, NODE, Rig, pod_address
from tests.kernel.sending import families

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("out")]  # masquerading before the programs run

_SUM_AT = {TCP: 16, UDP: 6, ICMP: 2, ICMP6: 2}


def pseudo(protocol: int, source: str, destination: str, length: int) -> bytes:
    if protocol == ICMP:
        return b""
    ends = Address(source).packed + Address(destination).packed
    return ends + struct.pack(">II", length, protocol)


def summed(body: Transport, source: str, destination: str) -> Transport:
    """Return the transport part with its checksum."""
    at, data = _SUM_AT[body.protocol], body.bytes + bytes(len(body.bytes) % 2)
    total = checksum(pseudo(body.protocol, source, destination, len(body.bytes)) + data)
    return Transport(body.protocol, body.bytes[:at] + struct.pack(">H", total) + body.bytes[at + 2 :])


def parts(packet: bytes) -> tuple[str, str, bytes]:
    """Return source, destination and transport part."""
    if packet[12:14] == b"\x08\x00":
        assert checksum(packet[14:34]) == 0
        return *(str(Address(".".join(map(str, packet[at : at + 4])))) for at in (26, 30)), packet[34:]  # type: ignore[return-value] # two
    return *(str(Address(packet[at : at + 16].hex(":", 2))) for at in (22, 38)), packet[54:]  # type: ignore[return-value] # two


def is_sound(protocol: int, packet: bytes) -> bool:
    source, destination, body = parts(packet)
    data = body + bytes(len(body) % 2)
    return checksum(pseudo(protocol, source, destination, len(body)) + data) == 0


def sends(rig: Rig, pod: TestRun, body: Transport, family: int, **more: int) -> bytes:
    packet = frame(summed(body, pod_address(1, family), FAR[family]), pod_address(1, family), FAR[family], **more)
    after = pod.run(packet, rig.plugged[1].ifindex)
    assert after.action == REDIRECT
    return after.packet


def receives(rig: Rig, network: TestRun, body: Transport, family: int, **more: int) -> tuple[int, bytes]:
    device = devices.find_device(rig.kernel._wire, "up0")
    assert device is not None
    packet = frame(summed(body, FAR[family], NODE[family]), FAR[family], NODE[family], **more)
    after = network.run(packet, device.ifindex)
    return after.action, after.packet


@families
@pytest.mark.parametrize("kind", ["tcp", "udp"])
@pytest.mark.parametrize("payload", [b"even", b"odd"])
def test_ports_and_checksums_there_and_back(
    out: Rig, pod: TestRun, network: TestRun, family: int, kind: str, payload: bytes
) -> None:
    def build(sport: int, dport: int) -> Transport:
        return tcp(sport, dport, ACK, payload) if kind == "tcp" else udp(sport, dport, payload)

    after = sends(out, pod, build(1000, 80), family)
    source, destination, body = parts(after)
    assert (source, destination) == (NODE[family], FAR[family])
    (outer,) = struct.unpack_from(">H", body)
    assert outer >= 61000
    assert body[2:4] == b"\0\x50"
    assert is_sound(build(1, 2).protocol, after)
    action, back = receives(out, network, build(80, outer), family)
    assert action == REDIRECT
    source, destination, body = parts(back)
    assert (source, destination) == (FAR[family], pod_address(1, family))
    assert struct.unpack_from(">HH", body) == (80, 1000)
    assert is_sound(build(1, 2).protocol, back)
    assert back[:12] == out.plugged[1].pod_mac + out.plugged[1].host_mac
    assert drops(out) == []


@families
def test_echo_has_its_identifier_exchanged(out: Rig, pod: TestRun, network: TestRun, family: int) -> None:
    after = sends(out, pod, echo(family, 77), family)
    protocol = ICMP if family == 4 else ICMP6
    assert is_sound(protocol, after)
    (outer,) = struct.unpack_from(">H", parts(after)[2], 4)
    assert outer >= 61000
    action, back = receives(out, network, echo(family, outer, reply=True), family)
    assert action == REDIRECT
    assert is_sound(protocol, back)
    assert struct.unpack_from(">H", parts(back)[2], 4) == (77,)


def test_datagram_without_checksum_gets_none(out: Rig, pod: TestRun) -> None:
    packet = frame(udp(1000, 80), pod_address(1, 4), FAR[4])
    after = pod.run(packet, out.plugged[1].ifindex)
    assert parts(after.packet)[0] == NODE[4]
    assert parts(after.packet)[2][6:8] == b"\0\0"


@families
@pytest.mark.parametrize("ident", [1, 2])
def test_later_fragments_change_their_address_alone(
    out: Rig, pod: TestRun, network: TestRun, family: int, ident: int
) -> None:
    first, later = (0x2000, 0x2001) if family == 4 else (1, 9)
    sends(out, pod, udp(1000, 80), family, fragment=first, ident=ident)
    later_body = Transport(UDP, b"y" * 16)
    packet = frame(later_body, pod_address(1, family), FAR[family], fragment=later, ident=ident)
    after = pod.run(packet, out.plugged[1].ifindex)
    assert parts(after.packet)[0] == NODE[family]
    assert after.packet.endswith(b"y" * 16)
    [row] = out.kernel.masqueraded()
    head = udp(80, row.own_port)
    device = devices.find_device(out.kernel._wire, "up0")
    assert device is not None
    for body, offset, action in ((later_body, later, OK), (head, first, REDIRECT), (later_body, later, REDIRECT)):
        packet = frame(body, FAR[family], NODE[family], fragment=offset, ident=ident)
        after = network.run(packet, device.ifindex)
        assert after.action == action  # a later one that overtakes the first is the stack's
        assert parts(after.packet)[1] == (pod_address(1, family) if action == REDIRECT else NODE[family])


def quoting(family: int, inner: Transport, source: str, destination: str) -> Transport:
    """Return an error, port unreachable, that quotes a packet."""
    build = ipv4 if family == 4 else ipv6
    payload = build(inner, Address(source), Address(destination))
    kind = 3 if family == 4 else 1
    body = icmp(kind, 0, payload, v6=family == 6)
    return Transport(body.protocol, bytes([kind, 3 if family == 4 else 4]) + bytes(6) + payload)


def quoted(family: int, packet: bytes) -> tuple[str, str, bytes]:
    """Return ends and transport part of the quoted packet."""
    ethernet = b"\0" * 12 + (b"\x08\x00" if family == 4 else b"\x86\xdd")
    return parts(ethernet + parts(packet)[2][8:])


@families
@pytest.mark.parametrize("kind", ["udp", "echo"])
def test_errors_speak_of_the_end_that_their_reader_knows(
    out: Rig, pod: TestRun, network: TestRun, family: int, kind: str
) -> None:
    sent = udp(1000, 80) if kind == "udp" else echo(family, 1000)
    at = 0 if kind == "udp" else 4
    (outer,) = struct.unpack_from(">H", parts(sends(out, pod, sent, family))[2], at)
    protocol = ICMP if family == 4 else ICMP6
    returned = udp(outer, 80) if kind == "udp" else echo(family, outer)
    action, back = receives(out, network, quoting(family, returned, NODE[family], FAR[family]), family)
    assert action == REDIRECT
    assert is_sound(protocol, back)
    assert parts(back)[:2] == (FAR[family], pod_address(1, family))
    source, destination, body = quoted(family, back)
    assert (source, destination) == (pod_address(1, family), FAR[family])
    assert struct.unpack_from(">H", body, at) == (1000,)
    if kind == "echo":
        return
    complaint = quoting(family, udp(80, 1000), FAR[family], pod_address(1, family))
    after = sends(out, pod, complaint, family)
    assert is_sound(protocol, after)
    assert parts(after)[:2] == (NODE[family], FAR[family])
    source, destination, body = quoted(family, after)
    assert (source, destination) == (FAR[family], NODE[family])
    assert struct.unpack_from(">HH", body) == (80, outer)


@families
def test_what_cannot_be_masqueraded_does_not_leave(out: Rig, pod: TestRun, family: int) -> None:
    other = icmp(13 if family == 4 else 200, v6=family == 6)
    for body, reason in (
        (other, 168),
        (tcp(9, 80, RST), 167),
        (echo(family, 1, reply=True), 167),
    ):
        packet = frame(body, pod_address(1, family), FAR[family])
        assert pod.run(packet, out.plugged[1].ifindex).action == SHOT
        assert drops(out) == [reason]


@families
def test_what_belongs_to_no_flow_is_not_led_to_a_pod(out: Rig, pod: TestRun, network: TestRun, family: int) -> None:
    out.policy(1, {ALLOW_IN: PolicyValue()} | {key: value for key, (value, _) in out.kernel.policy(1).items()})
    (outer,) = struct.unpack_from(">H", parts(sends(out, pod, tcp(1000, 80, SYN), family))[2])
    for body in (tcp(81, outer), tcp(80, outer - 1), udp(80, outer)):
        action, packet = receives(out, network, body, family)
        assert (action, parts(packet)[1]) == (OK, NODE[family])
    assert receives(out, network, tcp(80, outer, SYN), family)[0] == SHOT
    assert receives(out, network, tcp(80, outer, SYN | ACK), family)[0] == REDIRECT
    table = out.kernel._tables.maps["conntrack"]
    table.delete_all(table.items())
    assert receives(out, network, tcp(80, outer), family)[0] == SHOT
    assert drops(out) == [Drop.NO_MAPPING] * 2
    # the pod's next packet heals it, with the same port outside
    assert struct.unpack_from(">H", parts(sends(out, pod, tcp(1000, 80), family))[2]) == (outer,)
    assert receives(out, network, tcp(80, outer), family)[0] == REDIRECT
