"""`fairlead bpf nat list`: as whom pods' flows to the world leave, read back from the kernel."""

from __future__ import annotations

from clients.cli import command, output
from clients.cli.output import Answer
from clients.cli.session import Session
from fairlead.schema.base import Empty
from fairlead.schema.nat import NAT, NatEntry

_PROTOCOLS = {1: "ICMP", 6: "TCP", 17: "UDP", 58: "ICMPv6"}


async def run(session: Session) -> Answer:
    """Ask every node, or the one that was named."""
    found = await session.each(NAT, Empty())
    rows = [(node, *_row(one)) for node, answer in found.items() for one in answer.entries]
    text = (
        output.table(("NODE", "PROTO", "POD", "LEAVES AS", "REMOTE", "IDLE"), rows)
        if rows
        else "no flow is masqueraded"
    )
    return Answer(list(found.values()), text, session.status)


def _row(one: NatEntry) -> tuple[object, ...]:
    ends = ((one.pod, one.pod_port), (one.own, one.own_port), (one.remote, one.remote_port))
    texts = (f"[{address}]:{port}" if address.family == 6 else f"{address}:{port}" for address, port in ends)
    return _PROTOCOLS.get(one.protocol, str(one.protocol)), *texts, f"{one.idle_s:.0f} s"


def register(group: command.Subcommands) -> None:
    """Declare `bpf nat list`."""
    nat = command.group(group, "nat", "masqueraded flows", "fairlead bpf nat list")
    listing = command.add(
        nat, "list", run, "list the outer ends of masqueraded flows", "fairlead bpf nat list --node n2"
    )
    command.node_option(listing)
