"""`fairlead flows`: what the packets did, recorded or as it happens."""

from __future__ import annotations

import argparse
from collections import Counter
from operator import attrgetter

import msgspec

from clients.cli import command, flow_filters, flow_text, output
from clients.cli.flow_text import end
from clients.cli.output import Answer
from clients.cli.session import Session
from fairlead.schema.base import NodeName
from fairlead.schema.flow import FLOW_SEEN, FLOWS, Flow, FlowFilter, FlowQuery, FlowType

__all__ = ["WHOLE", "end", "recorded", "register"]
_A_DAY_S = 86400.0
WHOLE = (FlowFilter(event_type=(FlowType.CLOSED, FlowType.LASTING)),)
"""What is told of whole flows: of no use to whoever asks why a packet passes."""


async def recorded(session: Session, query: FlowQuery) -> tuple[list[Flow], Counter[str]]:
    """Return the flows that are meant of all nodes asked, oldest first, and the events that the nodes have lost, by stage."""
    found = await session.each(FLOWS, query)
    flows = sorted((flow for row in found.values() for flow in row.flows), key=attrgetter("time"))
    lost: Counter[str] = Counter()
    for row in found.values():
        lost.update(row.lost_by_stage or {"any stage": row.lost})
    return flows[: query.first] if query.first else flows[-query.last :], lost


async def run(session: Session) -> Answer:
    """Print recorded flows; with -f, go on with new ones until interrupted."""
    options = session.options
    flow_filters.check(options)
    query = flow_filters.query(options, session.clock.now())
    if options.follow:
        await follow(session, query)  # begins before the recorded ones are read: nothing falls between
    flows, lost = await recorded(session, query)
    told = ", ".join(f"{stage} {count}" for stage, count in sorted(lost.items()) if count)
    warnings = (f"events lost by the nodes since they started: {told}",) if told else ()
    if not options.follow:
        return Answer(flows, _text(flows, options.output), session.status, warnings)
    for flow in flows:
        show(flow, options.output)
    while True:
        await session.clock.sleep(_A_DAY_S)


def _text(flows: list[Flow], form: str) -> str:
    if form == "table":
        return output.table(flow_text.TITLES, map(flow_text.row, flows))
    return "\n".join(flow_text.line(flow, form) for flow in flows)


async def follow(session: Session, query: FlowQuery) -> None:
    """Print every flow that is meant from now on."""
    wanted = msgspec.structs.replace(query, since=None)

    async def take(flow: Flow) -> None:
        if wanted.matches(flow):
            show(flow, session.options.output)

    node = NodeName(session.options.node) if session.options.node else None
    await session.bus.follow(FLOW_SEEN, take, node=node)


def show(flow: Flow, form: str) -> None:
    """Print one flow."""
    print(flow_text.line(flow, form), flush=True)


def register(commands: command.Subcommands) -> None:
    """Declare `flows`."""
    example = "fairlead flows -f --verdict DROPPED --to-port 6379 --not --from-label app=probe"
    summary = "show new flows, drops, audits and ends"
    parser = command.add(commands, "flows", run, summary, example, outputs=flow_text.FORMS)
    parser.add_argument("-f", "--follow", action="store_true", help="go on until interrupted")
    parser.add_argument("--last", type=_count, metavar="N", help="newest N recorded (20, at most 4096)")
    parser.add_argument("--first", type=_count, metavar="N", help="oldest N recorded")
    parser.add_argument("--all", action="store_true", help="all that is recorded")
    parser.add_argument("--since", metavar="TIME", help="for instance 5m (ago), or 2026-01-02T03:04:05Z")
    parser.add_argument("--until", metavar="TIME", help="the same")
    flow_filters.declare(parser)
    command.node_option(parser)


def _count(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= flow_filters.MOST:
        raise argparse.ArgumentTypeError(f"{text!r}: give a number from 1 to {flow_filters.MOST}")
    return int(text)
