"""The three programs as one machine: hand it a frame and where it was met, and it says what becomes of it.

It keeps flows and fragments, as the kernel does between packets. It knows nothing of what only makes the programs faster (denials that are
remembered, ways off the node that are kept), so that a difference which those would make shows as a disagreement.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from fairlead.schema.identity import HOST as HOST_IDENTITY
from services.datapath.kernel.twin import answers, frames
from services.datapath.kernel.twin.cases import Action, Case, Fate, Met, Origin, Route, Told
from services.datapath.kernel.twin.flows import (
    ELSEWHERE,
    HOST,
    NEVER,
    STACK,
    Ends,
    Flow,
    FlowKey,
    Timeouts,
    ends_of,
    key_of,
)
from services.datapath.kernel.twin.frames import ETHERNET, RST, Fragments, Packet
from services.datapath.kernel.twin.policy import EGRESS, INGRESS
from services.datapath.kernel.twin.rewrite import handed_to, one_hop_less, refusable
from services.datapath.kernel.twin.rows import Rows, sender_identity
from services.datapath.reports import DropReason, EventKind

_DROP, _NEW, _AUDIT = EventKind.DROP, EventKind.NEW_FLOW, EventKind.AUDIT
_NO_WAY = {Route.NONE: int(DropReason.FIB), Route.OWN_PREFIX: int(DropReason.UNKNOWN_TARGET)}
_DENIALS = frozenset((int(DropReason.POLICY), int(DropReason.POLICY_DENY)))
_EXPIRED, _TOO_BIG = int(DropReason.TTL_EXCEEDED), int(DropReason.TOO_BIG)
_IP = frozenset((frames.IPV4_TYPE, frames.IPV6_TYPE))


class Machine:
    """One node's programs, with the rows they read."""

    def __init__(self, route: Callable[[bytes], Route], timeouts: Timeouts | None = None) -> None:
        self.rows = Rows()
        self.flows: dict[FlowKey, Flow] = {}
        self.fragments: Fragments = {}
        self.told: list[Told] = []
        self.counted: Counter[tuple[int, int]] = Counter()
        """Packets by reason (0: forwarded) and direction."""
        self.mtu_bytes = 1500
        """Of the ways off the node."""
        self._route, self._timeouts = route, timeouts or Timeouts()

    def meet(self, frame: bytes, met: Met, now_s: float = 0.0) -> Fate:
        """Return what becomes of a frame that is met at this moment."""
        if met.origin is Origin.POD:
            return self._from_pod(frame, met, now_s)
        return self._to_pods(frame, met, now_s)

    def _from_pod(self, frame: bytes, met: Met, now_s: float) -> Fate:
        kind = frame[12:14]
        if met.vlan:
            return self._drop_quietly(int(DropReason.VLAN))
        if kind == frames.ARP_TYPE:
            return self._answer(answers.answer_arp(frame))
        if kind not in _IP:
            return self._drop_quietly(int(DropReason.UNKNOWN_L3))
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
        endpoint = self.rows.endpoint_with.get(packet.destination, 0)
        # fragments leave traces, and malformed packets are reported, for our own only
        if (reason or packet.fragment) and not endpoint:
            return untouched
        reason = reason or frames.read_transport(frame, packet, self.fragments)
        if not reason:
            return self._handle(frame, packet, met, now_s)
        return self._drop(Told(_DROP, reason, INGRESS, endpoint)) if endpoint else untouched

    def _answer(self, answer: bytes | int) -> Fate:
        if answer == answers.SILENTLY:
            return Fate(Action.DROPPED)
        if isinstance(answer, int):
            return self._drop_quietly(answer)
        self.counted[0, EGRESS] += 1
        return Fate(Action.ANSWERED, frame=answer)

    # who it is

    def _handle(self, frame: bytes, packet: Packet, met: Met, now_s: float) -> Fate:
        ends = ends_of(packet)
        key = key_of(ends, packet.protocol)
        flow = self.flows.get(key)
        if flow is not None:
            if not flow.alive(packet.protocol, self._timeouts, now_s) or flow.begins_anew(packet, ends.source):
                flow = None
            elif self._trusted(flow, ends, met):
                flow.account(packet, ends, now_s)
                self._count_passed(met)
                where = flow.endpoints[ends.source], flow.endpoints[ends.destination]
                return self._deliver(Case(frame, packet, met, ends, *where, flow.far))
        case = self._find_parties(frame, packet, met, flow)
        return case if isinstance(case, Fate) else self._judge(case, key, flow, now_s)

    def _trusted(self, flow: Flow, ends: Ends, met: Met) -> bool:
        """Tell whether nothing has changed since the flow was allowed, and the packet comes from where the flow's packets come."""
        if flow.stamp != self.rows.stamp(*flow.endpoints.values()):
            return False
        source = flow.endpoints[ends.source]
        if met.origin is Origin.POD:
            return bool(source) and self.rows.entries[source].ifindex == met.ifindex
        return not source and flow.far == met.far

    def _find_parties(self, frame: bytes, packet: Packet, met: Met, flow: Flow | None) -> Case | Fate:
        """Return who both ends are, or the end of a packet that may not come from where it came."""
        rows, ends, from_pod = self.rows, ends_of(packet), met.origin is Origin.POD
        source, destination = rows.endpoint_with.get(packet.source, 0), rows.endpoint_with.get(packet.destination, 0)
        if not from_pod and not destination:
            return Fate(Action.UNTOUCHED, frame=frame)
        far = met.far
        if from_pod:
            entry = rows.entries.get(source)
            spoofed = entry is None or entry.ifindex != met.ifindex
            far = flow.far if flow else ELSEWHERE
        else:
            spoofed = bool(source) or (met.origin is Origin.NETWORK and flow is not None and flow.far == HOST)
        if spoofed:
            return self._drop(Told(_DROP, int(DropReason.INVALID_SOURCE), EGRESS if from_pod else INGRESS))
        case = Case(frame, packet, met, ends, source, destination, far)
        return self._identify(case)

    def _identify(self, case: Case) -> Case:
        packet, far = case.packet, case.far
        source, destination = self._identity_of(case.source), self._identity_of(case.destination)
        if not case.source:
            found = self.rows.identity_with(packet.source, packet.family)
            source = int(HOST_IDENTITY) if far == HOST else sender_identity(found)
        if not case.destination:
            destination = int(HOST_IDENTITY)
            if far != HOST:
                destination = self.rows.identity_with(packet.destination, packet.family)
            far = HOST if destination == HOST_IDENTITY else far
        return case._replace(source_identity=source, destination_identity=destination, far=far)

    def _identity_of(self, endpoint: int) -> int:
        entry = self.rows.entries.get(endpoint)
        return entry.identity if entry else 0

    # may it pass

    def _judge(self, case: Case, key: FlowKey, flow: Flow | None, now_s: float) -> Fate:
        held = self._held(case)
        if held is not None:
            return self._drop(held)
        if case.packet.error and self._related(case, now_s):
            self._count_passed(case.met)
            return self._deliver(case)
        told = self._judge_both(case, now_s, reply=flow is not None and flow.beginner != case.ends.source)
        if told.kind is _DROP:
            if flow is not None:
                flow.by_glass = False
            return self._drop(told)
        known = flow is not None and flow.by_glass and told.by_glass
        self._record(case, key, flow, told, now_s)
        if told.kind is _AUDIT and not known:
            self.told.append(told)
        self._count_passed(case.met)
        return self._deliver(case)

    def _held(self, case: Case) -> Told | None:
        for endpoint, direction in ((case.source, EGRESS), (case.destination, INGRESS)):
            entry = self.rows.entries.get(endpoint)
            if endpoint and (entry is None or entry.held):
                return case.told(_DROP, int(DropReason.HELD), direction, endpoint)
        return None

    def _related(self, case: Case, now_s: float) -> bool:
        """Tell whether an ICMP error quotes a packet that its receiver sent in a flow which is allowed now."""
        quoted = frames.read_quoted(case.frame, case.packet)
        if quoted is None or quoted.source != case.packet.destination:
            return False
        flow = self.flows.get(key_of(ends_of(quoted), quoted.protocol))
        if flow is None or not flow.alive(quoted.protocol, self._timeouts, now_s):
            return False
        return flow.stamp == self.rows.stamp(*flow.endpoints.values())

    def _judge_both(self, case: Case, now_s: float, *, reply: bool) -> Told:
        """Judge the direction in which the flow began: the initiator's egress, then the responder's ingress."""
        packet = case.packet
        if case.source == case.destination:
            return case.told(_NEW, 0, INGRESS, case.destination)  # a pod may always reach itself
        initiator, responder = (case.source, case.source_identity), (case.destination, case.destination_identity)
        port = packet.policy_port
        if reply:
            initiator, responder, port = responder, initiator, packet.ports[0]
        told, would, by_glass = case.told(_NEW, 0, INGRESS, 0), None, False
        for (endpoint, _), (_, peer), direction in ((initiator, responder, EGRESS), (responder, initiator, INGRESS)):
            if endpoint:
                told = self._judge_one(case, endpoint, peer, port, direction)
                if told.reason in _DENIALS and told.kind is _DROP and self.rows.is_glass_broken(endpoint, now_s):
                    told = told._replace(kind=_AUDIT, by_glass=True)
                if told.kind is _DROP:
                    return told
                by_glass = by_glass or told.by_glass
                would = would or (told if told.kind is _AUDIT else None)
        return (would or told)._replace(by_glass=by_glass)

    def _judge_one(self, case: Case, endpoint: int, peer: int, port: int, direction: int) -> Told:
        policy = self.rows.policies.get(endpoint)
        match = policy.best(peer, case.packet.protocol, port, direction) if policy else None
        entry = self.rows.entries[endpoint]
        denial = _AUDIT if (entry.audit_egress if direction == EGRESS else entry.audit_ingress) else _DROP
        if match is None:
            silent = entry.egress_default_deny if direction == EGRESS else entry.ingress_default_deny
            return case.told(denial, int(DropReason.POLICY), direction, endpoint, silent)
        value = match[1]
        if value.deny:
            return case.told(denial, int(DropReason.POLICY_DENY), direction, endpoint, value.provenance)
        reason = int(DropReason.NO_PROXY) if value.proxy_port else 0
        return case.told(_DROP if reason else _NEW, reason, direction, endpoint, value.provenance)

    def _record(self, case: Case, key: FlowKey, flow: Flow | None, told: Told, now_s: float) -> None:
        """Stamp the flow that the packet belongs to, or begin one."""
        if flow is None:
            if case.packet.unrecorded or case.packet.tcp_flags & RST:
                return
            flow = self.flows[key] = Flow(case.ends.source)
            if told.kind is _NEW:
                self.told.append(told)
        flow.endpoints = {case.ends.destination: case.destination, case.ends.source: case.source}
        flow.stamp = NEVER if told.by_glass else self.rows.stamp(case.source, case.destination)
        flow.by_glass = told.by_glass
        flow.far = case.far
        flow.account(case.packet, case.ends, now_s)

    # where it goes

    def _deliver(self, case: Case) -> Fate:
        frame, family = case.frame, case.packet.family
        if case.destination:
            if case.met.origin is not Origin.HOST:
                frame = one_hop_less(frame, family)
            if not frame:
                return self._undelivered(case, _EXPIRED)
            entry = self.rows.entries[case.destination]
            return Fate(Action.ENDPOINT, endpoint=case.destination, frame=handed_to(frame, entry))
        if case.far & STACK:
            return Fate(Action.STACK, frame=frame)
        route = self._route(case.packet.destination)
        reason = _NO_WAY.get(route, 0)
        if route is Route.AWAY and len(frame) - ETHERNET > self.mtu_bytes:
            reason = _TOO_BIG
        shorter = one_hop_less(frame, family)
        reason = reason or (0 if shorter else _EXPIRED)
        return self._undelivered(case, reason) if reason else Fate(Action.NETWORK, frame=shorter)

    def _undelivered(self, case: Case, reason: int) -> Fate:
        from_pod = case.met.origin is Origin.POD
        endpoint, direction = (case.source, EGRESS) if from_pod else (case.destination, INGRESS)
        known = self._identity_of(case.source), self._identity_of(case.destination)
        fate = self._drop(Told(_DROP, reason, direction, endpoint, 0, *known))
        if reason not in {_TOO_BIG, _EXPIRED}:
            return fate
        told = refusable(case.frame, too_big=reason == _TOO_BIG, family=case.packet.family)
        return fate._replace(action=Action.REFUSED, frame=told)

    # what is said of it

    def _count_passed(self, met: Met) -> None:
        self.counted[0, EGRESS if met.origin is Origin.POD else INGRESS] += 1

    def _drop(self, told: Told) -> Fate:
        self.counted[told.reason, told.direction] += 1
        self.told.append(told)
        return Fate(Action.DROPPED, told.reason)

    def _drop_quietly(self, reason: int) -> Fate:
        self.counted[reason, EGRESS] += 1
        return Fate(Action.DROPPED, reason)


def _read(frame: bytes, kind: bytes) -> tuple[Packet, int]:
    if kind == frames.IPV4_TYPE:
        packet = Packet(4)
        return packet, frames.read_ipv4(frame, packet)
    packet = Packet(6)
    return packet, frames.read_ipv6(frame, packet)
