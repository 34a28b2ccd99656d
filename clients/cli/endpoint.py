"""`fairlead endpoint`: what is attached, where, and how far it has come."""

from __future__ import annotations

from clients.cli import command, output
from clients.cli.output import Answer
from clients.cli.session import Session
from fairlead.schema.datapath import EndpointStatus

_TITLES = ("NODE", "ID", "NAME", "ADDRESSES", "IDENTITY", "STATE", "POLICY", "LABELS")


async def list_all(session: Session) -> Answer:
    """List the endpoints of all nodes, or of one."""
    found = await session.endpoints()
    return Answer(found, output.table(_TITLES, map(_row, found)), session.status)


async def get(session: Session) -> Answer:
    """Show one endpoint."""
    found = await session.endpoint(session.options.endpoint)
    facts = (
        ("name", found.name),
        ("node", found.node),
        ("endpoint", found.endpoint),
        ("addresses", found.addresses),
        ("labels", found.labels),
        ("identity", found.identity),
        ("state", found.state),
        ("since", output.age(found.since, session.clock.now())),
        ("detail", found.detail),
        ("policy", f"{enforcement(found)}, revision {found.policy_revision}"),
        ("interface", found.host_interface),
        ("netns", found.netns),
    )
    return Answer(found, output.table(("FIELD", "VALUE"), facts), session.status)


def _row(one: EndpointStatus) -> tuple[object, ...]:
    state = one.state if not one.detail else f"{one.state}: {one.detail}"
    shown = output.labels(one.labels)
    return one.node, one.endpoint, one.name, one.addresses, one.identity or "-", state, enforcement(one), shown


def enforcement(one: EndpointStatus) -> str:
    """Return the directions in which policy is enforced."""
    enforced = [("ingress", one.ingress_enforced), ("egress", one.egress_enforced)]
    return "+".join(name for name, on in enforced if on) or "none"


def register(commands: command.Subcommands) -> None:
    """Declare `endpoint list` and `endpoint get`."""
    group = command.group(commands, "endpoint", "attached workloads", "fairlead endpoint get web")
    listing = command.add(group, "list", list_all, "list endpoints", "fairlead endpoint list --node n1")
    getting = command.add(group, "get", get, "show one endpoint", "fairlead endpoint get 10.4.0.2")
    getting.add_argument("endpoint", metavar="ENDPOINT", help="name, address, or number")
    command.node_option(listing)
    command.node_option(getting)
