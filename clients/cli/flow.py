"""`fairlead flows`: what the packets did, recorded or as it happens."""

from __future__ import annotations

import argparse
import heapq

from clients.cli import command, output
from clients.cli.output import Answer
from clients.cli.session import Session
from fairlead.schema.base import NodeName
from fairlead.schema.flow import FLOW_SEEN, FLOWS, Flow, FlowEnd, FlowQuery, Verdict

_A_DAY_S = 86400.0


async def recorded(session: Session, query: FlowQuery) -> tuple[list[Flow], int]:
    """Return the newest flows of all nodes asked, oldest first, and how many events the nodes have lost."""
    found = await session.each(FLOWS, query)
    flows = [flow for row in found.values() for flow in row.flows]
    return heapq.nlargest(query.last, flows, key=lambda flow: flow.time)[::-1], sum(row.lost for row in found.values())


async def run(session: Session) -> Answer:
    """Print recorded flows; with -f, go on with new ones until interrupted."""
    options = session.options
    if options.follow:
        await follow(session)  # begins before the recorded ones are read: nothing falls between
    flows, lost = await recorded(session, FlowQuery(last=options.last, verdict=options.verdict))
    warnings = (f"{lost} events were lost by the nodes since they started",) if lost else ()
    if not options.follow:
        return Answer(flows, output.table(_TITLES, map(_row, flows)), session.status, warnings)
    for flow in flows:
        show(flow, options.output)
    while True:
        await session.clock.sleep(_A_DAY_S)


async def follow(session: Session) -> None:
    """Print every flow from now on."""
    wanted = session.options.verdict

    async def take(flow: Flow) -> None:
        if not wanted or flow.verdict == wanted:
            show(flow, session.options.output)

    node = NodeName(session.options.node) if session.options.node else None
    await session.bus.follow(FLOW_SEEN, take, node=node)


def show(flow: Flow, form: str) -> None:
    """Print one flow on one line."""
    cells = "  ".join(output.plain(str(cell)) for cell in _row(flow))
    print(output.as_json(flow, line=True) if form == "json" else cells, flush=True)


_TITLES = ("TIME", "NODE", "VERDICT", "DIRECTION", "PROTO", "SOURCE", "DESTINATION", "REASON", "UUID")


def _row(flow: Flow) -> tuple[object, ...]:
    return (
        flow.time.astimezone().strftime("%H:%M:%S.%f")[:-3],
        flow.node_name,
        flow.verdict,
        flow.traffic_direction,
        flow.protocol,
        end(flow.source),
        end(flow.destination),
        flow.drop_reason_desc,
        flow.uuid,
    )


def end(one: FlowEnd) -> str:
    """Return one end of a flow: address and port, then who that is."""
    place = f"[{one.address}]:{one.port}" if one.port and ":" in one.address else f"{one.address}:{one.port}"
    who = one.name or output.labels(one.labels) or f"identity {one.identity}"
    return f"{place if one.port else one.address} ({who})"


def register(commands: command.Subcommands) -> None:
    """Declare `flows`."""
    parser = command.add(commands, "flows", run, "show new flows and drops", "fairlead flows -f --verdict DROPPED")
    parser.add_argument("-f", "--follow", action="store_true", help="go on until interrupted")
    parser.add_argument(
        "--last", type=_count, default=20, metavar="N", help="newest N recorded (%(default)s, at most 4096)"
    )
    parser.add_argument("--verdict", choices=[str(one) for one in Verdict], default="", help="only these")
    command.node_option(parser)


def _count(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 4096:
        raise argparse.ArgumentTypeError(f"{text!r}: give a number from 1 to 4096")
    return int(text)
