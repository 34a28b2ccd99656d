"""What the packets did: flows in Hubble's field names where the meaning is equal, and which of them are wanted."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable
from datetime import datetime
from enum import StrEnum
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta

from fairlead.address import Address
from fairlead.schema.base import Empty, IdentityIdField, Message, NodeNameField, Topic
from fairlead.schema.identity import UNKNOWN

_T = TypeVar("_T")


class Verdict(StrEnum):
    """Hubble's words for what became of a packet."""

    FORWARDED = "FORWARDED"
    DROPPED = "DROPPED"
    AUDIT = "AUDIT"
    """It passed although a policy denies it: the policy is only audited, or a person broke the glass (`break_glass`)."""


class FlowType(StrEnum):
    """Why a flow was reported."""

    NEW = "new"
    DROP = "drop"
    AUDIT = "audit"
    CLOSED = "closed"
    """Its end: both sides said so, or nothing was heard of it for as long as it may live."""
    LASTING = "lasting"
    """It goes on: what it has come to so far."""


class FlowEnd(Message, frozen=True, kw_only=True):
    """One end of a flow; `endpoint` is 0 and `name` empty where the node does not host it."""

    address: Address
    port: int = 0
    identity: IdentityIdField = UNKNOWN
    labels: tuple[str, ...] = ()
    endpoint: int = 0
    name: str = ""
    identity_age_s: float = -1
    """How long the node has known the identity of this address; -1 when it does not know it."""


class Flow(Message, frozen=True, kw_only=True):
    """A flow that began, was denied, lasts or ended, in Hubble's field names where the meaning is equal."""

    uuid: str
    time: datetime
    node_name: NodeNameField
    verdict: Verdict
    traffic_direction: str
    """INGRESS or EGRESS, seen from the endpoint whose policy decided."""
    protocol: str
    source: FlowEnd
    destination: FlowEnd
    drop_reason: int = 0
    drop_reason_desc: str = ""
    denied_by: tuple[str, ...] = ()
    """The rules that denied, or the policies that turned default deny on; with AUDIT those that would have."""
    allowed_by: tuple[str, ...] = ()
    explanation: str = ""
    """One sentence for people."""
    policy_revision: int = 0
    lost_before: int = 0
    """Events that the node lost since the previous one, at any stage."""
    event_type: str = ""
    """A FlowType; empty from nodes that do not tell."""
    is_reply: bool = False
    ip_version: int = 0
    """4 or 6; 0: not told."""
    tcp_flags: tuple[str, ...] = ()
    """Of the packet, or of a whole flow all that the initiator sent, for instance SYN, ACK."""
    reply_tcp_flags: tuple[str, ...] = ()
    """Of a whole flow: all that the responder sent."""
    interface: str = ""
    """Where the packet was met, if the node knows the device's name."""
    packets: int = 0
    """Of a whole flow, initiator to responder; the next three alike."""
    bytes: int = 0
    reply_packets: int = 0
    reply_bytes: int = 0
    break_glass: bool = False
    """It passes, although a policy denies it, because a person broke the glass."""
    lost_by_stage: dict[str, int] = msgspec.field(default_factory=dict)
    """What `lost_before` consists of: see FlowList.lost_by_stage."""


_Word = Annotated[str, Meta(min_length=1, max_length=253)]
_Prefix = Annotated[str, Meta(pattern=r"^[0-9A-Fa-f:.]{2,45}(/[0-9]{1,3})?$")]
_Port = Annotated[int, Meta(ge=0, le=65535)]
_Words = Annotated[tuple[_Word, ...], Meta(max_length=64)]
_Prefixes = Annotated[tuple[_Prefix, ...], Meta(max_length=64)]
_Ports = Annotated[tuple[_Port, ...], Meta(max_length=64)]
_Identities = Annotated[tuple[IdentityIdField, ...], Meta(max_length=64)]


class EndFilter(Message, frozen=True, kw_only=True):
    """Which ends are meant: of each field any of its values, all fields at once; an empty field asks for nothing."""

    ip: _Prefixes = ()
    """Addresses and prefixes."""
    identity: _Identities = ()
    label: _Words = ()
    """Labels as key=value, key, or source:key=value."""
    name: _Words = ()
    """Names of workloads; one that ends in * means all that begin so."""
    port: _Ports = ()

    def matches(self, end: FlowEnd) -> bool:
        """Tell whether this end is meant."""
        return (
            _any(self.ip, lambda prefix: _within(end.address, prefix))
            and _any(self.identity, lambda identity: end.identity == identity)
            and _any(self.label, lambda label: any(_is_label(have, label) for have in end.labels))
            and _any(self.name, lambda name: _is_name(end.name, name))
            and _any(self.port, lambda port: end.port == port)
        )


