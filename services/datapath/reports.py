"""What a kernel reports: why packets were dropped, what passed, what was lost on the way, and what it found at its start."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from fairlead.address import Address


class DropReason(IntEnum):
    """Why a packet was dropped: the twin of `bpf/lib/drop.h`. Below 220 a number means what it means in Cilium; append only."""

    INVALID_SOURCE = 132
    POLICY = 133
    INVALID_PACKET = 134
    TRUNCATED = 135
    TOO_BIG = 136
    UNKNOWN_L3 = 139
    WRITE_ERROR = 141
    UNKNOWN_L4 = 142
    NO_TUNNEL_KEY = 147
    UNKNOWN_TARGET = 150
    FLOW_TABLE = 155
    INVALID_EXTENSION = 156
    FRAGMENT_TABLE = 157
    NO_TUNNEL = 160
    NO_MAPPING = 167
    NO_MASQUERADE = 168
    FIB = 169
    INVALID_IDENTITY = 171
    UNKNOWN_SENDER = 172
    FRAGMENT_NOT_FOUND = 175
    FORBIDDEN_ICMP6 = 176
    POLICY_DENY = 181
    VLAN = 182
    TTL_EXCEEDED = 196
    HELD = 220
    NO_PROXY = 221
    INTERNAL = 222


@dataclass(frozen=True)
class PacketCounter:
    """Packets that met one end, since the maps were created."""

    reason: int
    """Drop code; 0: forwarded."""
    direction: int
    """0 ingress, 1 egress of an endpoint."""
    packets: int
    bytes: int


class EventKind(IntEnum):
    """Why the programs reported."""

    DROP = 1
    NEW_FLOW = 2
    CLOSED = 3
    """A flow is over: both ends said so, or nothing was heard of it for as long as it may live."""
    AUDIT = 4
    """A policy denies it, and is only audited at this endpoint: it passes."""
    LASTING = 5
    """A flow goes on: what it has come to so far."""


@dataclass(frozen=True)
class Event:
    """One report from the programs. Ports are 0 where the protocol has none; for ICMP `dport` is the type."""

    kind: EventKind
    reason: int
    """Drop code (see `bpf/lib/drop.h`), of AUDIT the one it would have had; 0 for the other kinds."""
    direction: int
    """Whose policy decided: 0 the destination's ingress, 1 the source's egress."""
    protocol: int
    source: Address
    destination: Address
    sport: int
    dport: int
    source_identity: int
    destination_identity: int
    endpoint: int
    """The endpoint whose policy decided."""
    provenance: int
    """Provenance of the deciding entry, or of the default deny."""
    length_bytes: int
    time_ns: int
    """CLOCK_MONOTONIC."""
    tcp_flags: tuple[int, int] = (0, 0)
    """Of the packet, or of CLOSED and LASTING all that were seen: forward, reply."""
    is_reply: bool = False
    """Whether the packet goes to whoever began the flow; CLOSED and LASTING always have the initiator as source."""
    audited: bool = False
    by_glass: bool = False
    """It passes because somebody broke the glass, not because the policy is audited."""
    packets: tuple[int, int] = (0, 0)
    """Of CLOSED and LASTING, forward and reply; the next one alike."""
    bytes: tuple[int, int] = (0, 0)
    ifindex: int = 0
    """The device at which it was met; 0 if user space found the flow."""


@dataclass(frozen=True)
class Feature:
    """Something that kernels have or have not."""

    name: str
    present: bool
    use: str
    """What the datapath does with it."""
    instead: str = ""
    """What is used where it is missing; empty: without it the datapath does not start."""


@dataclass(frozen=True)
class Sweep:
    """What one slice of the flow table had in it."""

    last: bool
    """The pass is over; the next call begins another."""
    alive: int = 0
    deleted: int = 0
    capacity: int = 0
    """Entries that the whole table holds."""
    ended: tuple[Event, ...] = ()
    """The ends of those deleted that were not told yet."""
    held: int = 0
    """Outer ends of masqueraded flows that stand."""
    freed: int = 0
    """Outer ends that no flow had any more."""


class EventsLost(NamedTuple):
    """Reports that did not come."""

    ration: int = 0
    """There were more than a second's ration."""
    ring_buffer: int = 0
    """It was full."""
    unknown: int = 0
    """Another version of the programs wrote them."""


@dataclass(frozen=True)
class KernelReport:
    """What `start` found and did, for the log and `fairlead status`."""

    adopted: bool
    """True: programs and maps of an earlier process were taken over."""
    compile_s: float = 0.0
    features: tuple[Feature, ...] = ()
    kernel_release: str = ""
    pin_directory: str = ""
    uplinks: tuple[str, ...] = ()
    migrated_from: int = 0
    """The map schema of another version whose maps were moved to this one's; 0: none had to be."""
