"""`fairlead admission`: which starts wait for their turn in the fleet, and starting them now."""

from __future__ import annotations

from clients.cli import command, output
from clients.cli.output import Answer, Exit
from clients.cli.session import Session
from fairlead.errors import InvalidInput
from fairlead.schema.admission import START_NOW, StartNow, WaitingStart

_NOBODY = StartNow(node="-")
"""Means no start: what waits answers all the same."""
_TITLES = ("SERVICE", "NODE", "STARTS", "IN", "WHY IT WAITS")


async def run(session: Session) -> Answer:
    """Show what waits."""
    found = await _ask(session, _NOBODY)
    return Answer(found, _table(session, found) if found else "nothing waits, as far as the bus reaches")


async def start_now(session: Session) -> Answer:
    """Have starts that wait begin; exit status 1 when nobody who is meant answers."""
    options = session.options
    if not (options.node or options.service or options.all):
        raise InvalidInput("which starts? --node, --service or both; --all: the whole fleet at once")
    found = await _ask(session, StartNow(node=options.node or "", service=options.service or ""))
    started = [one for one in found if one.starts]
    if not started:
        hint = "an agent whose bus is away reads the file <state_dir>/admission/start-now on its node instead"
        return Answer(started, f"no start that is meant waits, as far as the bus reaches; {hint}", Exit.NO)
    return Answer(started, _table(session, started) + f"\n{len(started)} start now")


async def _ask(session: Session, ask: StartNow) -> list[WaitingStart]:
    found = await session.bus.gather(START_NOW, ask, wait_s=min(session.timeout_s, 1.0))
    return sorted(found, key=lambda one: (one.due, one.node, one.service))


def _table(session: Session, found: list[WaitingStart]) -> str:
    now = session.clock.now()
    rows = [
        (one.service, one.node, _when(one), output.span((one.due - now).total_seconds()), one.reason) for one in found
    ]
    return output.table(_TITLES, rows)


def _when(one: WaitingStart) -> str:
    return "now" if one.starts else f"{one.due:%Y-%m-%d %H:%M:%S}"


def register(commands: command.Subcommands) -> None:
    """Declare the commands."""
    group = command.group(commands, "admission", "starts that wait for their turn", "fairlead admission list")
    command.add(group, "list", run, "show which starts wait, until when, and why", "fairlead admission list")
    starting = command.add(
        group, "start-now", start_now, "have starts that wait begin now", "fairlead admission start-now --node n2"
    )
    starting.add_argument("--node", type=command.node_name, metavar="NODE", help="those of this node or instance")
    starting.add_argument("--service", type=command.node_name, metavar="SERVICE", help="those of this service")
    starting.add_argument("--all", action="store_true", help="every start of the fleet that waits, all at once")
