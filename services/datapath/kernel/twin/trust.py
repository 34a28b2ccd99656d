"""Whether a packet of a flow that was allowed may go on without being judged again."""

from __future__ import annotations

from services.datapath.failsafe import HOST_ENDPOINT
from services.datapath.kernel.twin import parties
from services.datapath.kernel.twin.cases import Met, Origin
from services.datapath.kernel.twin.flows import BEYOND, ELSEWHERE, STACK, Flow, ends_of
from services.datapath.kernel.twin.frames import Packet
from services.datapath.kernel.twin.rows import Rows


def is_trusted(rows: Rows, flow: Flow, packet: Packet, met: Met) -> bool:
    """Tell whether nothing has changed since the flow was allowed, and the packet comes from where the flow's packets come."""
    if flow.stamp != rows.stamp(*flow.endpoints):
        return False
    ends = ends_of(packet)
    source, destination = flow.seats(ends)
    if met.origin is Origin.OVERLAY:
        # a node whose pod has become another says so before the address map does, or after it
        known = flow.identities[ends.source != flow.beginner]
        return not source and flow.far == BEYOND and known == parties.tunnelled_identity(rows, packet, met)
    if met.origin is Origin.POD:
        entry = rows.entry(source)
        found_way = not flow.masqueraded or flow.far or flow.outer
        return entry is not None and entry.ifindex == met.ifindex and bool(found_way)
    if met.origin is Origin.UPLINK:
        ours = source == HOST_ENDPOINT or flow.far == STACK
        return ours and not destination and bool(met.ingress_ifindex or not flow.far)
    if met.origin is Origin.HOST:
        return _of_stack(flow, met, source, destination, reply=flow.beginner != ends.source)
    return not source and packet.outer_port == outer_port(flow) and flow.far == ELSEWHERE


def _of_stack(flow: Flow, met: Met, source: int, destination: int, *, reply: bool) -> bool:
    """Tell whether the stack may send a packet of the flow."""
    if source not in {0, HOST_ENDPOINT}:
        return met.turned and flow.turned
    if flow.far == BEYOND:
        return source == HOST_ENDPOINT and not met.ingress_ifindex
    # what the node carries on for others, and sends away by an uplink, is a flow too, but not one of this door
    return bool(destination) and flow.far == met.far(flow, reply=reply)


def outer_port(flow: Flow) -> int:
    """Return the port by which the world knows the flow; 0: it is not masqueraded."""
    return flow.outer[1] if flow.outer else 0
