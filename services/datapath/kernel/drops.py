"""Why a packet was dropped, by number: the twin of `bpf/lib/drop.h`. Append only; numbers below 220 are Cilium's."""

from __future__ import annotations

from enum import IntEnum


class Drop(IntEnum):
    """A drop reason. `text` is what people read."""

    INVALID_SOURCE = 132
    POLICY = 133
    INVALID_PACKET = 134
    TRUNCATED = 135
    UNKNOWN_L3 = 139
    WRITE_ERROR = 141
    UNKNOWN_L4 = 142
    UNKNOWN_TARGET = 150
    FLOW_TABLE = 155
    INVALID_EXTENSION = 156
    FRAGMENT_TABLE = 157
    FIB = 169
    FRAGMENT_NOT_FOUND = 175
    FORBIDDEN_ICMP6 = 176
    POLICY_DENY = 181
    VLAN = 182
    TTL_EXCEEDED = 196
    HELD = 220
    NO_PROXY = 221
    INTERNAL = 222

    @property
    def text(self) -> str:
        """Return the reason in words."""
        return _TEXT_BY_DROP[self]


_TEXT_BY_DROP = {
    Drop.INVALID_SOURCE: "Invalid source ip",
    Drop.POLICY: "Policy denied",
    Drop.INVALID_PACKET: "Invalid packet",
    Drop.TRUNCATED: "CT: Truncated or invalid header",
    Drop.UNKNOWN_L3: "Unsupported L3 protocol",
    Drop.WRITE_ERROR: "Error writing to packet",
    Drop.UNKNOWN_L4: "Unknown L4 protocol",
    Drop.UNKNOWN_TARGET: "Unknown L3 target address",
    Drop.FLOW_TABLE: "CT: Map insertion failed",
    Drop.INVALID_EXTENSION: "Invalid IPv6 extension header",
    Drop.FRAGMENT_TABLE: "IP fragmentation not supported",
    Drop.FIB: "FIB lookup failed",
    Drop.FRAGMENT_NOT_FOUND: "First logical datagram fragment not found",
    Drop.FORBIDDEN_ICMP6: "Forbidden ICMPv6 message",
    Drop.POLICY_DENY: "Policy denied by denylist",
    Drop.VLAN: "VLAN traffic disallowed by VLAN filter",
    Drop.TTL_EXCEEDED: "TTL exceeded",
    Drop.HELD: "Endpoint is held: identity or policy not known yet",
    Drop.NO_PROXY: "Policy asks for an L7 proxy and there is none",
    Drop.INTERNAL: "A kernel map that must exist did not answer",
}


def drop_text(code: int) -> str:
    """Return the words for a drop code, also for one that this version does not know."""
    try:
        return Drop(code).text
    except ValueError:
        return f"Unknown reason {code}"
