"""As whom pods' flows to the world leave a node: part of what the datapath service answers."""

from __future__ import annotations

from fairlead.address import Address
from fairlead.schema.base import Empty, Message, NodeNameField, Topic


class NatEntry(Message, frozen=True, kw_only=True):
    """An outer end that a flow of a pod to the world holds. For ICMP a port is the identifier, and the remote port its type."""

    protocol: int
    pod: Address
    pod_port: int
    own: Address
    """The node's address that the world sees."""
    own_port: int
    remote: Address
    remote_port: int
    idle_s: float
    """Since something came back, or the flow was looked after."""


class NatList(Message, frozen=True, kw_only=True):
    """All outer ends of a node."""

    node: NodeNameField
    entries: tuple[NatEntry, ...]


NAT = Topic("fairlead.get.datapath.nat.list.v1", Empty, NatList, per_node=True, summary="masqueraded flows")
