"""`fairlead metrics`: what the nodes' programs have counted, without any collector."""

from __future__ import annotations

from clients.cli import command, output
from clients.cli.output import Answer
from clients.cli.session import Session
from fairlead.schema.base import Empty
from fairlead.schema.metrics import METRICS, NodeMetrics

_TITLES = ("NODE", "REASON", "DIRECTION", "PACKETS", "BYTES")


async def run(session: Session) -> Answer:
    """Print packets and bytes by reason and direction, then the flow table and what was lost."""
    found = await session.each(METRICS, Empty())
    rows = [
        (row.node, one.reason, one.direction, one.packets, one.bytes) for row in found.values() for one in row.packets
    ]
    notes = [_note(row) for row in found.values()]
    return Answer(list(found.values()), "\n".join([output.table(_TITLES, rows), "", *notes]), session.status)


def _note(row: NodeMetrics) -> str:
    flows = row.flows
    lost = ", ".join(f"{stage} {count}" for stage, count in sorted(row.lost.items())) or "none"
    table = f"{flows.alive} of {flows.capacity} flows" if flows.capacity else "flows not counted yet"
    outside = (
        f", {flows.outer_ends} masqueraded ({flows.outer_ends_freed} ports given back)" if flows.outer_ends else ""
    )
    return f"{row.node}: {table}, {flows.collected} collected in {flows.runs} runs{outside}; lost reports: {lost}"


def register(commands: command.Subcommands) -> None:
    """Declare `metrics`."""
    summary = "show packets by reason and direction, the flow table, and lost reports"
    command.node_option(command.add(commands, "metrics", run, summary, "fairlead metrics --node n1"))
