"""Masquerade: which flows leave as the node's, with which ports, and whom an answer is for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from services.datapath.kernel.abi import pack_address
from services.datapath.kernel.twin import frames
from services.datapath.kernel.twin.flows import End, Ends, Flow, FlowKey, Timeouts, key_of
from services.datapath.kernel.twin.frames import ICMP, ICMPV6, NO_PORT, SCTP, TCP, UDP, Fragments, Packet
from services.datapath.kernel.twin.outer import Change, error_with_end, with_end
from services.datapath.kernel.twin.prefixes import PrefixTable
from services.datapath.outside import Masquerade

_WORLD = frozenset((2, 9, 10))
_FIRST_OF_PREFIXES = 1 << 24


class OuterKey(NamedTuple):
    """What the world sees of a flow."""

    remote: End
    own: End
    protocol: int


class Outside:
    """One node's outer ends."""

    def __init__(self, flows: Mapping[FlowKey, Flow], timeouts: Timeouts) -> None:
        self.rows: dict[OuterKey, End] = {}
        """To the pod's end."""
        self.choose: Callable[[FlowKey], int] = lambda _: 0
        """Names the port that another implementation has given a flow, where any free one will do; 0: no wish."""
        self._flows, self._timeouts = flows, timeouts
        self.put(Masquerade())

    def put(self, wanted: Masquerade) -> None:
        """Have new flows leave as wanted. Flows that stand keep what they have."""
        self.given = wanted
        self._exclusions = PrefixTable(dict.fromkeys(wanted.exclusions, True))
        self._own = {int(address.family): pack_address(address) for address in reversed(wanted.addresses)}

    def does(self, family: int) -> bool:
        """Tell whether flows of the family are masqueraded."""
        return family in self.given.families

    def shall(self, packet: Packet, identity: int) -> bool:
        """Tell whether a flow that a pod begins towards somebody leaves as the node's."""
        is_world = identity in _WORLD or identity >= _FIRST_OF_PREFIXES
        excluded = self._exclusions.best(packet.destination, packet.family)
        return self.does(packet.family) and is_world and not excluded

    def can(self, packet: Packet) -> bool:
        """Tell whether the protocol has what an answer can be told apart by."""
        if packet.protocol == (ICMP if packet.family == 4 else ICMPV6):
            return packet.error or packet.ports[0] != NO_PORT
        return packet.protocol in {TCP, UDP, SCTP}

    def map_flow(self, packet: Packet, ends: Ends, flow: Flow, now_s: float) -> bool:
        """Have an outer end for the flow: the one it has, else with the pod's own port, else with any that is free."""
        own = flow.outer[0] if flow.outer else self._own.get(packet.family)
        if own is None:
            return False
        for port in self._candidates(flow.outer[1] if flow.outer else ends.source[1], key_of(ends, packet.protocol)):
            key = OuterKey(ends.destination, (own, port), packet.protocol)
            if self._claim(key, ends.source, now_s):
                flow.outer = own, port
                return True
        return False

    def _candidates(self, first: int, key: FlowKey) -> Iterable[int]:
        ports = range(self.given.first_port, self.given.last_port + 1)
        return (port for port in (first, self.choose(key), *ports) if port in ports)

    def _claim(self, key: OuterKey, pod: End, now_s: float) -> bool:
        known = self.rows.get(key)
        if known is not None and known != pod:
            flow = self._flows.get(key_of(Ends(known, key.remote), key.protocol))
            if flow and flow.outer and flow.outer[1] == key.own[1] and flow.alive(key.protocol, self._timeouts, now_s):
                return False
        self.rows[key] = pod
        return True

    def leads(self, packet: Packet) -> bool:
        """Tell whether a packet that leaves has the outer end of a flow."""
        source, destination = (packet.source, packet.ports[0]), (packet.destination, packet.ports[1])
        return OuterKey(destination, source, packet.protocol) in self.rows

    def lead_in(self, frame: bytes, packet: Packet, fragments: Fragments) -> bytes | int:
        """Return what the network sends as it goes to the pod if it is for a flow's outer end, or why it cannot; the packet knows then."""
        if packet.error:
            return self._lead_error_in(frame, packet)
        outer = packet.destination, packet.ports[1]
        pod = self._pod_at(OuterKey((packet.source, packet.ports[0]), outer, packet.protocol))
        if pod is None:
            return frame
        if packet.fragment == frames.FIRST:
            frames.remember(packet, fragments)
        packet.outer_port, packet.destination, packet.ports = outer[1], pod[0], (packet.ports[0], pod[1])
        return with_end(frame, packet, Change(outer, pod, source=False))

    def _lead_error_in(self, frame: bytes, packet: Packet) -> bytes:
        quoted = frames.read_quoted(frame, packet)
        if quoted is None or quoted.source != packet.destination:
            return frame
        outer, remote = (quoted.source, quoted.ports[0]), (quoted.destination, quoted.ports[1])
        pod = self._pod_at(OuterKey(remote, outer, quoted.protocol))
        if pod is None:
            return frame
        packet.destination, packet.outer_port = pod[0], outer[1]
        return error_with_end(frame, packet, quoted, Change(outer, pod, source=False))

    def _pod_at(self, key: OuterKey) -> End | None:
        in_range = self.given.first_port <= key.own[1] <= self.given.last_port
        return self.rows.get(key) if in_range else None


def error_outside(frame: bytes, packet: Packet, flow: Flow) -> bytes:
    """Return what a pod says about a packet of a masqueraded flow as the world hears it; empty if the flow has no outer end."""
    quoted = frames.read_quoted(frame, packet)
    if quoted is None or flow.outer is None:
        return b""
    return error_with_end(frame, packet, quoted, Change((packet.source, quoted.ports[1]), flow.outer, source=True))
