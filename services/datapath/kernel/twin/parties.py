"""Who both ends of a packet are, and whether it may come from where it came."""

from __future__ import annotations

from fairlead.schema.identity import HOST as HOST_IDENTITY
from fairlead.schema.identity import REMOTE_NODE, WORLD
from services.datapath.failsafe import HOST_ENDPOINT
from services.datapath.kernel.twin import node
from services.datapath.kernel.twin.cases import Case, Met, Origin
from services.datapath.kernel.twin.flows import BEYOND, ELSEWHERE, HOST, STACK, Flow, ends_of
from services.datapath.kernel.twin.frames import Packet
from services.datapath.kernel.twin.rows import Rows, sender_identity
from services.datapath.reports import DropReason

_VAGUE = frozenset((int(WORLD), int(REMOTE_NODE)))
_SPOOFED = DropReason.INVALID_SOURCE


def find(rows: Rows, frame: bytes, packet: Packet, met: Met, flow: Flow | None) -> Case | DropReason | None:
    """Return who both ends are, why the packet may not come from where it came, or None for one that is for others."""
    seats = _seats(rows, packet, met, flow)
    by_tunnel = (
        met.origin is Origin.HOST
        and seats == (HOST_ENDPOINT, 0)
        and rows.tunnels.best(packet.destination, packet.family)
    )
    if by_tunnel:
        far: int | DropReason | None = BEYOND
    elif met.sent_here:
        far = _far_of_sent(rows, packet, met, flow, *seats)
    else:
        far = _far_of_received(rows, packet, met, flow, *seats)
    if far is None or isinstance(far, DropReason):
        return far
    return _identify(rows, Case(frame, packet, met, ends_of(packet), *seats, far))


def _seats(rows: Rows, packet: Packet, met: Met, flow: Flow | None) -> tuple[int, int]:
    """Return the endpoint at each end, this node itself among them while it is filtered."""
    source, destination = rows.endpoint_with.get(packet.source, 0), rows.endpoint_with.get(packet.destination, 0)
    if rows.host is None:
        return source, destination
    if met.origin is Origin.UPLINK:
        for_others = met.ingress_ifindex and (flow is None or flow.far & STACK)
        return (0 if for_others else HOST_ENDPOINT), 0
    if met.origin is Origin.HOST:
        return source or (HOST_ENDPOINT if met.speaks_as_host(flow, reply=_answers(packet, flow)) else 0), destination
    if met.origin is not Origin.POD and not source and rows.is_own(packet.source):
        source = HOST_ENDPOINT
    return source, destination or _node_seat(rows, packet, flow)


def _node_seat(rows: Rows, packet: Packet, flow: Flow | None) -> int:
    """Tell whether a packet that is for no pod is for this node: a flow that the stack carries on knows better than the address."""
    for_node = flow.far == HOST if flow and flow.far & STACK else rows.is_own(packet.destination)
    return HOST_ENDPOINT if for_node else 0


def _far_of_sent(
    rows: Rows, packet: Packet, met: Met, flow: Flow | None, source: int, destination: int
) -> int | DropReason:
    """Return where the far end of a packet is that a pod sends, or that leaves by an uplink."""
    if met.origin is Origin.UPLINK:
        return ELSEWHERE if source else STACK
    entry = rows.entries.get(source)
    if entry is None or entry.ifindex != met.ifindex:
        return _SPOOFED
    if destination == HOST_ENDPOINT:
        return HOST
    if destination:
        return STACK if flow and flow.turned else ELSEWHERE
    known = flow.far & HOST if flow else ELSEWHERE
    return known or (BEYOND if rows.tunnels.best(packet.destination, packet.family) else ELSEWHERE)


def _far_of_received(
    rows: Rows, packet: Packet, met: Met, flow: Flow | None, source: int, destination: int
) -> int | DropReason | None:
    """Return where a packet comes from that the network or the stack sends."""
    if not destination or (destination == HOST_ENDPOINT and node.is_essential(packet)):
        return None
    if source and not met.turned and (met.origin is not Origin.HOST or source != HOST_ENDPOINT):
        return _SPOOFED
    if met.origin is Origin.HOST:
        return met.far(flow, reply=_answers(packet, flow))
    # the network does not speak for this node
    if flow and flow.far == HOST and destination != HOST_ENDPOINT:
        return _SPOOFED
    # nor for what other nodes have: that comes by their tunnels
    if (
        met.origin is Origin.NETWORK
        and destination != HOST_ENDPOINT
        and rows.tunnels.best(packet.source, packet.family)
    ):
        return _SPOOFED
    return met.far(flow, reply=False)


def _answers(packet: Packet, flow: Flow | None) -> bool:
    return flow is not None and flow.beginner != ends_of(packet).source


def tunnelled_identity(rows: Rows, packet: Packet, met: Met) -> int:
    """Return who the sending node says the source is; what the number has no room for, the address tells."""
    number = met.tunnel.number if met.tunnel else 0
    if number not in _VAGUE:
        return number
    found = rows.identity_with(packet.source, packet.family)
    return number if found in {HOST_IDENTITY, WORLD} else found


def _identify(rows: Rows, case: Case) -> Case:
    packet, far, met = case.packet, case.far, case.met
    source, destination = rows.identity_of(case.source), rows.identity_of(case.destination)
    if not case.source:
        found = rows.identity_with(packet.source, packet.family)
        speaks_as_host = met.origin is Origin.UPLINK or (met.origin is Origin.HOST and far == HOST)
        source = int(HOST_IDENTITY) if speaks_as_host else sender_identity(found)
        if met.origin is Origin.OVERLAY:
            source = tunnelled_identity(rows, packet, met)
    if not case.destination:
        destination = int(HOST_IDENTITY)
        if far != HOST:
            destination = rows.identity_with(packet.destination, packet.family)
        if met.origin is Origin.POD and destination == HOST_IDENTITY:
            far = HOST
    return case._replace(source_identity=source, destination_identity=destination, far=far)
