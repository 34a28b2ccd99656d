"""From the bytes of an Ethernet frame to what policies speak of, or to the reason why they cannot.

Ports are numbers in host order. Addresses are 16 bytes, IPv4 as v4-mapped, as in the maps.
"""

from __future__ import annotations

from services.datapath.reports import DropReason

ETHERNET = 14
ARP_TYPE, IPV4_TYPE, IPV6_TYPE = b"\x08\x06", b"\x08\x00", b"\x86\xdd"
TCP, UDP, ICMP, ICMPV6, SCTP = 6, 17, 1, 58, 132
FIN, SYN, RST, ACK = 1, 2, 4, 16
WHOLE, FIRST, LATER = 0, 1, 2
MAPPED = bytes(10) + b"\xff\xff"
NO_PORT = 0xFFFF
"""Stands where an ICMP message that is no echo would have its source port."""

_FRAGMENT, _AUTHENTICATION = 44, 51
_EXTENSIONS = frozenset((0, 43, _FRAGMENT, _AUTHENTICATION, 60))
_MOST_EXTENSIONS = 5
_ECHO = {ICMP: (8, 0), ICMPV6: (128, 129)}
_ERRORS = {ICMP: frozenset((3, 11, 12)), ICMPV6: frozenset((1, 2, 3, 4))}

INVALID, TRUNCATED = int(DropReason.INVALID_PACKET), int(DropReason.TRUNCATED)
_UNKNOWN, _BAD_EXTENSION = int(DropReason.UNKNOWN_L4), int(DropReason.INVALID_EXTENSION)
_NO_FIRST = int(DropReason.FRAGMENT_NOT_FOUND)

Ports = tuple[int, int, int]
"""Source, destination, and what a policy calls the port."""
Fragments = dict[tuple[bytes, bytes, int, int], Ports]
"""Source, destination, id and protocol of datagrams whose first fragment was seen, to its ports."""


class Packet:
    """What was read of a frame so far."""

    __slots__ = (
        "destination",
        "error",
        "family",
        "fragment",
        "fragment_id",
        "outer_port",
        "policy_port",
        "ports",
        "protocol",
        "source",
        "tcp_flags",
        "transport",
        "unrecorded",
    )

    def __init__(self, family: int) -> None:
        self.family = family
        self.source = self.destination = b""
        self.protocol = self.transport = self.fragment = self.fragment_id = self.tcp_flags = 0
        self.ports = (0, 0)
        self.policy_port = 0
        self.error = False
        """An ICMP error, which quotes another packet."""
        self.outer_port = 0
        """Of the node, to which the packet came before masquerade led it to a pod."""
        self.unrecorded = False
        """May pass, but begins no flow."""


def read_ipv4(frame: bytes, packet: Packet) -> int:
    """Read the IPv4 header; return 0 or a drop reason. A header that cannot be believed leaves the addresses empty."""
    if len(frame) < ETHERNET + 20 or frame[14] >> 4 != 4 or frame[14] & 15 < 5:
        return INVALID
    header = (frame[14] & 15) * 4
    total = frame[16] << 8 | frame[17]
    # 0: segmentation offload, larger than the field can say
    if total and not header <= total <= len(frame) - ETHERNET:
        return INVALID
    packet.source, packet.destination = MAPPED + frame[26:30], MAPPED + frame[30:34]
    packet.protocol, packet.transport = frame[23], ETHERNET + header
    offset = (frame[20] & 0x1F) << 8 | frame[21]
    if offset or frame[20] & 0x20:
        packet.fragment = LATER if offset else FIRST
        packet.fragment_id = frame[18] << 8 | frame[19]
        # RFC 1858: it would overwrite the flags that were judged
        if offset == 1 and packet.protocol == TCP:
            return INVALID
    return 0


def read_ipv6(frame: bytes, packet: Packet) -> int:
    """Read the IPv6 header and its extensions; return 0 or a drop reason."""
    if len(frame) < ETHERNET + 40 or frame[14] >> 4 != 6:
        return INVALID
    length = frame[18] << 8 | frame[19]
    if length > len(frame) - ETHERNET - 40:
        return INVALID
    packet.source, packet.destination = frame[22:38], frame[38:54]
    # an IPv6 packet must not speak for an IPv4 address, nor to one
    if packet.source[:12] == MAPPED or packet.destination[:12] == MAPPED:
        return INVALID
    return _skip_extensions(frame, packet, frame[20])


