"""This node itself under a host policy: what is no policy's business, and who answers in a flow that nobody saw begin."""

from __future__ import annotations

from services.datapath.kernel.twin.frames import ICMPV6, MAPPED, SYN, TCP, UDP, Packet

_DISCOVERY = range(133, 138)
_DHCP = {4: frozenset({(67, 68), (68, 67)}), 6: frozenset({(546, 547), (547, 546)})}


def is_multicast(packet: Packet) -> bool:
    """Tell whether a packet is for a group, or for everybody on the link."""
    to = packet.destination
    if packet.family == 6:
        return to[:1] == b"\xff"
    return to[:12] == MAPPED and (to[12] >> 4 == 0xE or to[12:] == b"\xff" * 4)


def is_essential(packet: Packet) -> bool:
    """Tell whether the node would lose its link or its address without the packet: neighbour discovery, DHCP."""
    if packet.protocol == ICMPV6:
        return packet.family == 6 and packet.policy_port in _DISCOVERY
    return packet.protocol == UDP and packet.ports in _DHCP[packet.family]


def answers(packet: Packet) -> bool:
    """Tell whether a packet of the node whose flow is not known answers: amid a connection, from the smaller port."""
    return packet.protocol == TCP and not packet.tcp_flags & SYN and packet.ports[0] < packet.ports[1]
