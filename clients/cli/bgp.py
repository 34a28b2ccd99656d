"""`fairlead bgp`: sessions to the routers and what is announced on them."""

from __future__ import annotations

from clients.cli import command, output
from clients.cli.output import Answer, Exit
from clients.cli.session import Session
from fairlead.schema.base import Empty
from fairlead.schema.bgp import PEERS, ROUTES

_UP = "Established"


async def peers(session: Session) -> Answer:
    """List the sessions; exit status 1 when one is not established."""
    found = list((await session.each(PEERS, Empty())).values())
    rows = [
        (
            row.node,
            peer.name,
            peer.address,
            peer.peer_asn,
            peer.state,
            peer.since,
            peer.exported,
            peer.imported,
            peer.detail,
        )
        for row in found
        for peer in row.peers
    ]
    titles = ("NODE", "PEER", "ADDRESS", "ASN", "STATE", "SINCE", "EXPORTED", "IMPORTED", "DETAIL")
    down = any(peer.state != _UP for row in found for peer in row.peers)
    return Answer(found, output.table(titles, rows), session.status or (Exit.NO if down else Exit.OK))


async def routes(session: Session) -> Answer:
    """List what each node announces, and to whom."""
    found = list((await session.each(ROUTES, Empty())).values())
    rows = [(row.node, route.prefix, route.peers) for row in found for route in row.routes]
    return Answer(found, output.table(("NODE", "PREFIX", "PEERS"), rows), session.status)


def register(commands: command.Subcommands) -> None:
    """Declare `bgp peers` and `bgp routes`."""
    group = command.group(commands, "bgp", "sessions and announcements", "fairlead bgp peers --node n1")
    command.node_option(
        command.add(group, "peers", peers, "list BGP sessions; status 1 if one is down", "fairlead bgp peers")
    )
    command.node_option(
        command.add(group, "routes", routes, "list announced prefixes", "fairlead bgp routes --node n1")
    )
