"""`fairlead datapath verify`: is the kernel of each node as it should be? `fairlead datapath features`: what can it do?"""

from __future__ import annotations

from clients.cli import command, output
from clients.cli.output import Answer, Exit
from clients.cli.session import Session
from fairlead.schema.base import Empty
from fairlead.schema.datapath import VERIFY, Verification
from fairlead.schema.features import FEATURES, KernelFeature
from fairlead.schema.held import RELEASE_HELD


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


async def features(session: Session) -> Answer:
    """Ask every node what its kernel can do, and what is used where it cannot."""
    found = await session.each(FEATURES, Empty())
    rows = [
        (node, answer.kernel, one.name, "yes" if one.present else "no", _used(one))
        for node, answer in found.items()
        for one in answer.features
    ]
    text = output.table(("NODE", "KERNEL", "FEATURE", "THERE", "USED FOR"), rows)
    return Answer(list(found.values()), text, session.status)


async def release(session: Session) -> Answer:
    """Have a node let held deletions happen."""
    found = await session.each(RELEASE_HELD, Empty())
    rows = [(node, name, str(count)) for node, answer in found.items() for name, count in answer.rows.items()]
    text = output.table(("NODE", "ROWS OF", "RELEASED"), rows) if rows else "nothing is held"
    return Answer(list(found.values()), text, session.status)


def _used(one: KernelFeature) -> str:
    return one.use if one.present or not one.instead else f"{one.use}; instead: {one.instead}"


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
    asking = command.add(
        group,
        "features",
        features,
        "what each node's kernel can do, and what is used where it cannot",
        "fairlead datapath features --node n2",
    )
    command.node_option(asking)
    releasing = command.add(
        group,
        "release-held",
        release,
        "let the deletions happen that a node holds back because they are many",
        "fairlead datapath release-held --node n2",
    )
    command.node_option(releasing, required=True)
