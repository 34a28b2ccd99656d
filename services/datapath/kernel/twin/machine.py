"""The programs as one machine: hand it a frame and where it was met, and it says what becomes of it.

It keeps flows and fragments, as the kernel does between packets. It knows nothing of what only makes the programs faster (denials that are
remembered, ways off the node that are kept), so that a difference which those would make shows as a disagreement.
"""

from __future__ import annotations

from collections.abc import Callable

from fairlead.schema.identity import HOST as HOST_IDENTITY
from fairlead.schema.identity import REMOTE_NODE
from services.datapath.failsafe import HOST_ENDPOINT
from services.datapath.kernel.twin import answers, frames, node, parties, verdicts
from services.datapath.kernel.twin.cases import Action, Case, Fate, Met, Origin, Route, Told
from services.datapath.kernel.twin.flows import (
    NEVER,
    Flow,
    FlowKey,
    Timeouts,
    ends_of,
    key_of,
)
from services.datapath.kernel.twin.frames import RST, Fragments, Packet
from services.datapath.kernel.twin.outside import Outside, error_outside
from services.datapath.kernel.twin.policy import EGRESS, INGRESS
from services.datapath.kernel.twin.trust import is_trusted, outer_port
from services.datapath.kernel.twin.ways import Ways
from services.datapath.reports import DropReason, EventKind

_DROP, _NEW, _AUDIT = EventKind.DROP, EventKind.NEW_FLOW, EventKind.AUDIT
_UNKNOWN_L4 = int(DropReason.UNKNOWN_L4)
_NO_MAPPING, _NO_MASQUERADE = int(DropReason.NO_MAPPING), int(DropReason.NO_MASQUERADE)
_IP = frozenset((frames.IPV4_TYPE, frames.IPV6_TYPE))