class FlowFilter(Message, frozen=True, kw_only=True):
    """Which flows are meant: of each field any of its values, all fields at once; an empty field asks for nothing."""

    source: EndFilter = EndFilter()
    destination: EndFilter = EndFilter()
    either: EndFilter = EndFilter()
    """One of the two ends, whichever."""
    protocol: _Words = ()
    """For instance tcp, icmp (both versions), icmpv4 or icmpv6."""
    verdict: Annotated[tuple[Verdict, ...], Meta(max_length=8)] = ()
    event_type: Annotated[tuple[FlowType, ...], Meta(max_length=8)] = ()
    drop_reason: _Words = ()
    """A number, or words of the reason's text."""
    traffic_direction: Annotated[
        tuple[Annotated[str, Meta(pattern="^(INGRESS|EGRESS)$")], ...], Meta(max_length=2)
    ] = ()
    ip_version: Annotated[tuple[Annotated[int, Meta(ge=4, le=6)], ...], Meta(max_length=2)] = ()
    tcp_flags: _Words = ()
    """Flags that all were seen, for instance SYN,ACK; of several such words one is enough."""
    interface: _Words = ()
    uuid: _Words = ()
    """How the uuid begins."""

    @property
    def is_empty(self) -> bool:
        """Tell whether it asks for nothing."""
        return self == FlowFilter()

    def matches(self, flow: Flow) -> bool:
        """Tell whether the flow is meant."""
        return self._ends_match(flow) and (
            _any(self.protocol, lambda wanted: _is_protocol(flow.protocol, wanted))
            and _any(self.verdict, lambda wanted: flow.verdict is wanted)
            and _any(self.event_type, lambda wanted: flow.event_type == wanted)
            and _any(self.drop_reason, lambda wanted: _is_reason(flow, wanted))
            and _any(self.traffic_direction, lambda wanted: flow.traffic_direction == wanted)
            and _any(self.ip_version, lambda wanted: flow.ip_version == wanted)
            and _any(self.tcp_flags, lambda wanted: set(wanted.upper().split(",")) <= set(flow.tcp_flags))
            and _any(self.interface, lambda wanted: flow.interface == wanted)
            and _any(self.uuid, flow.uuid.startswith)
        )

    def _ends_match(self, flow: Flow) -> bool:
        either = self.either.matches(flow.source) or self.either.matches(flow.destination)
        return either and self.source.matches(flow.source) and self.destination.matches(flow.destination)


def _any(wanted: Iterable[_T], holds: Callable[[_T], bool]) -> bool:
    values = tuple(wanted)
    return not values or any(map(holds, values))


def _within(address: Address, prefix: str) -> bool:
    try:
        return address.ip in ipaddress.ip_network(prefix, strict=False)
    except ValueError:
        return False


def _is_label(have: str, wanted: str) -> bool:
    bare = have.partition(":")[2] or have
    return wanted in (have, bare, have.partition("=")[0], bare.partition("=")[0])


def _is_name(have: str, wanted: str) -> bool:
    return have.startswith(wanted[:-1]) if wanted.endswith("*") else have == wanted


def _is_protocol(have: str, wanted: str) -> bool:
    name, asked = have.lower(), wanted.lower()
    return name == asked or (asked == "icmp" and name == "icmpv6") or (asked == "icmpv4" and name == "icmp")


def _is_reason(flow: Flow, wanted: str) -> bool:
    return wanted == str(flow.drop_reason) if wanted.isdecimal() else wanted.lower() in flow.drop_reason_desc.lower()


class FlowQuery(Message, frozen=True, kw_only=True):
    """Which recorded flows are wanted: the newest `last`, or the oldest `first`, of those that are meant."""

    last: Annotated[int, Meta(ge=1, le=4096)] = 20
    verdict: Annotated[str, Meta(pattern=r"^(FORWARDED|DROPPED|AUDIT)?$")] = ""
    uuid: Annotated[str, Meta(pattern=r"^[0-9a-f-]{0,36}$")] = ""
    first: Annotated[int, Meta(ge=0, le=4096)] = 0
    """Above 0: the oldest so many instead of the newest `last`."""
    since: datetime | None = None
    until: datetime | None = None
    only: Annotated[tuple[FlowFilter, ...], Meta(max_length=64)] = ()
    """Any of these; none: all flows."""
    never: Annotated[tuple[FlowFilter, ...], Meta(max_length=64)] = ()
    """None of these."""

    def matches(self, flow: Flow) -> bool:
        """Tell whether the flow is meant, however many are wanted."""
        return (
            (not self.verdict or flow.verdict == self.verdict.upper())
            and (not self.uuid or flow.uuid.startswith(self.uuid))
            and (self.since is None or flow.time >= self.since)
            and (self.until is None or flow.time <= self.until)
            and (not self.only or any(one.matches(flow) for one in self.only))
            and not any(one.matches(flow) for one in self.never)
        )


class FlowList(Message, frozen=True, kw_only=True):
    """Recorded flows of a node, oldest first, and how many events it has lost since it started."""

    node: NodeNameField
    flows: tuple[Flow, ...]
    lost: int = 0
    lost_by_stage: dict[str, int] = msgspec.field(default_factory=dict)
    """`ration` of the programs, `ring_buffer` full, `unknown` to this version, `recorder` budget, `messages` budget, `bus`; only the
    last two were recorded all the same, and are not in `lost`."""


FLOWS = Topic("fairlead.get.datapath.flow.list.v1", FlowQuery, FlowList, per_node=True, summary="recorded flows")
FLOW_SEEN = Topic("fairlead.flow.datapath.flow.seen.v1", Flow, Empty, per_node=True, summary="flows and drops, lossy")
