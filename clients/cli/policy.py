"""`fairlead policy`: state rules, wait until every kernel that needs them has them, read them back, remove them."""

from __future__ import annotations

import argparse
import getpass
import sys
from pathlib import Path

import yaml

from clients.cli import command, output, policy_audit, policy_check, policy_history, policy_realised, stored
from clients.cli.output import Answer
from clients.cli.session import Session
from fairlead import manifest
from fairlead.errors import FairleadError, InvalidInput
from fairlead.schema.owned import OWNED_APPLY, OWNED_DELETE
from fairlead.schema.policy import (
    APPLY,
    DELETE,
    FORCE_APPLY,
    FORCE_DELETE,
    ApplyPolicy,
    DeletePolicy,
    PolicyApplied,
    PolicyReference,
)


def read_file(path: str) -> str:
    """Return the text of a file, or of standard input for `-`. Raises InvalidInput."""
    try:
        return sys.stdin.read() if path == "-" else Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path}: cannot be read ({error}): give a YAML file, or - for standard input") from error


async def apply(session: Session) -> Answer:
    """Check every document of every file, then store them in order."""
    wanted = [policy for path in session.options.file for policy in manifest.read(read_file(path), path)]
    wait_s = stored.wait_s(session)
    topic = FORCE_APPLY if session.options.force else OWNED_APPLY if session.options.owner else APPLY
    results: list[PolicyApplied] = []
    for number, document in enumerate(wanted):
        ask = ApplyPolicy(document=document, wait_s=wait_s, author=getpass.getuser(), owner=session.options.owner)
        try:
            results.append(await stored.change(session, topic, ask))
        except FairleadError as error:
            error.message = (
                f"{document.kind} {document.metadata['name']}: {error.message}{_before(number, len(wanted))}"
            )
            raise
    return stored.changed(results, waited=bool(session.options.wait), verb="stored")


def _before(done: int, total: int) -> str:
    return f" ({done} of {total} documents were stored before it)" if total > 1 else ""


async def delete(session: Session) -> Answer:
    """Remove one policy by name, or all those of a file."""
    wait_s = stored.wait_s(session)
    topic = FORCE_DELETE if session.options.force else OWNED_DELETE if session.options.owner else DELETE
    results = []
    for reference in await _to_delete(session):
        ask = DeletePolicy(policy=reference, wait_s=wait_s, author=getpass.getuser(), owner=session.options.owner)
        results.append(await stored.change(session, topic, ask))
    return stored.changed(results, waited=bool(session.options.wait), verb="removed")


async def _to_delete(session: Session) -> list[PolicyReference]:
    if session.options.file:
        documents = [one for path in session.options.file for one in manifest.read(read_file(path), path)]
        return [_reference(one.kind, one.metadata["name"], str(one.metadata.get("namespace", ""))) for one in documents]
    if not session.options.name:
        raise InvalidInput("name the policy to delete, or give -f FILE")
    return [one.policy for one in stored.one_named(await stored.these(session), session.options.name)]


def _reference(kind: str, name: str, namespace: str) -> PolicyReference:
    return PolicyReference(
        kind=kind, name=name, namespace=namespace or ("" if kind in stored.CLUSTER_SCOPED else "default")
    )


async def get(session: Session) -> Answer:
    """List the policies, or write out one as the YAML that would store it again."""
    found = await stored.these(session)
    if session.options.name:
        (one,) = stored.one_named(found, session.options.name)
        return Answer(one, yaml.safe_dump(policy_check.plain(one), sort_keys=False, allow_unicode=True).rstrip())
    rows = [
        (one.policy.kind, one.policy.namespace, one.policy.name, one.revision, one.owner, one.author, one.trace[3:35])
        for one in found
    ]
    return Answer(found, output.table(("KIND", "NAMESPACE", "NAME", "REVISION", "OWNER", "AUTHOR", "TRACE"), rows))


def _file_options(parser: argparse.ArgumentParser, *, required: bool) -> None:
    parser.add_argument(
        "-f",
        "--file",
        action="append",
        default=[],
        required=required,
        metavar="FILE",
        help="YAML or JSON, - for standard input; repeat for more",
    )
    parser.add_argument(
        "--wait",
        action="store_true",
        help="return when every affected node has confirmed, or after --timeout (30) with status 3 and the stragglers",
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="although tests fail or it belongs to somebody else; needs the right to a subject of its own",
    )
    stored.owner_option(parser)


def register(commands: command.Subcommands) -> None:
    """Declare `policy apply`, `get`, `delete`, `history`, `rollback`, `audit`, `realised` and `check`."""
    group = command.group(commands, "policy", "rules", "fairlead policy apply -f policy.yaml --wait")
    applying = command.add(
        group, "apply", apply, "store policies", "fairlead policy apply -f policy.yaml --wait --timeout 10"
    )
    _file_options(applying, required=True)
    getting = command.add(group, "get", get, "list policies, or show one as YAML", "fairlead policy get db-ingress")
    stored.selection(getting)
    deleting = command.add(group, "delete", delete, "remove policies", "fairlead policy delete db-ingress --wait")
    stored.selection(deleting)
    _file_options(deleting, required=False)
    policy_history.register(group)
    policy_audit.register(group)
    policy_realised.register(group)
    policy_check.register(group)
