"""Ethernet frames from sentences: `frame(tcp(1000, 80, SYN), "10.0.0.1", "10.0.0.2")`."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from fairlead.address import Address
from services.datapath.kernel import abi

FIN, SYN, RST, ACK = 1, 2, 4, 16
TCP, UDP, ICMP, ICMP6, SCTP = 6, 17, 1, 58, 132


@dataclass(frozen=True)
class Transport:
    protocol: int
    bytes: bytes


def checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def tcp(sport: int, dport: int, flags: int = ACK, payload: bytes = b"") -> Transport:
    return Transport(TCP, struct.pack(">HHIIBBHHH", sport, dport, 1, 1, 0x50, flags, 1024, 0, 0) + payload)


def udp(sport: int, dport: int, payload: bytes = b"x" * 8) -> Transport:
    return Transport(UDP, struct.pack(">HHHH", sport, dport, 8 + len(payload), 0) + payload)


def sctp(sport: int, dport: int) -> Transport:
    return Transport(SCTP, struct.pack(">HHII", sport, dport, 1, 0) + bytes(8))


def icmp(kind: int, ident: int = 0, payload: bytes = b"x" * 8, *, v6: bool = False) -> Transport:
    return Transport(ICMP6 if v6 else ICMP, struct.pack(">BBHHH", kind, 0, 0, ident, 1) + payload)


def echo(family: int, ident: int, *, reply: bool = False) -> Transport:
    kind = (0 if reply else 8) if family == 4 else (129 if reply else 128)
    return icmp(kind, ident, v6=family == 6)


def ipv4(body: Transport, source: Address, destination: Address, **more: int) -> bytes:
    """`more`: ttl, fragment (the 16-bit field), ident, total (a lie about the length), ihl (more than 5: options)."""
    options = b"\x01" * (4 * (more.get("ihl", 5) - 5))
    total = more.get("total", 20 + len(options) + len(body.bytes))
    head = struct.pack(
        ">BBHHHBBH4s4s",
        0x40 | more.get("ihl", 5),
        0,
        total,
        more.get("ident", 7),
        more.get("fragment", 0),
        more.get("ttl", 64),
        body.protocol,
        0,
        source.packed,
        destination.packed,
    )
    return head[:10] + struct.pack(">H", checksum(head + options)) + head[12:] + options + body.bytes


def ipv6(body: Transport, source: Address, destination: Address, **more: int) -> bytes:
    """`more`: ttl, fragment (offset field and more-bit), ident, total."""
    payload, following = body.bytes, body.protocol
    if "fragment" in more:
        payload = struct.pack(">BBHI", body.protocol, 0, more["fragment"], more.get("ident", 7)) + payload
        following = 44
    head = struct.pack(">IHBB", 6 << 28, more.get("total", len(payload)), following, more.get("ttl", 64))
    return head + source.packed + destination.packed + payload


def frame(body: Transport, source: str, destination: str, **more: int) -> bytes:
    a, b = Address(source), Address(destination)
    inner = (ipv4 if a.family == 4 else ipv6)(body, a, b, **more)
    ethertype = 0x0800 if a.family == 4 else 0x86DD
    return abi.GATEWAY_MAC + b"\x02\0\0\0\0\x09" + struct.pack(">H", ethertype) + inner


def arp_request(sender: str, target: str, mac: bytes) -> bytes:
    head = b"\xff" * 6 + mac + b"\x08\x06" + struct.pack(">HHBBH", 1, 0x0800, 6, 4, 1)
    return head + mac + Address(sender).packed + bytes(6) + Address(target).packed


def solicitation(sender: str, target: str, mac: bytes) -> bytes:
    message = struct.pack(">BBHI", 135, 0, 0, 0) + Address(target).packed + b"\x01\x01" + mac
    inner = ipv6(Transport(ICMP6, message), Address(sender), Address("ff02::1:ff00:1"), ttl=255)
    return b"\x33\x33\xff\0\0\x01" + mac + b"\x86\xdd" + inner
