"""`fairlead ipam list`: who uses which address, node by node."""

from __future__ import annotations

from clients.cli import command, output
from clients.cli.output import Answer
from clients.cli.session import Session
from fairlead.schema.base import Empty
from fairlead.schema.ipam import LEASES


async def run(session: Session) -> Answer:
    """Ask every node's ipam."""
    found = await session.each(LEASES, Empty())
    now = session.clock.now()
    rows = [
        (row.node, lease.address, lease.owner, lease.state, output.age(lease.since, now))
        for row in found.values()
        for lease in row.leases
    ]
    pools = [
        f"{row.node}: {', '.join(row.prefixes) or 'no prefix claimed yet'}, {row.free} free" for row in found.values()
    ]
    text = output.table(("NODE", "ADDRESS", "OWNER", "STATE", "SINCE"), rows)
    return Answer(list(found.values()), "\n".join([text, *pools]), session.status)


def register(commands: command.Subcommands) -> None:
    """Declare `ipam list`."""
    group = command.group(commands, "ipam", "addresses and their owners", "fairlead ipam list --node n1")
    command.node_option(command.add(group, "list", run, "list leases", "fairlead ipam list --node n1"))
