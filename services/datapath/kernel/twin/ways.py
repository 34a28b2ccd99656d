"""Where a packet goes that may pass, what it looks like then, and what is counted and told of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from fairlead.schema.identity import HOST as HOST_IDENTITY
from fairlead.schema.identity import REMOTE_NODE, WORLD
from services.datapath.failsafe import HOST_ENDPOINT
from services.datapath.kernel.twin.cases import Action, Case, Fate, Met, Origin, Route, Told, Tunnel
from services.datapath.kernel.twin.flows import BEYOND, STACK
from services.datapath.kernel.twin.frames import ETHERNET, Packet
from services.datapath.kernel.twin.outer import Change, with_end
from services.datapath.kernel.twin.policy import EGRESS, INGRESS
from services.datapath.kernel.twin.rewrite import handed_to, one_hop_less, refusable
from services.datapath.kernel.twin.rows import Rows, sender_identity
from services.datapath.reports import DropReason, EventKind

_DROP = EventKind.DROP
_NO_WAY = {Route.NONE: int(DropReason.FIB), Route.OWN_PREFIX: int(DropReason.UNKNOWN_TARGET)}
_EXPIRED, _TOO_BIG = int(DropReason.TTL_EXCEEDED), int(DropReason.TOO_BIG)
_NUMBER_BITS = 24


class Ways:
    """One node's ways: to its endpoints, its stack, the network, and into tunnels."""

    def __init__(self, route: Callable[[bytes], Route]) -> None:
        self.rows = Rows()
        self.told: list[Told] = []
        self.counted: Counter[tuple[int, int]] = Counter()
        """Packets by reason (0: forwarded) and direction."""
        self.mtu_bytes = 1500
        """Of the ways off the node."""
        self.tunnel_mtu_bytes = 1450
        self._route = route

    def _deliver(self, case: Case) -> Fate:
        origin = case.met.origin
        if origin is Origin.UPLINK or (origin is Origin.NETWORK and case.destination == HOST_ENDPOINT):
            return Fate(Action.UNTOUCHED, frame=case.frame)  # it goes there already
        led_to_stack = origin is Origin.POD and case.far & STACK
        if led_to_stack or (origin is Origin.OVERLAY and case.destination == HOST_ENDPOINT):
            return Fate(Action.STACK, frame=case.frame)
        if case.destination:
            return self._to_endpoint(case)
        return self._to_tunnel(case) if case.far == BEYOND else self._to_network(case)

    def _to_endpoint(self, case: Case) -> Fate:
        frame = case.frame
        if case.met.origin is not Origin.HOST:
            frame = one_hop_less(frame, case.packet.family)
        if not frame:
            return self._undelivered(case, _EXPIRED)
        entry = self.rows.entries[case.destination]
        return Fate(Action.ENDPOINT, endpoint=case.destination, frame=handed_to(frame, entry))

    def _to_network(self, case: Case) -> Fate:
        frame, route = case.frame, self._route(case.packet.destination)
        reason = _NO_WAY.get(route, 0)
        if route is Route.AWAY and len(frame) - ETHERNET > self.mtu_bytes:
            reason = _TOO_BIG
        shorter = one_hop_less(frame, case.packet.family)
        reason = reason or (0 if shorter else _EXPIRED)
        if reason:
            return self._undelivered(case, reason)
        if case.flow and case.flow.masqueraded and case.flow.outer:
            outer = with_end(shorter, case.packet, Change(case.ends.source, case.flow.outer, source=True))
            if isinstance(outer, int):
                return self._undelivered(case, outer)
            shorter = outer
        return Fate(Action.NETWORK, frame=shorter)

    def _to_tunnel(self, case: Case) -> Fate:
        node = self.rows.tunnels.best(case.packet.destination, case.packet.family)
        if node is None:
            return self._undelivered(case, int(DropReason.NO_TUNNEL))
        if len(case.frame) - ETHERNET > self.tunnel_mtu_bytes:
            return self._undelivered(case, _TOO_BIG)
        frame = case.frame
        if case.met.origin is not Origin.HOST:
            frame = one_hop_less(frame, case.packet.family)
        if not frame:
            return self._undelivered(case, _EXPIRED)
        return Fate(Action.TUNNEL, frame=frame, tunnel=Tunnel(node, _number(self.rows.identity_of(case.source))))

    def _stack_to_tunnel(self, frame: bytes, packet: Packet, met: Met) -> Fate | None:
        """Lead what the stack sends to the node that has its destination; None: no other node has it."""
        node = self.rows.tunnels.best(packet.destination, packet.family)
        if node is None:
            return None
        identity = int(HOST_IDENTITY)
        if met.ingress_ifindex:
            identity = sender_identity(self.rows.identity_with(packet.source, packet.family))
        self.counted[0, EGRESS] += 1
        return Fate(Action.TUNNEL, frame=frame, tunnel=Tunnel(node, _number(identity)))

    def _to_node(self, frame: bytes, packet: Packet, met: Met, identity: int, endpoint: int = 0) -> Fate:
        """Give the stack a tunnel's packet that is for no pod, or drop it if it is for nobody here."""
        destination = self.rows.identity_with(packet.destination, packet.family)
        if destination != HOST_IDENTITY:
            reason = int(DropReason.UNKNOWN_TARGET)
            return self._drop(Told(_DROP, reason, INGRESS, endpoint, 0, identity, destination))
        if packet.source in self.rows.endpoint_with:
            reason = int(DropReason.INVALID_SOURCE)
            return self._drop(Told(_DROP, reason, INGRESS, endpoint, 0, identity, destination))
        self._count_passed(met)
        return Fate(Action.STACK, frame=frame)

    def _undelivered(self, case: Case, reason: int) -> Fate:
        from_pod = case.met.origin is Origin.POD
        endpoint, direction = (case.source, EGRESS) if from_pod else (case.destination, INGRESS)
        known = self.rows.identity_of(case.source), self.rows.identity_of(case.destination)
        fate = self._drop(Told(_DROP, reason, direction, endpoint, 0, *known))
        # who sends to an outer end hears nothing of what is behind it
        if reason not in {_TOO_BIG, _EXPIRED} or case.packet.outer_port:
            return fate
        told = refusable(case.frame, too_big=reason == _TOO_BIG, family=case.packet.family)
        return fate._replace(action=Action.REFUSED, frame=told)

    def _no_way(self, destination: bytes) -> int:
        """Return why nothing leaves for the address by the network; 0: something may."""
        return _NO_WAY.get(self._route(destination), 0)

    # what is said of it

    def _count_passed(self, met: Met) -> None:
        self.counted[0, EGRESS if met.sent_here else INGRESS] += 1

    def _drop(self, told: Told) -> Fate:
        self.counted[told.reason, told.direction] += 1
        self.told.append(told)
        return Fate(Action.DROPPED, told.reason)

    def _drop_quietly(self, reason: int, direction: int) -> Fate:
        self.counted[reason, direction] += 1
        return Fate(Action.DROPPED, reason)


def _number(identity: int) -> int:
    """Return the number of the virtual network that says who sends: prefixes' identities have more bits, and the host is one among many."""
    if identity >> _NUMBER_BITS:
        return int(WORLD)
    return int(REMOTE_NODE) if identity == HOST_IDENTITY else identity
