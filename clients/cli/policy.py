"""`fairlead policy`: state rules, wait until every kernel that needs them has them, read them back, remove them."""

from __future__ import annotations

import argparse
import getpass
import sys
from pathlib import Path

import yaml

from clients.cli import command, output, policy_check
from clients.cli.output import Answer, Exit
from clients.cli.session import Session
from fairlead import codec, manifest
from fairlead.errors import FairleadError, InvalidInput, NotFound
from fairlead.schema.base import Empty
from fairlead.schema.policy import (
    APPLY,
    DELETE,
    POLICIES,
    ApplyPolicy,
    DeletePolicy,
    PolicyApplied,
    PolicyReference,
    StoredPolicy,
)

_CLUSTERWIDE = "CiliumClusterwideNetworkPolicy"
_WAIT_S = 30.0
_EXTRA_S = 5.0
"""On top of the wait: the answer of a wait that ran out must still arrive."""


def read_file(path: str) -> str:
    """Return the text of a file, or of standard input for `-`. Raises InvalidInput."""
    try:
        return sys.stdin.read() if path == "-" else Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path}: cannot be read ({error}): give a YAML file, or - for standard input") from error


def _wait_s(session: Session) -> float:
    """Return how long the service is asked to wait: --timeout where given, else long enough for a busy fleet."""
    if not session.options.wait:
        return 0.0
    return _WAIT_S if session.options.timeout is None else float(session.options.timeout)


async def apply(session: Session) -> Answer:
    """Check every document of every file, then store them in order."""
    wanted = [policy for path in session.options.file for policy in manifest.read(read_file(path), path)]
    wait_s = _wait_s(session)
    results: list[PolicyApplied] = []
    for number, document in enumerate(wanted):
        ask = ApplyPolicy(document=document, wait_s=wait_s, author=getpass.getuser())
        try:
            results.append(await session.bus.request(APPLY, ask, timeout_s=wait_s + max(_EXTRA_S, session.timeout_s)))
        except FairleadError as error:
            error.message = (
                f"{document.kind} {document.metadata['name']}: {error.message}{_before(number, len(wanted))}"
            )
            raise
    return _changed(results, waited=bool(session.options.wait), verb="stored")


def _before(done: int, total: int) -> str:
    return f" ({done} of {total} documents were stored before it)" if total > 1 else ""


async def delete(session: Session) -> Answer:
    """Remove one policy by name, or all those of a file."""
    wait_s = _wait_s(session)
    results = []
    for reference in await _to_delete(session):
        ask = DeletePolicy(policy=reference, wait_s=wait_s)
        results.append(await session.bus.request(DELETE, ask, timeout_s=wait_s + max(_EXTRA_S, session.timeout_s)))
    return _changed(results, waited=bool(session.options.wait), verb="removed")


async def _to_delete(session: Session) -> list[PolicyReference]:
    if session.options.file:
        documents = [one for path in session.options.file for one in manifest.read(read_file(path), path)]
        return [_reference(one.kind, one.metadata["name"], str(one.metadata.get("namespace", ""))) for one in documents]
    if not session.options.name:
        raise InvalidInput("name the policy to delete, or give -f FILE")
    return [one.policy for one in _one(await _stored(session), session.options.name)]


def _reference(kind: str, name: str, namespace: str) -> PolicyReference:
    return PolicyReference(kind=kind, name=name, namespace=namespace or ("" if kind == _CLUSTERWIDE else "default"))


def _changed(results: list[PolicyApplied], *, waited: bool, verb: str) -> Answer:
    late = any(waited and (stragglers(one) or not one.resolved) for one in results)
    warnings = tuple(f"{_name(one.policy)}: {text}" for one in results for text in one.warnings)
    text = "\n".join(_outcome(one, waited=waited, verb=verb) for one in results)
    return Answer(results, text, Exit.LATE if late else Exit.OK, warnings)


def stragglers(result: PolicyApplied) -> list[str]:
    """Return the nodes that have not confirmed, each with what is missing."""
    return [f"{one.node} ({one.detail})" if one.detail else str(one.node) for one in result.nodes if not one.realised]


def _outcome(result: PolicyApplied, *, waited: bool, verb: str) -> str:
    """Return what became of one policy, in one line."""
    head = f"{_name(result.policy)} {verb if result.changed else 'unchanged'} at revision {result.revision}"
    head += f", selects {len(result.identities)} identities"
    late = stragglers(result)
    if not waited:
        return head
    if late:
        done = len(result.nodes) - len(late)
        return f"{head}\nrealised on {done} of {len(result.nodes)} nodes; not in time: {', '.join(late)}"
    return f"{head}\nrealised on {len(result.nodes)} nodes" if result.resolved else f"{head}\nnot resolved in time"


def _name(reference: PolicyReference) -> str:
    return (
        f"{reference.kind} {reference.namespace}/{reference.name}"
        if reference.namespace
        else f"{reference.kind} {reference.name}"
    )


async def get(session: Session) -> Answer:
    """List the policies, or write out one as the YAML that would store it again."""
    found = await _stored(session)
    if session.options.name:
        (one,) = _one(found, session.options.name)
        return Answer(one, yaml.safe_dump(_document(one), sort_keys=False, allow_unicode=True).rstrip())
    rows = [
        (one.policy.kind, one.policy.namespace, one.policy.name, one.revision, one.author, one.trace[3:35])
        for one in found
    ]
    return Answer(found, output.table(("KIND", "NAMESPACE", "NAME", "REVISION", "AUTHOR", "TRACE"), rows))


def _document(one: StoredPolicy) -> dict[str, object]:
    plain = codec.to_builtins(one.document)
    return {
        key: plain[key] for key in ("apiVersion", "kind", "metadata", "spec", "specs") if plain.get(key) is not None
    }


async def _stored(session: Session) -> list[StoredPolicy]:
    """Return the stored policies that --kind and --namespace leave."""
    options = session.options
    found = (await session.ask(POLICIES, Empty())).policies
    kept = [one for one in found if not options.kind or one.policy.kind.lower() == options.kind.lower()]
    return [one for one in kept if options.namespace is None or one.policy.namespace == options.namespace]


def _one(found: list[StoredPolicy], name: str) -> list[StoredPolicy]:
    """Return the one policy of this name. Raises NotFound, InvalidInput where several have it."""
    same = [one for one in found if one.policy.name == name]
    if not same:
        raise NotFound(f"no policy {name!r}: `fairlead policy get` lists all")
    if len(same) > 1:
        raise InvalidInput(f"{name!r} names {', '.join(_name(one.policy) for one in same)}: add --kind or --namespace")
    return same


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


def _selection(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", metavar="NAME")
    parser.add_argument("--kind", metavar="KIND", help="for instance CiliumNetworkPolicy")
    parser.add_argument("--namespace", metavar="NAMESPACE")


def register(commands: command.Subcommands) -> None:
    """Declare `policy apply`, `get`, `delete` and `check`."""
    group = command.group(commands, "policy", "rules", "fairlead policy apply -f policy.yaml --wait")
    applying = command.add(
        group, "apply", apply, "store policies", "fairlead policy apply -f policy.yaml --wait --timeout 10"
    )
    _file_options(applying, required=True)
    getting = command.add(group, "get", get, "list policies, or show one as YAML", "fairlead policy get db-ingress")
    _selection(getting)
    deleting = command.add(group, "delete", delete, "remove policies", "fairlead policy delete db-ingress --wait")
    _selection(deleting)
    _file_options(deleting, required=False)
    policy_check.register(group)
