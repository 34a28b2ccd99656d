"""What a node announces to its routers, and how the sessions stand."""

from __future__ import annotations

from fairlead.address import Address, Prefix
from fairlead.schema.base import Empty, Message, NodeNameField, Topic


class Peer(Message, frozen=True, kw_only=True):
    """One BGP session."""

    name: str
    address: Address
    peer_asn: int
    local_asn: int
    state: str
    """Established, Active, Connect, Idle, ... as the engine says it."""
    since: str = ""
    exported: int = 0
    imported: int = 0
    detail: str = ""


class Peers(Message, frozen=True, kw_only=True):
    """All BGP sessions of a node."""

    node: NodeNameField
    engine: str
    peers: tuple[Peer, ...]


class Route(Message, frozen=True, kw_only=True):
    """One announced prefix."""

    prefix: Prefix
    peers: tuple[str, ...]
    """The sessions that carry it now."""


class Routes(Message, frozen=True, kw_only=True):
    """All that a node announces."""

    node: NodeNameField
    routes: tuple[Route, ...]


PEERS = Topic("fairlead.get.bgp.peer.list.v1", Empty, Peers, per_node=True, summary="BGP sessions of a node")
ROUTES = Topic("fairlead.get.bgp.route.list.v1", Empty, Routes, per_node=True, summary="announced prefixes of a node")