def _skip_extensions(frame: bytes, packet: Packet, following: int) -> int:
    at = ETHERNET + 40
    for _ in range(_MOST_EXTENSIONS):
        if following not in _EXTENSIONS:
            break
        if len(frame) < at + 8:
            return _BAD_EXTENSION
        kind, following, units = following, frame[at], frame[at + 1]
        if kind == _FRAGMENT:
            if _read_fragment_header(frame, at, packet) == 1 and following == TCP:
                return INVALID
            at += 8
        else:
            at += (units + 2) * 4 if kind == _AUTHENTICATION else (units + 1) * 8
        if packet.fragment == LATER:
            break  # what follows is data
    if following in _EXTENSIONS:
        return _NO_FIRST if packet.fragment == LATER else _BAD_EXTENSION
    packet.protocol, packet.transport = following, at
    return 0


def _read_fragment_header(frame: bytes, at: int, packet: Packet) -> int:
    """Return the offset in units of 8 bytes. Offset 0 without more to come is a whole packet."""
    field = frame[at + 2] << 8 | frame[at + 3]
    offset = field >> 3
    if offset or field & 1:
        packet.fragment = LATER if offset else FIRST
        packet.fragment_id = int.from_bytes(frame[at + 4 : at + 8], "big")
    return offset


def read_transport(frame: bytes, packet: Packet, fragments: Fragments, *, record: bool = True) -> int:
    """Read ports and flags; remember (`record`) them of a first fragment, recall them for a later one. Returns 0 or a drop reason."""
    protocol, at = packet.protocol, packet.transport
    icmp = protocol == (ICMP if packet.family == 4 else ICMPV6)
    if not icmp and protocol not in {TCP, UDP, SCTP}:
        return _UNKNOWN
    if packet.fragment == LATER:
        return _recall(packet, fragments)
    if len(frame) < at + (20 if protocol == TCP else 8):
        return TRUNCATED
    if protocol == TCP:
        if frame[at + 12] >> 4 < 5:
            return TRUNCATED
        packet.tcp_flags = frame[at + 13]
    if icmp:
        read_icmp(packet, frame[at], frame[at + 4] << 8 | frame[at + 5])
    else:
        packet.ports = frame[at] << 8 | frame[at + 1], frame[at + 2] << 8 | frame[at + 3]
        packet.policy_port = packet.ports[1]
    if packet.fragment == FIRST and record:
        remember(packet, fragments)
    return 0


def remember(packet: Packet, fragments: Fragments) -> None:
    """Leave the ports of a first fragment to the later ones."""
    fragments[_datagram(packet)] = (*packet.ports, packet.policy_port)


def read_icmp(packet: Packet, kind: int, ident: int) -> None:
    """Give an ICMP message ports: an echo is one flow with its reply, everything else stands alone."""
    request, reply = _ECHO[packet.protocol]
    packet.policy_port = kind
    packet.ports = NO_PORT, kind
    if kind == request:
        packet.ports = ident, kind
    elif kind == reply:
        packet.ports = request, ident
        packet.unrecorded = True
    elif kind in _ERRORS[packet.protocol]:
        packet.error = packet.unrecorded = True


def _datagram(packet: Packet) -> tuple[bytes, bytes, int, int]:
    return packet.source, packet.destination, packet.fragment_id, packet.protocol


def _recall(packet: Packet, fragments: Fragments) -> int:
    seen = fragments.get(_datagram(packet))
    if seen is None:
        return _NO_FIRST
    packet.ports, packet.policy_port, packet.unrecorded = seen[:2], seen[2], True
    return 0


def read_quoted(frame: bytes, error: Packet) -> Packet | None:
    """Return the packet that an ICMP error quotes, or None when it says too little or is no packet that errors are sent for."""
    at = error.transport + 8
    quoted = Packet(error.family)
    if error.family == 4:
        if len(frame) < at + 20 or frame[at] & 15 < 5 or frame[at + 6] & 0x1F or frame[at + 7]:
            return None
        quoted.protocol = frame[at + 9]
        quoted.source, quoted.destination = MAPPED + frame[at + 12 : at + 16], MAPPED + frame[at + 16 : at + 20]
        at += (frame[at] & 15) * 4
    else:
        if len(frame) < at + 40:
            return None
        quoted.protocol = frame[at + 6]
        quoted.source, quoted.destination = frame[at + 8 : at + 24], frame[at + 24 : at + 40]
        at += 40
    if len(frame) < at + 8:
        return None
    quoted.transport = at
    if quoted.protocol == (ICMP if error.family == 4 else ICMPV6):
        read_icmp(quoted, frame[at], frame[at + 4] << 8 | frame[at + 5])
        return None if quoted.error else quoted
    quoted.ports = frame[at] << 8 | frame[at + 1], frame[at + 2] << 8 | frame[at + 3]
    return quoted
