"""Where a frame was met, and what became of it."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

from services.datapath.kernel.twin.flows import BEYOND, ELSEWHERE, HOST, STACK, Ends, Flow
from services.datapath.kernel.twin.frames import Packet
from services.datapath.reports import EventKind


class Origin(IntEnum):
    """Which program saw a frame."""

    POD = 0
    NETWORK = 1
    HOST = 2
    OVERLAY = 3
    """By a tunnel from another node."""
    UPLINK = 4
    """On its way out by an uplink, while the node itself is filtered."""


class Action(IntEnum):
    """What became of a frame."""

    DROPPED = 0
    ENDPOINT = 1
    STACK = 2
    NETWORK = 3
    UNTOUCHED = 4
    ANSWERED = 5
    REFUSED = 6
    """Dropped, and given to the stack so that it tells the sender why."""
    TUNNEL = 7


class Tunnel(NamedTuple):
    """What a packet brings along, or takes with it, that travels between nodes."""

    node: bytes
    """The other one's address outside, packed."""
    number: int
    """Of the virtual network: who the source is."""


class Met(NamedTuple):
    """Where and how a frame was met."""

    origin: Origin
    ifindex: int = 0
    ingress_ifindex: int = 0
    """For frames of the stack: by which device it received them; 0: it made them itself."""
    vlan: bool = False
    """The device has taken a tag off that names a VLAN: number 0 names none, and counts as no tag but where a pod sends."""
    tunnel: Tunnel | None = None
    """By which it came, if it came by one."""

    @property
    def sent_here(self) -> bool:
        """Tell whether the packet is met where its sender is, rather than its receiver."""
        return self.origin in {Origin.POD, Origin.UPLINK}

    @property
    def turned(self) -> bool:
        """Tell whether the stack has turned a pod's packet round, to another pod: it leaves by the device by which it came."""
        return self.origin is Origin.HOST and self.ifindex == self.ingress_ifindex != 0

    def far(self, flow: Flow | None, *, reply: bool) -> int:
        """Return where senders are whose packets are met here."""
        if self.origin is Origin.HOST:
            return HOST if self.speaks_as_host(flow, reply=reply) else STACK
        return BEYOND if self.origin is Origin.OVERLAY else ELSEWHERE

    def speaks_as_host(self, flow: Flow | None, *, reply: bool) -> bool:
        """Tell whether a packet of the stack is the node's own word: it made it, or gave its name to a pod's answer."""
        return not self.ingress_ifindex or (self.turned and reply and flow is not None and flow.far == HOST)


class Fate(NamedTuple):
    """What became of one frame."""

    action: Action
    reason: int = 0
    endpoint: int = 0
    """To whom it went, if that is an endpoint."""
    frame: bytes = b""
    """As it left; empty when it was dropped and nobody is told."""
    tunnel: Tunnel | None = None


class Told(NamedTuple):
    """A report, as far as a verdict is in it."""

    kind: EventKind
    reason: int
    direction: int
    endpoint: int = 0
    provenance: int = 0
    source_identity: int = 0
    destination_identity: int = 0
    by_glass: bool = False
    """It passes by break-glass."""


class Route(IntEnum):
    """What the node's routes say of a destination that is no local endpoint."""

    AWAY = 0
    NONE = 1
    OWN_PREFIX = 2
    UNMEASURED = 3
    """Away, but how large a packet may be is not known while the neighbour is not."""


class Case(NamedTuple):
    """A packet in hand, and who both ends are."""

    frame: bytes
    packet: Packet
    met: Met
    ends: Ends
    source: int
    """Endpoint number; 0: not here."""
    destination: int
    far: int
    source_identity: int = 0
    destination_identity: int = 0
    flow: Flow | None = None
    """The one that the packet belongs to, where it leaves the node."""
    masquerade: bool = False
    """It would begin a flow that leaves as the node's."""

    def told(self, kind: EventKind, reason: int, direction: int, endpoint: int, provenance: int = 0) -> Told:
        """Return a report about the packet."""
        return Told(kind, reason, direction, endpoint, provenance, self.source_identity, self.destination_identity)
