"""SCTP as the node's: its checksum covers the ports and not the addresses, and is good for another port without the packet being read."""

from __future__ import annotations

import struct

import pytest

from services.datapath.kernel.testrun import REDIRECT, SHOT, TestRun
from services.datapath.outside import Masquerade
from services.datapath.reports import DropReason as Drop
from tests.kernel.outside import BOTH, drops
from tests.kernel.packets import SCTP, Transport, frame
from tests.kernel.rig import FAR, NODE, Rig, pod_address
from tests.kernel.sending import families

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("out")]

LENGTHS = (0, 4, 20, 511, 512, 1400)
_SUM = slice(8, 12)


def crc32c(data: bytes) -> bytes:
    """Return the checksum as it stands in a packet (RFC 9260, appendix A)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return struct.pack("<I", crc ^ 0xFFFFFFFF)


def sctp(sport: int, dport: int, length: int, *, summed: bool = True) -> Transport:
    """Return a packet of that many bytes behind the header, with its checksum or with none yet."""
    head, data = struct.pack(">HHI", sport, dport, 7), bytes(number * 7 & 0xFF for number in range(length))
    return Transport(SCTP, head + (crc32c(head + bytes(4) + data) if summed else bytes(4)) + data)


def is_sound(body: bytes) -> bool:
    return crc32c(body[:8] + bytes(4) + body[12:]) == body[_SUM]


def leaves(out: Rig, pod: TestRun, body: Transport, family: int, **more: int) -> tuple[int, bytes]:
    """Send from pod 1 to the world; return action and transport part."""
    outcome = pod.run(frame(body, pod_address(1, family), FAR[family], **more), out.plugged[1].ifindex)
    return outcome.action, outcome.packet[34 if family == 4 else 54 :]


def test_the_checksum_of_these_tests_is_the_one_of_the_standard() -> None:
    assert crc32c(b"123456789") == bytes.fromhex("839206e3")


@families
def test_ports_change_and_the_checksum_stays_good_both_ways(
    out: Rig, pod: TestRun, network: TestRun, family: int
) -> None:
    for length in LENGTHS:
        action, body = leaves(out, pod, sctp(1000, 80, length), family)
        outer, remote = struct.unpack_from(">HH", body)
        assert (action, remote, is_sound(body)) == (REDIRECT, 80, True)
        assert 61000 <= outer <= 65535
        back = network.run(frame(sctp(80, outer, length), FAR[family], NODE[family]))
        body = back.packet[34 if family == 4 else 54 :]
        assert (back.action, struct.unpack_from(">HH", body), is_sound(body)) == (REDIRECT, (80, 1000), True)


@families
def test_a_checksum_that_is_wrong_stays_wrong(out: Rig, pod: TestRun, family: int) -> None:
    good = sctp(1000, 80, 20).bytes
    bad = Transport(SCTP, good[:20] + bytes((good[20] ^ 1,)) + good[21:])
    action, body = leaves(out, pod, bad, family)
    assert (action, is_sound(body)) == (REDIRECT, False)


@families
def test_a_checksum_that_is_yet_to_be_computed_is_left_to_it(out: Rig, pod: TestRun, family: int) -> None:
    action, body = leaves(out, pod, sctp(1000, 80, 20, summed=False), family)
    assert (action, body[_SUM]) == (REDIRECT, bytes(4))
    assert struct.unpack_from(">H", body) != (1000,)


@families
def test_what_stands_behind_the_packet_in_its_frame_does_not_count(out: Rig, pod: TestRun, family: int) -> None:
    body = sctp(1000, 80, 8)
    padded = Transport(SCTP, body.bytes + b"\xaa" * 26)
    total = len(body.bytes) + (20 if family == 4 else 0)
    action, after = leaves(out, pod, padded, family, total=total)
    assert (action, is_sound(after[: len(body.bytes)]), after[len(body.bytes) :]) == (REDIRECT, True, b"\xaa" * 26)


@families
def test_a_port_of_the_range_is_kept_and_leaves_everything_as_it_is(out: Rig, pod: TestRun, family: int) -> None:
    body = sctp(62000, 80, 20)
    assert leaves(out, pod, body, family) == (REDIRECT, body.bytes)
    first = {"fragment": 0x2000 if family == 4 else 1}
    assert leaves(out, pod, body, family, **first)[0] == REDIRECT


@families
def test_what_cannot_have_another_port_is_dropped_by_name(out: Rig, pod: TestRun, family: int) -> None:
    first = {"fragment": 0x2000 if family == 4 else 1}
    assert leaves(out, pod, sctp(1000, 80, 20), family, **first)[0] == SHOT
    assert drops(out) == [Drop.NO_MASQUERADE]
    assert leaves(out, pod, Transport(SCTP, sctp(1000, 81, 0).bytes[:11]), family)[0] == SHOT
    assert drops(out) == [Drop.TRUNCATED]
    out.kernel.set_masquerade(Masquerade(BOTH, 61000, 61000))
    assert leaves(out, pod, sctp(1, 90, 20), family)[0] == REDIRECT
    assert leaves(out, pod, sctp(2, 90, 20), family)[0] == SHOT
    assert drops(out) == [Drop.NO_MAPPING]
