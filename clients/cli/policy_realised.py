"""`fairlead policy realised`: which node holds which revision in its kernel, of everything or of one policy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from clients.cli import command, output, stored
from clients.cli.output import Answer, Exit
from clients.cli.session import Session
from fairlead.schema.datapath import REALISED, RealisedRow
from fairlead.schema.policy import POLICY_ROWS, PolicyRow


class Standing(NamedTuple):
    """One node's kernel against the rows that it needs."""

    node: str
    rows: int
    behind: int
    newest: int
    """The largest revision that stands in the kernel."""
    detail: str

    @property
    def good(self) -> bool:
        """Tell whether the node holds everything in its newest revision."""
        return not self.behind


async def run(session: Session) -> Answer:
    """Compare what nodes confirm with the rows on the bus."""
    wanted, told = await session.rows(POLICY_ROWS), await session.rows(REALISED)
    if session.options.name:
        (policy,) = stored.one_named(await stored.these(session), session.options.name)
        start = f"{stored.title(policy.policy)} "
        wanted = {key: row for key, row in wanted.items() if any(text.startswith(start) for text in row.origins)}
    nodes = [told_by for node, told_by in sorted(told.items()) if session.options.node in (None, node)]
    found = list(standings(wanted, nodes))
    titles = ("NODE", "ROWS", "BEHIND", "NEWEST REVISION", "DETAIL")
    good = all(one.good for one in found)
    return Answer([one._asdict() for one in found], output.table(titles, found), Exit.OK if good else Exit.LATE)


def standings(wanted: Mapping[str, PolicyRow], nodes: Iterable[RealisedRow]) -> Iterable[Standing]:
    """Yield how each node stands; a node needs the rows that it says it has, or has failed to realise."""
    for own in nodes:
        needed = sorted(wanted.keys() & {*own.rows, *own.failed})
        late = [key for key in needed if own.rows.get(key, -1) < wanted[key].revision]
        newest = max((own.rows[key] for key in needed if key in own.rows), default=0)
        yield Standing(own.node, len(needed), len(late), newest, "; ".join(_late(key, wanted, own) for key in late[:3]))


def _late(key: str, wanted: Mapping[str, PolicyRow], own: RealisedRow) -> str:
    if key in own.failed:
        return f"row {key}: {own.failed[key]}"
    return f"row {key}: at {own.rows.get(key, 'none')}, wanted {wanted[key].revision}"


def register(group: command.Subcommands) -> None:
    """Declare `policy realised`."""
    example = "fairlead policy realised db-ingress"
    parser = command.add(group, "realised", run, "which revision of the rules stands in each node's kernel", example)
    stored.selection(parser)
    command.node_option(parser)
