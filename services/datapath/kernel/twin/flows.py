"""Flows: who began, until when one is believed, and under which rows it was allowed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from services.datapath.kernel.twin.frames import ACK, FIN, LATER, RST, SYN, TCP, Packet

End = tuple[bytes, int]
"""Address and port."""
FlowKey = tuple[End, End, int]
"""Both ends, the smaller one first, and the protocol."""
Stamp = tuple[int, tuple[tuple[int, int], ...]]
"""The epoch of the addresses, and of each end's endpoint by its number."""
NEVER: Stamp = (-1, ())
"""Of what broken glass let through: the next packet is judged again."""

ELSEWHERE, STACK, HOST, BEYOND = 0, 1, 3, 8
"""Where the far end of a flow is: on the network, behind this node's stack, this node itself, behind a tunnel to another node."""


@dataclass(frozen=True)
class Timeouts:
    """Seconds for which a flow that says nothing is believed."""

    syn_s: float = 60
    established_s: float = 8000
    closing_s: float = 10
    other_s: float = 60


class Ends(NamedTuple):
    """Source and destination of a packet."""

    source: End
    destination: End


class Flow:
    """One flow, both directions."""

    __slots__ = (
        *("beginner", "by_glass", "closed_by", "endpoints", "established"),
        *("audited", "far", "identities", "masqueraded", "outer", "packets", "reset", "seen_s", "stamp"),
    )

    def __init__(self, beginner: End) -> None:
        self.beginner = beginner
        self.stamp: Stamp = (0, ())
        self.endpoints = 0, 0
        """The local endpoint at each end, the smaller end first; 0: none."""
        self.identities = 0, 0
        """Of whoever began it, and of the other, as it was judged."""
        self.by_glass = False
        """Its last packet passed by break-glass alone: the next one that does so is not told again."""
        self.audited = False
        """A policy that is only audited denies it."""
        self.masqueraded = False
        self.outer: End | None = None
        """What the world sees of whoever began it, if it is masqueraded and has found a way."""
        self.far = ELSEWHERE
        self.seen_s = 0.0
        self.established = self.reset = False
        self.closed_by: frozenset[End] = frozenset()
        self.packets = [0, 0]
        """Forward, reply."""

    def sit(self, ends: Ends, source: int, destination: int) -> None:
        """Note the endpoints at both ends."""
        self.endpoints = (source, destination) if ends.source < ends.destination else (destination, source)

    def seats(self, ends: Ends) -> tuple[int, int]:
        """Return the endpoints at the packet's source and destination."""
        return self.endpoints if ends.source < ends.destination else (self.endpoints[1], self.endpoints[0])

    @property
    def turned(self) -> bool:
        """Tell whether the stack turns it round: both its ends are pods here, and yet it passes there."""
        return self.far == STACK and all(self.endpoints)

    def alive(self, protocol: int, timeouts: Timeouts, now_s: float) -> bool:
        """Tell whether it is recent enough to be believed."""
        limit_s = timeouts.other_s
        if protocol == TCP:
            limit_s = timeouts.established_s if self.established else timeouts.syn_s
            if self.reset or len(self.closed_by) == 2:
                limit_s = timeouts.closing_s
        return now_s - self.seen_s <= limit_s

    def begins_anew(self, packet: Packet, sender: End) -> bool:
        """Tell whether the packet opens another connection between the same ends."""
        if packet.tcp_flags & (SYN | ACK) != SYN:
            return False
        return sender != self.beginner or self.reset or bool(self.closed_by)

    def account(self, packet: Packet, ends: Ends, now_s: float) -> None:
        """Note a packet that passes."""
        self.seen_s = now_s
        self.packets[ends[0] != self.beginner] += 1
        if packet.protocol != TCP or packet.fragment == LATER:
            return
        if not packet.tcp_flags & SYN:
            self.established = True
        if packet.tcp_flags & FIN:
            self.closed_by |= {ends[0]}
        if packet.tcp_flags & RST:
            self.reset = True


def ends_of(packet: Packet) -> Ends:
    """Return both ends, the source first."""
    return Ends((packet.source, packet.ports[0]), (packet.destination, packet.ports[1]))


def key_of(ends: Ends, protocol: int) -> FlowKey:
    """Return by which a flow is found, whoever speaks."""
    return (*min(ends, ends[::-1]), protocol)
