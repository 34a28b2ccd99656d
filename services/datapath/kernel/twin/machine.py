"""The programs as one machine: hand it a frame and where it was met, and it says what becomes of it.

It keeps flows and fragments, as the kernel does between packets. It knows nothing of what only makes the programs faster (denials that are
remembered, ways off the node that are kept), so that a difference which those would make shows as a disagreement.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from fairlead.schema.identity import HOST as HOST_IDENTITY
from services.datapath.failsafe import HOST_ENDPOINT
from services.datapath.kernel.twin import answers, frames, node, parties, verdicts
from services.datapath.kernel.twin.cases import Action, Case, Fate, Met, Origin, Route, Told
from services.datapath.kernel.twin.flows import NEVER, STACK, Ends, Flow, FlowKey, Timeouts, ends_of, key_of
from services.datapath.kernel.twin.frames import ETHERNET, RST, Fragments, Packet
from services.datapath.kernel.twin.policy import EGRESS, INGRESS
from services.datapath.kernel.twin.rewrite import handed_to, one_hop_less, refusable
from services.datapath.kernel.twin.rows import Rows
from services.datapath.reports import DropReason, EventKind

_DROP, _NEW, _AUDIT = EventKind.DROP, EventKind.NEW_FLOW, EventKind.AUDIT
_NO_WAY = {Route.NONE: int(DropReason.FIB), Route.OWN_PREFIX: int(DropReason.UNKNOWN_TARGET)}
_EXPIRED, _TOO_BIG = int(DropReason.TTL_EXCEEDED), int(DropReason.TOO_BIG)
_UNKNOWN_L4 = int(DropReason.UNKNOWN_L4)
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
        if met.origin is Origin.UPLINK:
            return self._to_uplink(frame, met, now_s)
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
        endpoint = self.rows.receiver(packet.destination, from_stack=met.origin is Origin.HOST)
        # fragments leave traces, and malformed packets are reported, for our own only
        if (reason or packet.fragment) and not endpoint:
            return untouched
        reason = reason or frames.read_transport(frame, packet, self.fragments)
        # the node speaks more protocols than pods may: policy judges them without ports
        if not reason or (endpoint == HOST_ENDPOINT and reason == _UNKNOWN_L4):
            return self._handle(frame, packet, met, now_s)
        return self._drop(Told(_DROP, reason, INGRESS, endpoint)) if endpoint else untouched

    def _to_uplink(self, frame: bytes, met: Met, now_s: float) -> Fate:
        kind, untouched = frame[12:14], Fate(Action.UNTOUCHED, frame=frame)
        if self.rows.host is None or kind not in _IP or met.vlan:
            return untouched
        packet, reason = _read(frame, kind)
        forwarded = bool(met.ingress_ifindex)
        if node.is_multicast(packet) or (forwarded and not self.rows.is_own(packet.source)):
            return untouched
        reason = reason or frames.read_transport(frame, packet, self.fragments)
        if reason and forwarded:
            return untouched
        if reason and reason != _UNKNOWN_L4:
            return self._drop(Told(_DROP, reason, EGRESS, HOST_ENDPOINT, 0, int(HOST_IDENTITY)))
        # what the node says about packets that it cannot deliver is no speech of its own
        if packet.error or node.is_essential(packet):
            return untouched
        return self._handle(frame, packet, met, now_s)

    def _answer(self, answer: bytes | int) -> Fate:
        if answer == answers.SILENTLY:
            return Fate(Action.DROPPED)
        if isinstance(answer, int):
            return self._drop_quietly(answer)
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
            elif self._trusted(flow, ends, met):
                flow.account(packet, ends, now_s)
                self._count_passed(met)
                return self._deliver(Case(frame, packet, met, ends, *flow.seats(ends), flow.far))
        case = parties.find(self.rows, frame, packet, met, flow)
        if case is None:
            return Fate(Action.UNTOUCHED, frame=frame)
        if isinstance(case, DropReason):
            return self._drop(Told(_DROP, int(case), EGRESS if met.sent_here else INGRESS))
        return self._judge(case, key, flow, now_s)

    def _trusted(self, flow: Flow, ends: Ends, met: Met) -> bool:
        """Tell whether nothing has changed since the flow was allowed, and the packet comes from where the flow's packets come."""
        if flow.stamp != self.rows.stamp(*flow.endpoints):
            return False
        source, destination = flow.seats(ends)
        if met.origin is Origin.POD:
            entry = self.rows.entry(source)
            return entry is not None and entry.ifindex == met.ifindex
        if met.origin is Origin.UPLINK:
            ours = source == HOST_ENDPOINT or flow.far == STACK
            return ours and not destination and bool(met.ingress_ifindex or not flow.far)
        from_node = met.origin is Origin.HOST and source == HOST_ENDPOINT
        return (not source or from_node) and flow.far == met.far

    def _judge(self, case: Case, key: FlowKey, flow: Flow | None, now_s: float) -> Fate:
        held = verdicts.held(self.rows, case)
        if held is not None:
            return self._drop(held)
        if case.packet.error and self._related(case, now_s):
            self._count_passed(case.met)
            return self._deliver(case)
        reply = case.met.origin is Origin.UPLINK and node.answers(case.packet)
        if flow is not None:
            reply = flow.beginner != case.ends.source
        told = verdicts.judge(self.rows, case, now_s, reply=reply)
        if told.kind is _DROP:
            if flow is not None:
                flow.by_glass = False
            return self._drop(told)
        known = flow is not None and flow.by_glass and told.by_glass
        self._record(case, key, flow, told, now_s, reply=reply)
        if told.kind is _AUDIT and not known:
            self.told.append(told)
        self._count_passed(case.met)
        return self._deliver(case)

    def _related(self, case: Case, now_s: float) -> bool:
        """Tell whether an ICMP error quotes a packet that its receiver sent in a flow which is allowed now."""
        quoted = frames.read_quoted(case.frame, case.packet)
        if quoted is None or quoted.source != case.packet.destination:
            return False
        flow = self.flows.get(key_of(ends_of(quoted), quoted.protocol))
        if flow is None or not flow.alive(quoted.protocol, self._timeouts, now_s):
            return False
        return flow.stamp == self.rows.stamp(*flow.endpoints)

    def _record(self, case: Case, key: FlowKey, flow: Flow | None, told: Told, now_s: float, *, reply: bool) -> None:
        """Stamp the flow that the packet belongs to, or begin one."""
        if flow is None:
            if case.packet.unrecorded or case.packet.tcp_flags & RST:
                return
            flow = self.flows[key] = Flow(case.ends.destination if reply else case.ends.source)
            if told.kind is _NEW:
                self.told.append(told)
        flow.sit(case.ends, case.source, case.destination)
        flow.stamp = NEVER if told.by_glass else self.rows.stamp(case.source, case.destination)
        flow.by_glass = told.by_glass
        flow.far = case.far
        flow.account(case.packet, case.ends, now_s)

    # where it goes

    def _deliver(self, case: Case) -> Fate:
        frame, family, origin = case.frame, case.packet.family, case.met.origin
        if origin is Origin.UPLINK or (origin is Origin.NETWORK and case.destination == HOST_ENDPOINT):
            return Fate(Action.UNTOUCHED, frame=frame)  # it goes there already
        if origin is Origin.POD and case.far & STACK:
            return Fate(Action.STACK, frame=frame)
        if case.destination:
            if origin is not Origin.HOST:
                frame = one_hop_less(frame, family)
            if not frame:
                return self._undelivered(case, _EXPIRED)
            entry = self.rows.entries[case.destination]
            return Fate(Action.ENDPOINT, endpoint=case.destination, frame=handed_to(frame, entry))
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
        known = self.rows.identity_of(case.source), self.rows.identity_of(case.destination)
        fate = self._drop(Told(_DROP, reason, direction, endpoint, 0, *known))
        if reason not in {_TOO_BIG, _EXPIRED}:
            return fate
        told = refusable(case.frame, too_big=reason == _TOO_BIG, family=case.packet.family)
        return fate._replace(action=Action.REFUSED, frame=told)

    # what is said of it

    def _count_passed(self, met: Met) -> None:
        self.counted[0, EGRESS if met.sent_here else INGRESS] += 1

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
