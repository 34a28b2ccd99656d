"""Another end in a packet: address and port, and every checksum that covers them."""

from __future__ import annotations

import struct
from typing import NamedTuple

from services.datapath.kernel.twin.flows import End
from services.datapath.kernel.twin.frames import ETHERNET, ICMP, ICMPV6, LATER, SCTP, TCP, UDP, Packet
from services.datapath.reports import DropReason

_CHECKSUM_AT = {TCP: 16, UDP: 6}
_ICMP_CHECKSUM_AT, _ICMP_HEADER = 2, 8
_HEADER_CHECKSUM_AT = 10
_SCTP_HEADER, _SCTP_CHECKSUM_AT = 12, 8
_LONGEST_SCTP = (1 << 14) - 1
_CRC32C = 0x82F63B78


class Change(NamedTuple):
    """Which end of a packet, and what it was and shall be."""

    before: End
    after: End
    source: bool

    @property
    def inside(self) -> Change:
        """Return the same for the packet that an error quotes: what is the source of the one is the destination of the other."""
        return self._replace(source=not self.source)


def with_end(frame: bytes, packet: Packet, change: Change) -> bytes | int:
    """Return the frame with another end, or why it cannot have it. Only the first fragment has ports and checksum."""
    changed, protocol, family = bytearray(frame), packet.protocol, packet.family
    _write_address(changed, family, ETHERNET, change)
    if packet.fragment == LATER:
        return bytes(changed)
    checksum = packet.transport + _CHECKSUM_AT.get(protocol, _ICMP_CHECKSUM_AT)
    if change.before[1] != change.after[1]:
        _write_port(changed, packet, change)
        if protocol == SCTP:
            reason = _amend_crc32c(changed, packet, change)
            return reason or bytes(changed)
        _amend(changed, checksum, *_ports(change), may_lack=protocol == UDP)
    if protocol not in {ICMP, SCTP}:
        _amend(changed, checksum, *_addresses(family, change), may_lack=protocol == UDP)
    return bytes(changed)


def error_with_end(frame: bytes, error: Packet, quoted: Packet, change: Change) -> bytes:
    """Return an ICMP error with another end outside and in what it quotes, whose own transport checksum stays as it is."""
    changed, family = bytearray(frame), error.family
    _write_address(changed, family, ETHERNET, change)
    _write_address(changed, family, error.transport + _ICMP_HEADER, change.inside)
    _write_port(changed, quoted, change.inside)
    checksum = error.transport + _ICMP_CHECKSUM_AT
    _amend(changed, checksum, *_ports(change))
    if family == 6:
        for _ in range(2):  # the quoted address and the one outside
            _amend(changed, checksum, *_addresses(family, change))
    return bytes(changed)


def _ports(change: Change) -> tuple[bytes, bytes]:
    return struct.pack(">H", change.before[1]), struct.pack(">H", change.after[1])


def _addresses(family: int, change: Change) -> tuple[bytes, bytes]:
    start = 12 if family == 4 else 0
    return change.before[0][start:], change.after[0][start:]


def _write_address(changed: bytearray, family: int, at: int, change: Change) -> None:
    before, after = _addresses(family, change)
    if family == 4:
        _amend(changed, at + _HEADER_CHECKSUM_AT, before, after)
        at += 12 if change.source else 16
    else:
        at += 8 if change.source else 24
    changed[at : at + len(after)] = after


def _write_port(changed: bytearray, packet: Packet, change: Change) -> None:
    at = packet.transport
    if packet.protocol == (ICMP if packet.family == 4 else ICMPV6):
        at += 4
    elif not change.source:
        at += 2
    changed[at : at + 2] = struct.pack(">H", change.after[1])


def _amend(changed: bytearray, at: int, before: bytes, after: bytes, *, may_lack: bool = False) -> None:
    """Make a checksum (RFC 1624) good for other words; a UDP packet may have none, and is never given one of zero."""
    old = changed[at] << 8 | changed[at + 1]
    if may_lack and not old:
        return
    words = f">{len(before) // 2}H"
    total = (
        (~old & 0xFFFF)
        + sum(struct.unpack(words, after))
        + sum(~word & 0xFFFF for word in struct.unpack(words, before))
    )
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    new = ~total & 0xFFFF
    changed[at : at + 2] = struct.pack(">H", 0xFFFF if may_lack and not new else new)


def _amend_crc32c(changed: bytearray, packet: Packet, change: Change) -> int:
    """Make SCTP's checksum good for another port; return 0 or why not. Zero stays: it is computed on the way out.

    A CRC is linear: what changes in it is the CRC of the difference, which is the ports' and then nothing but zeros.
    """
    at = packet.transport + _SCTP_CHECKSUM_AT
    if packet.fragment:
        return int(DropReason.NO_MASQUERADE)  # it covers the fragments that follow, too
    if len(changed) < packet.transport + _SCTP_HEADER:
        return int(DropReason.TRUNCATED)
    old = int.from_bytes(changed[at : at + 4], "little")
    if not old:
        return 0
    length = int.from_bytes(changed[16:18] if packet.family == 4 else changed[18:20], "big")
    length += ETHERNET + (0 if packet.family == 4 else 40) - packet.transport
    if not _SCTP_HEADER <= length <= _LONGEST_SCTP:
        return int(DropReason.TRUNCATED)
    difference = change.before[1] ^ change.after[1]
    register = int.from_bytes(difference.to_bytes(2, "big"), "little")
    for _ in range(8 * (length - (0 if change.source else 2))):
        register = register >> 1 ^ (_CRC32C if register & 1 else 0)
    changed[at : at + 4] = (old ^ register).to_bytes(4, "little")
    return 0
