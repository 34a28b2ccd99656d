"""What the programs answer for the gateway, and what of neighbour discovery they refuse."""

from __future__ import annotations

import struct

from services.datapath.kernel.abi import GATEWAY_MAC
from services.datapath.kernel.twin.frames import ETHERNET, ICMPV6, INVALID, TRUNCATED, Packet
from services.datapath.reports import DropReason

SILENTLY = -1
"""A packet that is neither answered nor counted: it looks for a double of its own address, and there is none."""

_FORBIDDEN = int(DropReason.FORBIDDEN_ICMP6)
_SOLICITATION, _ADVERTISEMENT = 135, 136
_LINK_ONLY = range(130, 138)
_MESSAGE_BYTES = 32
_NOBODY = bytes(16)


def answer_arp(frame: bytes) -> bytes | int:
    """Return the answer to an ARP request, or why there is none."""
    asks = struct.pack(">HBBH", 0x0800, 6, 4, 1)
    if len(frame) < ETHERNET + 28 or frame[16:22] != asks:
        return INVALID
    sender, target = frame[22:32], frame[38:42]
    if target == sender[6:]:
        return SILENTLY
    return frame[6:12] + GATEWAY_MAC + frame[12:20] + b"\0\2" + GATEWAY_MAC + target + sender + frame[42:]


def answer_discovery(frame: bytes, packet: Packet) -> bytes | int:
    """Return the answer to a solicitation, why the packet goes no further, or 0 if it is something else."""
    if packet.protocol == ICMPV6 and packet.transport == ETHERNET + 40:
        if len(frame) <= packet.transport:
            return TRUNCATED
        kind = frame[packet.transport]
        if kind == _SOLICITATION and packet.source != _NOBODY:
            return _advertise(frame)
        if kind in _LINK_ONLY:
            return _FORBIDDEN
    if packet.destination[0] == 0xFF or packet.source == _NOBODY or packet.source.startswith(b"\xfe\x80"):
        return _FORBIDDEN
    return 0


def _advertise(frame: bytes) -> bytes | int:
    payload_bytes, hop_limit = frame[18] << 8 | frame[19], frame[21]
    end = ETHERNET + 40 + _MESSAGE_BYTES
    if len(frame) < end or payload_bytes != _MESSAGE_BYTES or hop_limit != 255:
        return _FORBIDDEN
    asker, target = frame[22:38], frame[62:78]
    head, rest = bytes((_ADVERTISEMENT, 0)), struct.pack(">I", 0xE0000000) + target + b"\x02\x01" + GATEWAY_MAC
    pseudo = target + asker + struct.pack(">II", _MESSAGE_BYTES, ICMPV6)
    checksum = struct.pack(">H", _checksum(pseudo + head + b"\0\0" + rest))
    ethernet = frame[6:12] + GATEWAY_MAC + frame[12:14]
    return ethernet + frame[14:22] + target + asker + head + checksum + rest + frame[end:]


def _checksum(data: bytes) -> int:
    """Return the internet checksum of an even number of bytes."""
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
