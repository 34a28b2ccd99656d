"""`fairlead policy history` and `rollback`: what a policy was, who changed it, and back to it."""

from __future__ import annotations

import argparse
import getpass

from clients.cli import command, output, stored
from clients.cli.output import Answer
from clients.cli.session import Session
from fairlead.schema.owned import OWNED_ROLLBACK
from fairlead.schema.policy import HISTORY, ROLLBACK, PolicyHistoryQuery, PolicyReference, RollBackPolicy

_COLUMNS = ("VERSION", "REVISION", "WHEN", "ACTION", "AUTHOR", "OWNER", "TRACE")
_KIND, _NAMESPACE = "CiliumNetworkPolicy", "default"


async def _meant(session: Session) -> PolicyReference:
    """Return which policy is meant: the stored one of this name, else (it may be gone) what --kind and --namespace say."""
    options = session.options
    found = [one for one in await stored.these(session) if one.policy.name == options.name]
    if found:
        return stored.one_named(found, options.name)[0].policy
    kind, namespace = options.kind or _KIND, options.namespace
    return PolicyReference(kind=kind, name=options.name, namespace=_NAMESPACE if namespace is None else namespace)


async def history(session: Session) -> Answer:
    """Show the versions of a policy that are kept, oldest first."""
    found = await session.ask(HISTORY, PolicyHistoryQuery(policy=await _meant(session)))
    rows = [
        (
            one.version,
            one.revision,
            f"{one.at:%Y-%m-%d %H:%M:%S}",
            _action(one.action, forced=one.forced),
            one.author,
            one.owner,
            one.trace[3:35],
        )
        for one in found.versions
    ]
    return Answer(found, output.table(_COLUMNS, rows))


def _action(action: str, *, forced: bool) -> str:
    return f"{action}, forced" if forced else action


async def rollback(session: Session) -> Answer:
    """Store an earlier version again; without --to the newest that differs."""
    ask = RollBackPolicy(
        policy=await _meant(session),
        version=session.options.to,
        wait_s=stored.wait_s(session),
        author=getpass.getuser(),
        owner=session.options.owner,
    )
    result = await stored.change(session, OWNED_ROLLBACK if ask.owner else ROLLBACK, ask)
    return stored.changed([result], waited=bool(session.options.wait), verb="rolled back")


def register(group: command.Subcommands) -> None:
    """Declare `policy history` and `policy rollback`."""
    showing = command.add(group, "history", history, "the versions of a policy", "fairlead policy history db-ingress")
    stored.selection(showing, optional=False)
    example = "fairlead policy rollback db-ingress --to 3 --wait"
    rolling = command.add(group, "rollback", rollback, "store an earlier version again", example)
    stored.selection(rolling, optional=False)
    _rollback_options(rolling)


def _rollback_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--to",
        type=int,
        default=0,
        metavar="VERSION",
        help="which version (`policy history` lists them); the last that differs",
    )
    parser.add_argument(
        "--wait", action="store_true", help="return when every affected node has confirmed, as in apply"
    )
    stored.owner_option(parser)
