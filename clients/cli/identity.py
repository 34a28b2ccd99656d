"""`fairlead identity`: label sets and their numbers."""

from __future__ import annotations

import re
from collections.abc import Iterable

from clients.cli import command, output
from clients.cli.output import Answer, Exit
from clients.cli.session import Session
from fairlead import labels
from fairlead.errors import NotFound
from fairlead.schema.identity import IDENTITIES, RESERVED_LABELS, IdentityRow
from fairlead.schema.policy import CIDRS


async def everyone(session: Session) -> list[IdentityRow]:
    """Return all identities: reserved ones, those of workloads, and those that stand for prefixes in policies."""
    reserved = [IdentityRow(identity=number, labels=texts) for number, texts in RESERVED_LABELS.items()]
    stored = list((await session.rows(IDENTITIES)).values())
    prefixes = [row for rows in (await session.rows(CIDRS)).values() for row in rows.rows]
    named = [IdentityRow(identity=row.identity, labels=row.labels or (f"cidr:{row.prefix}",)) for row in prefixes]
    return sorted((*reserved, *stored, *named), key=lambda row: row.identity)


async def list_all(session: Session) -> Answer:
    """List all identities."""
    found = await everyone(session)
    return Answer(found, _table(session, found))


async def get(session: Session) -> Answer:
    """Show the identity with a number, or those that carry a label."""
    wanted = session.options.identity
    found = matching(await everyone(session), wanted)
    if not found:
        raise NotFound(f"no identity {wanted!r}: `fairlead identity list` shows all")
    return Answer(found, _table(session, found), Exit.OK)


def matching(rows: Iterable[IdentityRow], wanted: str) -> list[IdentityRow]:
    """Return the rows with this number, or with every label of a list separated by commas; a label without source fits any."""
    if re.fullmatch(r"[0-9]+", wanted):
        return [row for row in rows if row.identity == int(wanted)]
    texts = [text for text in wanted.split(",") if text]
    return [row for row in rows if texts and all(any(fits(have, text) for have in row.labels) for text in texts)]


def fits(have: str, wanted: str) -> bool:
    """Tell whether a stored label is the wanted one; without `=` any value will do, without source any source."""
    return wanted in _forms(labels.parse(have))


def _forms(label: labels.ParsedLabel) -> tuple[str, ...]:
    bare = f"{label.key}={label.value}" if label.value else label.key
    return bare, label.key, f"{label.source}:{label.key}", str(label)


def _table(session: Session, found: Iterable[IdentityRow]) -> str:
    now = session.clock.now()
    return output.table(
        ("IDENTITY", "AGE", "LABELS"), ((row.identity, output.age(row.since, now), row.labels) for row in found)
    )


def register(commands: command.Subcommands) -> None:
    """Declare `identity list` and `identity get`."""
    group = command.group(commands, "identity", "label sets and their numbers", "fairlead identity get app=employee")
    command.add(group, "list", list_all, "list identities", "fairlead identity list")
    getting = command.add(group, "get", get, "show identities by number or label", "fairlead identity get app=employee")
    getting.add_argument("identity", metavar="NUMBER|LABEL[,LABEL]")
