"""From a report of the programs to a flow that people understand. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from fairlead.address import Address
from fairlead.schema.base import IdentityId, NodeName
from fairlead.schema.flow import Flow, FlowEnd, FlowType, Verdict
from services.datapath.operations import PolicyKey, PolicyValue
from services.datapath.reports import DropReason, Event, EventKind

_TEXTS = {
    DropReason.INVALID_SOURCE: "the source address does not belong to the endpoint",
    DropReason.POLICY: "policy denied: no entry admits it",
    DropReason.INVALID_PACKET: "header lengths contradict each other",
    DropReason.TRUNCATED: "the transport header is cut short",
    DropReason.UNKNOWN_L3: "neither IPv4, IPv6 nor ARP",
    DropReason.WRITE_ERROR: "the packet could not be rewritten",
    DropReason.UNKNOWN_L4: "the transport protocol is not supported",
    DropReason.NO_TUNNEL_KEY: "it came by the tunnels' device without a tunnel",
    DropReason.UNKNOWN_TARGET: "no endpoint of this node has the address",
    DropReason.FLOW_TABLE: "the flow could not be recorded",
    DropReason.INVALID_EXTENSION: "IPv6 extension headers are malformed or too many",
    DropReason.FRAGMENT_TABLE: "the first fragment could not be recorded",
    DropReason.NO_TUNNEL: "no node is known any more that has the destination",
    DropReason.FIB: "the host has no route to the destination",
    DropReason.INVALID_IDENTITY: "the tunnel says it is this node itself, or nobody",
    DropReason.UNKNOWN_SENDER: "the tunnel comes from an address that is no node's",
    DropReason.FRAGMENT_NOT_FOUND: "the first fragment was not seen",
    DropReason.FORBIDDEN_ICMP6: "neighbour discovery that workloads have no use for",
    DropReason.POLICY_DENY: "policy denied: an entry denies it",
    DropReason.VLAN: "a VLAN tag from a workload",
    DropReason.NO_MAPPING: "masquerade has no free port, or knows no such flow",
    DropReason.NO_MASQUERADE: "protocol that cannot be masqueraded",
    DropReason.TOO_BIG: "larger than the way takes",
    DropReason.TTL_EXCEEDED: "time to live or hop limit ran out",
    DropReason.HELD: "the endpoint is held",
    DropReason.NO_PROXY: "the entry wants an L7 proxy and there is none",
    DropReason.INTERNAL: "a kernel map that must exist did not answer",
}
_TYPES = {
    EventKind.DROP: FlowType.DROP,
    EventKind.NEW_FLOW: FlowType.NEW,
    EventKind.CLOSED: FlowType.CLOSED,
    EventKind.AUDIT: FlowType.AUDIT,
    EventKind.LASTING: FlowType.LASTING,
}
_BY_GLASS = "; passes by break-glass"
_FLAGS = ("FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR")
_TCP, _FIN, _RST = 6, 1, 4
_PROTOCOLS = {1: "ICMP", 6: "TCP", 17: "UDP", 58: "ICMPv6", 132: "SCTP"}
_TEXTS_BY_NUMBER = {int(reason): text for reason, text in _TEXTS.items()}


@dataclass(frozen=True)
class End:
    """What the node knows of one end of a flow."""

    labels: tuple[str, ...] = ()
    name: str = ""
    endpoint: int = 0
    age_s: float = -1


@dataclass(frozen=True)
class Subject:
    """The endpoint whose policy decided."""

    name: str = ""
    detail: str = ""
    """Why it is not ready; empty when it is."""
    revision: int = 0


@dataclass(frozen=True)
class Circumstances:
    """All that is needed to explain one event."""

    node: NodeName
    uuid: str
    time: datetime
    source: End
    destination: End
    subject: Subject
    origins: tuple[str, ...] = ()
    lost_by_stage: Mapping[str, int] = field(default_factory=dict)
    interface: str = ""


def reason_text(reason: int) -> str:
    """Return the drop reason in words."""
    return _TEXTS_BY_NUMBER.get(reason, f"drop reason {reason}")


def explain(event: Event, around: Circumstances) -> Flow:
    """Return the flow that the event tells of."""
    denied = event.kind in (EventKind.DROP, EventKind.AUDIT)
    whole = event.kind in (EventKind.CLOSED, EventKind.LASTING)
    return Flow(
        uuid=around.uuid,
        time=around.time,
        node_name=around.node,
        verdict=_verdict(event),
        traffic_direction="EGRESS" if event.direction else "INGRESS",
        protocol=protocol_name(event.protocol),
        source=_end(event.source, event.sport, event.source_identity, around.source),
        destination=_end(event.destination, event.dport, event.destination_identity, around.destination),
        drop_reason=event.reason,
        drop_reason_desc=_denial(event) if denied else "",
        denied_by=around.origins if denied else (),
        allowed_by=() if denied or whole else around.origins,
        explanation=_explanation(event, around),
        policy_revision=around.subject.revision,
        lost_before=sum(around.lost_by_stage.values()),
        lost_by_stage=dict(around.lost_by_stage),
        event_type=_TYPES[event.kind],
        is_reply=event.is_reply,
        ip_version=int(event.source.family),
        tcp_flags=flag_names(event.tcp_flags[0]),
        reply_tcp_flags=flag_names(event.tcp_flags[1]),
        interface=around.interface,
        break_glass=event.by_glass,
        packets=event.packets[0],
        bytes=event.bytes[0],
        reply_packets=event.packets[1],
        reply_bytes=event.bytes[1],
    )


def _denial(event: Event) -> str:
    return f"{reason_text(event.reason)}{_BY_GLASS if event.by_glass else ''}"


def _explanation(event: Event, around: Circumstances) -> str:
    if event.kind in (EventKind.CLOSED, EventKind.LASTING):
        return _whole(event)
    if event.kind not in (EventKind.DROP, EventKind.AUDIT):
        return _why_passed(event, around)
    return f"{_why_dropped(event, around)}{_BY_GLASS if event.by_glass else ''}"


def _verdict(event: Event) -> Verdict:
    if event.kind is EventKind.DROP:
        return Verdict.DROPPED
    return Verdict.AUDIT if event.audited else Verdict.FORWARDED


def flag_names(flags: int) -> tuple[str, ...]:
    """Return the names of the TCP flags."""
    return tuple(name for bit, name in enumerate(_FLAGS) if flags & 1 << bit)


def _whole(event: Event) -> str:
    if event.kind is EventKind.LASTING:
        return "goes on"
    if event.protocol != _TCP:
        return "over: nothing was heard of it for as long as it may live"
    seen = event.tcp_flags[0] | event.tcp_flags[1]
    if seen & _RST:
        return "reset"
    return "closed" if event.tcp_flags[0] & event.tcp_flags[1] & _FIN else "over: nothing was heard of it any more"


def _end(address: Address, port: int, identity: int, end: End) -> FlowEnd:
    return FlowEnd(
        address=address,
        port=port,
        identity=IdentityId(identity),
        labels=end.labels,
        endpoint=end.endpoint,
        name=end.name,
        identity_age_s=end.age_s,
    )


def _why_passed(event: Event, around: Circumstances) -> str:
    if around.origins:
        return f"allowed by {_listed(around.origins)}"
    return f"allowed: no policy enforces {_direction(event)} of {_who(event, around)}"


def _why_dropped(event: Event, around: Circumstances) -> str:
    match event.reason:
        case DropReason.HELD:
            return f"endpoint {_who(event, around)} is held: {around.subject.detail or 'its policy is being written'}"
        case DropReason.POLICY_DENY:
            return f"denied by {_listed(around.origins) or 'an entry without a known origin'}"
        case DropReason.POLICY:
            cause = f", turned on by {_listed(around.origins)}" if around.origins else ""
            return f"default deny{cause}; no rule of it admits {_peer(event, around)} on {port_name(event.protocol, event.dport)}{_age(event, around)}"
        case _:
            return reason_text(event.reason)


def _direction(event: Event) -> str:
    return "egress" if event.direction else "ingress"


def _who(event: Event, around: Circumstances) -> str:
    return around.subject.name or str(event.endpoint)


def _listed(texts: Sequence[str]) -> str:
    return ", ".join(texts)


def _peer(event: Event, around: Circumstances) -> str:
    """Return who the peer of the deciding endpoint is: the source for ingress, the destination for egress."""
    identity = event.destination_identity if event.direction else event.source_identity
    labels = (around.destination if event.direction else around.source).labels
    return f"identity {identity} ({', '.join(labels)})" if labels else f"identity {identity}"


def _age(event: Event, around: Circumstances) -> str:
    age_s = (around.destination if event.direction else around.source).age_s
    address = event.destination if event.direction else event.source
    if age_s < 0:
        return f"; {address} is not known as anybody's"
    return f", known for {age_s:.1f} s" if age_s < 10 else f", known for {age_s:.0f} s"


def describe(key: PolicyKey, value: PolicyValue) -> str:
    """Return a policy map entry in words."""
    direction = "egress" if key.direction else "ingress"
    verdict = "deny" if value.deny else "allow"
    peer = f"identity {key.identity}" if key.identity else "any peer"
    if key.port_bits:
        last = key.port | 0xFFFF >> key.port_bits
        return f"{direction} {verdict} {peer} {key.port}-{last}/{protocol_name(key.protocol)}"
    return f"{direction} {verdict} {peer} {port_name(key.protocol, key.port)}"


def protocol_name(number: int) -> str:
    """Return the protocol's name."""
    return _PROTOCOLS.get(number, str(number))


def port_name(protocol: int, port: int) -> str:
    """Return for instance 6379/TCP; `any port` for none."""
    if not protocol:
        return "any port"
    return f"{port or 'any'}/{protocol_name(protocol)}"