class Machine(Ways):
    """One node's programs, with the rows they read."""

    def __init__(self, route: Callable[[bytes], Route], timeouts: Timeouts | None = None) -> None:
        super().__init__(route)
        self.flows: dict[FlowKey, Flow] = {}
        self.fragments: Fragments = {}
        self._timeouts = timeouts or Timeouts()
        self.outside = Outside(self.flows, self._timeouts)

    def meet(self, frame: bytes, met: Met, now_s: float = 0.0) -> Fate:
        """Return what becomes of a frame that is met at this moment."""
        if met.origin is Origin.POD:
            return self._from_pod(frame, met, now_s)
        if met.origin is Origin.UPLINK:
            return self._to_uplink(frame, met, now_s)
        if met.origin is Origin.OVERLAY:
            return self._from_overlay(frame, met, now_s)
        fate = self._to_pods(frame, met, now_s)
        if fate.action is Action.UNTOUCHED and met.origin is Origin.HOST:
            return self._to_other_nodes(frame, met)
        return fate

    def _from_pod(self, frame: bytes, met: Met, now_s: float) -> Fate:
        kind = frame[12:14]
        if met.vlan:
            return self._drop_quietly(int(DropReason.VLAN), EGRESS)
        if kind == frames.ARP_TYPE:
            return self._answer(answers.answer_arp(frame))
        if kind not in _IP:
            return self._drop_quietly(int(DropReason.UNKNOWN_L3), EGRESS)
        packet, reason = _read(frame, kind)
        if packet.family == 6 and not reason:
            answer = answers.answer_discovery(frame, packet)
            if answer:
                return self._answer(answer)
        reason = reason or frames.read_transport(frame, packet, self.fragments)
        if reason:
            return self._drop(Told(_DROP, reason, EGRESS))
        return self._handle(frame, packet, met, now_s)

    def _to_pods(self, frame: bytes, met: Met, now_s: float) -> Fate:
        kind, untouched = frame[12:14], Fate(Action.UNTOUCHED, frame=frame)
        if kind not in _IP or (met.vlan and met.origin is Origin.NETWORK):
            return untouched
        packet, reason = _read(frame, kind)
        masquerades = met.origin is Origin.NETWORK and self.outside.does(packet.family)
        from_stack = met.origin is Origin.HOST
        # fragments leave traces, and malformed packets are reported, for our own only
        foreign = bool(reason or packet.fragment) and not self.rows.receiver(packet.destination, from_stack=from_stack)
        if foreign and (reason or not masquerades):
            return untouched
        reason = reason or frames.read_transport(frame, packet, self.fragments, record=not foreign)
        if not reason and masquerades:
            led = self.outside.lead_in(frame, packet, self.fragments)
            frame, reason = (frame, led) if isinstance(led, int) else (led, 0)
        if foreign and not packet.outer_port:
            return untouched
        endpoint = self.rows.receiver(packet.destination, from_stack=from_stack)
        # the node speaks more protocols than pods may: policy judges them without ports
        if reason and (endpoint != HOST_ENDPOINT or reason != _UNKNOWN_L4):
            return self._drop(Told(_DROP, reason, INGRESS, endpoint)) if endpoint else untouched
        fate = self._handle(frame, packet, met, now_s)
        # whose pod is gone: the stack must not hear what was sent to an outer end
        return Fate(Action.DROPPED) if packet.outer_port and fate.action is Action.UNTOUCHED else fate

    def _to_uplink(self, frame: bytes, met: Met, now_s: float) -> Fate:
        kind, untouched = frame[12:14], Fate(Action.UNTOUCHED, frame=frame)
        if self.rows.host is None or kind not in _IP or met.vlan:
            return untouched
        packet, reason = _read(frame, kind)
        forwarded = bool(met.ingress_ifindex)
        if node.is_multicast(packet) or (forwarded and not self.rows.is_own(packet.source)):
            return untouched
        reason = reason or frames.read_transport(frame, packet, self.fragments)
        if forwarded and (reason or self.outside.leads(packet)):
            return untouched
        if reason and reason != _UNKNOWN_L4:
            return self._drop(Told(_DROP, reason, EGRESS, HOST_ENDPOINT, 0, int(HOST_IDENTITY)))
        # what the node says about packets that it cannot deliver is no speech of its own
        if packet.error or node.is_essential(packet):
            return untouched
        return self._handle(frame, packet, met, now_s)

    def _from_overlay(self, frame: bytes, met: Met, now_s: float) -> Fate:
        kind = frame[12:14]
        if met.vlan:
            return self._drop_quietly(int(DropReason.VLAN), INGRESS)
        if kind not in _IP:
            return self._drop_quietly(int(DropReason.UNKNOWN_L3), INGRESS)
        packet, reason = _read(frame, kind)
        reason = reason or self._refused_tunnel(met)
        if reason:
            return self._drop(Told(_DROP, reason, INGRESS))
        endpoint = self.rows.receiver(packet.destination, from_stack=False)
        identity = parties.tunnelled_identity(self.rows, packet, met)
        if not endpoint:
            return self._to_node(frame, packet, met, identity)
        reason = frames.read_transport(frame, packet, self.fragments)
        if reason and (endpoint != HOST_ENDPOINT or reason != _UNKNOWN_L4):
            return self._drop(Told(_DROP, reason, INGRESS, endpoint, source_identity=identity))
        fate = self._handle(frame, packet, met, now_s)
        # not judged: what the node cannot do without
        return self._to_node(frame, packet, met, identity, endpoint) if fate.action is Action.UNTOUCHED else fate

    def _refused_tunnel(self, met: Met) -> int:
        """Return why a tunnel's packet is not believed, or 0: only nodes that are known may say who somebody is."""
        if met.tunnel is None:
            return int(DropReason.NO_TUNNEL_KEY)
        family = 4 if met.tunnel.node.startswith(frames.MAPPED) else 6
        if self.rows.identities.exact(met.tunnel.node, family) != REMOTE_NODE:
            return int(DropReason.UNKNOWN_SENDER)
        return int(DropReason.INVALID_IDENTITY) if met.tunnel.number in {0, HOST_IDENTITY} else 0

    def _to_other_nodes(self, frame: bytes, met: Met) -> Fate:
        """Send what the stack sends to other nodes' pods into their tunnels; no flow is kept of it."""
        untouched = Fate(Action.UNTOUCHED, frame=frame)
        if frame[12:14] not in _IP:
            return untouched
        packet, reason = _read(frame, frame[12:14])
        if reason:
            return untouched
        return self._stack_to_tunnel(frame, packet, met) or untouched

    def _answer(self, answer: bytes | int) -> Fate:
        if answer == answers.SILENTLY:
            return Fate(Action.DROPPED)
        if isinstance(answer, int):
            return self._drop_quietly(answer, EGRESS)
        self.counted[0, EGRESS] += 1
        return Fate(Action.ANSWERED, frame=answer)

    # may it pass

    def _handle(self, frame: bytes, packet: Packet, met: Met, now_s: float) -> Fate:
        ends = ends_of(packet)
        key = key_of(ends, packet.protocol)
        flow = self.flows.get(key)
        if flow is not None:
            if not flow.alive(packet.protocol, self._timeouts, now_s) or flow.begins_anew(packet, ends.source):
                flow = None
            elif is_trusted(self.rows, flow, packet, met):
                flow.account(packet, ends, now_s)
                self._count_passed(met)
                return self._deliver(Case(frame, packet, met, ends, *flow.seats(ends), flow.far, flow=flow))
        if packet.outer_port and not packet.error and (flow is None or outer_port(flow) != packet.outer_port):
            return self._drop(Told(_DROP, _NO_MAPPING, INGRESS))  # only a pod's next packet can begin the flow anew
        case = parties.find(self.rows, frame, packet, met, flow)
        if case is None:
            return Fate(Action.UNTOUCHED, frame=frame)
        if isinstance(case, DropReason):
            return self._drop(Told(_DROP, int(case), EGRESS if met.sent_here else INGRESS))
        return self._judge(case, key, flow, now_s)

    def _judge(self, case: Case, key: FlowKey, flow: Flow | None, now_s: float) -> Fate:
        held = verdicts.held(self.rows, case)
        if held is not None:
            return self._drop(held)
        if case.packet.error and (related := self._related(case, now_s)):
            return self._deliver_error(case, related)
        reply = case.met.origin is Origin.UPLINK and node.answers(case.packet)
        if flow is not None:
            reply = flow.beginner != case.ends.source
        away = case.met.origin is Origin.POD and not case.destination
        if away and not flow and not case.far:
            case = case._replace(masquerade=self.outside.shall(case.packet, case.destination_identity))
        told, last = verdicts.judge(self.rows, case, now_s, reply=reply)
        if told.kind is not _DROP and case.masquerade and not self.outside.can(case.packet):
            told = last._replace(kind=_DROP, reason=_NO_MASQUERADE, by_glass=False)
        if told.kind is _DROP:
            if flow is not None:
                flow.by_glass = False
            return self._drop(told)
        known = flow is not None and self._is_told(flow, case, told)
        self._record(case, key, flow, told, now_s, reply=reply)
        if told.kind is _AUDIT and not known:
            self.told.append(told)
        case = case._replace(flow=self.flows.get(key) if away else None)
        reason = self._map(case, now_s)
        if reason:
            return self._drop(told._replace(kind=_DROP, reason=reason, by_glass=False))
        self._count_passed(case.met)
        return self._deliver(case)

    def _is_told(self, flow: Flow, case: Case, told: Told) -> bool:
        """Tell whether it has been told already that a flow passes only because of audit, or of broken glass."""
        same = flow.audited and flow.masqueraded and flow.stamp == self.rows.stamp(case.source, case.destination)
        return same or (flow.by_glass and told.by_glass)

    def _map(self, case: Case, now_s: float) -> int:
        """Have an outer end for a packet that leaves as the node's; return 0 or why there is none."""
        flow = case.flow
        if case.far or not (case.masquerade or (flow and flow.masqueraded)):
            return 0
        if flow is None or not flow.masqueraded:
            return _NO_MAPPING
        reason = self._no_way(case.packet.destination)
        return reason or (0 if self.outside.map_flow(case.packet, case.ends, flow, now_s) else _NO_MAPPING)

    def _deliver_error(self, case: Case, related: Flow) -> Fate:
        """Let an error pass about a packet of an allowed flow; what a pod says of a masqueraded one speaks of the outer end."""
        if case.met.origin is Origin.POD and related.masqueraded:
            frame = error_outside(case.frame, case.packet, related)
            if not frame:
                return self._drop(case.told(_DROP, _NO_MAPPING, INGRESS, case.destination))
            case = case._replace(frame=frame)
        self._count_passed(case.met)
        return self._deliver(case)

    def _related(self, case: Case, now_s: float) -> Flow | None:
        """Return the flow which is allowed now and of which an ICMP error quotes a packet that its receiver sent."""
        quoted = frames.read_quoted(case.frame, case.packet)
        if quoted is None or quoted.source != case.packet.destination:
            return None
        flow = self.flows.get(key_of(ends_of(quoted), quoted.protocol))
        if flow is None or not flow.alive(quoted.protocol, self._timeouts, now_s):
            return None
        return flow if flow.stamp == self.rows.stamp(*flow.endpoints) else None

    def _record(self, case: Case, key: FlowKey, flow: Flow | None, told: Told, now_s: float, *, reply: bool) -> None:
        """Stamp the flow that the packet belongs to, or begin one."""
        if flow is None:
            if case.packet.unrecorded or case.packet.tcp_flags & RST:
                return
            flow = self.flows[key] = Flow(case.ends.destination if reply else case.ends.source)
            flow.masqueraded = case.masquerade
            if told.kind is _NEW:
                self.told.append(told)
        flow.sit(case.ends, case.source, case.destination)
        flow.stamp = NEVER if told.by_glass else self.rows.stamp(case.source, case.destination)
        flow.by_glass, flow.audited = told.by_glass, told.kind is _AUDIT
        identities = case.source_identity, case.destination_identity
        flow.identities = identities[::-1] if reply else identities
        flow.far = case.far
        flow.account(case.packet, case.ends, now_s)


def _read(frame: bytes, kind: bytes) -> tuple[Packet, int]:
    if kind == frames.IPV4_TYPE:
        packet = Packet(4)
        return packet, frames.read_ipv4(frame, packet)
    packet = Packet(6)
    return packet, frames.read_ipv6(frame, packet)
