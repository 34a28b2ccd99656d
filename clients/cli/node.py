"""`fairlead node list`: the nodes of the fleet, what they have claimed and what they have realised."""

from __future__ import annotations

from clients.cli import command, output
from clients.cli.output import Answer
from clients.cli.session import Session
from fairlead.schema.datapath import REALISED
from fairlead.schema.identity import NODES
from fairlead.schema.ipam import CLAIMS


async def run(session: Session) -> Answer:
    """Join what identity, ipam and datapath say of each node."""
    known, claims, realised = (await session.rows(NODES), await session.rows(CLAIMS), await session.rows(REALISED))
    found = []
    for name in sorted(known.keys() | claims.keys() | realised.keys()):
        row = {
            "node": name,
            "addresses": known[name].addresses if name in known else (),
            "prefixes": claims[name].prefixes if name in claims else (),
            "identities": len(realised[name].rows) if name in realised else 0,
            "failed": dict(realised[name].failed) if name in realised else {},
        }
        found.append(row)
    rows = [
        (one["node"], one["addresses"], one["prefixes"], one["identities"], _failed(one["failed"])) for one in found
    ]
    return Answer(found, output.table(("NODE", "ADDRESSES", "PREFIXES", "IDENTITIES", "FAILED"), rows))


def _failed(failed: object) -> str:
    return "; ".join(f"{key}: {reason}" for key, reason in failed.items()) if isinstance(failed, dict) else ""


def register(commands: command.Subcommands) -> None:
    """Declare `node list`."""
    group = command.group(commands, "node", "nodes of the fleet", "fairlead node list")
    command.add(group, "list", run, "list the nodes with their prefixes", "fairlead node list -o json")
