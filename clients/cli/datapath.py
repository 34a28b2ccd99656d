"""`fairlead datapath verify`: is the kernel of each node as it should be?"""

from __future__ import annotations

from clients.cli import command, output
from clients.cli.output import Answer, Exit
from clients.cli.session import Session
from fairlead.schema.base import Empty
from fairlead.schema.datapath import VERIFY, Verification


async def run(session: Session) -> Answer:
    """Ask every node to compare; exit status 1 when anywhere something differs."""
    found = await session.each(VERIFY, Empty())
    rows = [
        (node, one.subject, one.problem, one.detail) for node, answer in found.items() for one in answer.differences
    ]
    lines = [_summary(answer) for answer in found.values()]
    if rows:
        lines = [output.table(("NODE", "SUBJECT", "PROBLEM", "DETAIL"), rows), *lines]
    status = Exit.NO if any(answer.found for answer in found.values()) else session.status
    return Answer(list(found.values()), "\n".join(lines), status)


def _summary(answer: Verification) -> str:
    compared = ", ".join(f"{count} {noun}" for noun, count in sorted(answer.compared.items()))
    verdict = f"{answer.found} differences" if answer.found else "as it should be"
    return f"{answer.node}: {verdict} ({compared} compared)"


def register(commands: command.Subcommands) -> None:
    """Declare `datapath verify`."""
    group = command.group(commands, "datapath", "a node's kernel", "fairlead datapath verify")
    verifying = command.add(
        group,
        "verify",
        run,
        "compare each node's kernel with what should be there",
        "fairlead datapath verify --node n2",
    )
    command.node_option(verifying)
