"""`fairlead compose`: the policies and tests that a compose file carries in `x-fairlead`, checked before `up`, stored as one whole, and removed."""

from __future__ import annotations

import argparse
import getpass
import os
import re
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from typing import Any

from clients.cli import command, compose_check, compose_files, compose_rules, compose_tests, policy_check, stored
from clients.cli.compose_check import Plan
from clients.cli.compose_rules import Stated
from clients.cli.compose_services import Habits, Stack, stack_of
from clients.cli.output import Answer, Exit
from clients.cli.session import Session
from fairlead import config
from fairlead.containers import ContainerSettings
from fairlead.errors import FairleadError, InvalidInput
from fairlead.schema.base import Empty
from fairlead.schema.owned import FORCE_REPLACE, OWNED_REPLACE, PoliciesReplaced, ReplacePolicies
from fairlead.schema.policy import POLICIES, PolicyObject, PolicyReference, StoredPolicy

_OWNER = "compose"
_GIVEN = re.compile(r"`documents\[(\d+)\]`")


def check(given: Session | argparse.Namespace) -> Answer | Coroutine[Any, Any, Answer]:
    """Say which tests pass, or whether one service reaches another; with --live beside everything else that is stored."""
    if isinstance(given, Session):
        return _check_live(given)
    return _checked(given, [])


async def _check_live(session: Session) -> Answer:
    plan = _plan(session.options)
    return _checked(session.options, await _others(session, plan.stack.project), plan)


def _checked(options: argparse.Namespace, in_force: list[dict[str, Any]], plan: Plan | None = None) -> Answer:
    plan = plan or _plan(options)
    asked = (options.source, options.destination, options.port)
    if any(asked) and not all(asked):
        raise InvalidInput("--from, --to and --port belong together")
    if all(asked):
        raise SystemExit(compose_check.asked(plan, options, in_force))
    return compose_check.judged(plan, options, in_force)


async def apply(session: Session) -> Answer:
    """Check the files, and make them all that is stored of the stack."""
    plan = _plan(session.options)
    if not plan.documents:
        raise InvalidInput(
            f"no policy and no test stands in `x-fairlead`: `fairlead compose delete -p {plan.stack.project}` removes what is stored"
        )
    others = await _others(session, plan.stack.project) if session.options.dry_run else []
    verdict = compose_check.judged(plan, session.options, others)
    if verdict.status is not Exit.OK and not session.options.force:
        return verdict
    plan = compose_check.kept(plan, session.options)
    verdict = replace(verdict, warnings=plan.warnings)
    if session.options.dry_run:
        return await _would(session, plan, verdict)
    answer = await _replace(session, plan.stack.project, plan.documents)
    return Answer(answer.value, answer.text, answer.status, (*verdict.warnings, *answer.warnings))


async def delete(session: Session) -> Answer:
    """Remove everything that is stored of the stack; with -p no file is read."""
    options = session.options
    if options.project:
        return await _replace(session, compose_files.checked_project(options.project), ())
    return await _replace(session, _files(options).project, ())


async def _replace(session: Session, project: str, documents: Sequence[Stated]) -> Answer:
    ask = ReplacePolicies(
        owner=_owner(session.options, project),
        documents=tuple(one.document for one in documents),
        wait_s=stored.wait_s(session),
        author=getpass.getuser(),
    )
    topic, node = (FORCE_REPLACE, None) if session.options.force else (OWNED_REPLACE, stored.speaker_of(ask.owner))
    try:
        done = await session.bus.request(topic, ask, node=node, timeout_s=stored.answer_s(session))
    except FairleadError as error:
        error.message = _GIVEN.sub(lambda match: documents[int(match[1])].origin, error.message)
        raise
    return _told(session, project, done)


def _told(session: Session, project: str, done: PoliciesReplaced) -> Answer:
    waited = bool(session.options.wait)
    parts = [
        stored.changed(list(results), waited=waited, verb=verb)
        for results, verb in ((done.stored, "stored"), (done.removed, "removed"))
        if results
    ]
    text = "\n".join(part.text for part in parts) or f"{project}: nothing is stored of it"
    warnings = tuple(warning for part in parts for warning in part.warnings)
    return Answer(done, text, max((part.status for part in parts), default=Exit.OK), warnings)


async def _would(session: Session, plan: Plan, verdict: Answer) -> Answer:
    """Say what `apply` would do."""
    owner = _owner(session.options, plan.stack.project)
    standing = {one.policy: one.document for one in await _stored(session) if one.owner == owner}
    wanted = {_reference(one.document): one.document for one in plan.documents}
    actions = [(_action(standing.get(reference), document), reference) for reference, document in wanted.items()]
    actions += [("remove", reference) for reference in standing if reference not in wanted]
    lines = [f"{action:<9} {stored.title(reference)}" for action, reference in actions]
    value = [{"action": action, "policy": reference} for action, reference in actions]
    return Answer(value, "\n".join([*lines, verdict.text]), Exit.OK, verdict.warnings)


def _action(standing: PolicyObject | None, wanted: PolicyObject) -> str:
    if standing is None:
        return "store"
    return "unchanged" if standing == wanted else "change"


def _reference(document: PolicyObject) -> PolicyReference:
    namespace = str(document.metadata.get("namespace", ""))
    return PolicyReference(kind=document.kind, name=document.metadata["name"], namespace=namespace)


async def _stored(session: Session) -> tuple[StoredPolicy, ...]:
    return (await session.ask(POLICIES, Empty())).policies


async def _others(session: Session, project: str) -> list[dict[str, Any]]:
    """Return the documents in force that the stack does not own."""
    owner = _owner(session.options, project)
    return [policy_check.plain(one) for one in await _stored(session) if one.owner != owner]


def _owner(options: argparse.Namespace, project: str) -> str:
    return options.owner or f"{_OWNER}/{project}"


def _files(options: argparse.Namespace) -> compose_files.Files:
    return compose_files.read(options.file, options.project, options.compose, os.environ)


def _plan(options: argparse.Namespace) -> Plan:
    """Read the files. Raises InvalidInput naming file, path and mend."""
    files = _files(options)
    stack = stack_of(files.project, files.resolved, _habits())
    own = compose_rules.documents(files.extensions, stack)
    tests = compose_tests.documents(files.extensions, stack)
    plugin = [Stated(origin, document) for origin, document in stack.stated_by_the_plugin()]
    return Plan(stack, tuple(own), tuple(tests), tuple(plugin), (*files.warnings, *_unpoliced(stack)))


def _habits() -> Habits:
    """Return the plugin's options by which containers get their labels, from where every process has its options."""
    found = config.load(ContainerSettings, {"FAIRLEAD_NODE": "here", **os.environ})
    return Habits(found.docker_labels, found.docker_image_label, found.docker_isolation == "on", found.driver)


def _unpoliced(stack: Stack) -> list[str]:
    lost = [one for one in stack.services.values() if not one.networks]
    return [f"{one.name} is on no network of Fairlead's ({one.elsewhere}): policies do not reach it" for one in lost]


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-f", "--file", action="append", default=[], metavar="FILE", help="as for compose; repeat for more"
    )
    parser.add_argument("-p", "--project", default="", metavar="NAME", help="the stack's name, as for compose")
    parser.add_argument(
        "--compose",
        default=os.environ.get("FAIRLEAD_COMPOSE", ""),
        metavar="COMMAND",
        help="what resolves compose files: `docker compose` or `docker-compose`, whichever is installed; none: a part "
        "of the language is understood without (FAIRLEAD_COMPOSE)",
    )
    parser.add_argument("--owner", default="", metavar="NAME", help=f"whose documents these are ({_OWNER}/PROJECT)")


def _judging(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--mode", choices=("default", "always", "never"), help="enforcement mode (default)")
    parser.add_argument("--cluster", metavar="NAME", help="name of the local cluster (default)")


def _waiting(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--force",
        action="store_true",
        help="although tests fail or a document belongs to somebody else; needs the right to a subject of its own",
    )
    parser.add_argument(
        "--wait", action="store_true", help="return when every affected node has confirmed, as in policy apply"
    )


def register(commands: command.Subcommands) -> None:
    """Declare `compose check`, `apply` and `delete`."""
    group = command.group(
        commands, "compose", "policies in compose files", "fairlead compose check && docker compose up -d"
    )
    checking = command.add(
        group,
        "check",
        None,
        "judge a stack's policies and tests before it starts",
        "fairlead compose check -f compose.yaml",
    )
    checking.set_defaults(run=check, bus=False)
    _common(checking)
    _judging(checking)
    checking.add_argument("--live", dest="bus", action="store_true", help="beside everything else that is stored")
    checking.add_argument("--from", dest="source", metavar="A", help="a service, an address, or a word like world")
    checking.add_argument("--to", dest="destination", metavar="B", help="the same")
    checking.add_argument("--port", metavar="PORT", help="5432/TCP, 53/UDP")
    applying = command.add(
        group, "apply", apply, "make a compose file all that is stored of its stack", "fairlead compose apply --wait"
    )
    _common(applying)
    _judging(applying)
    _waiting(applying)
    applying.add_argument("--dry-run", action="store_true", help="say what would change, and change nothing")
    deleting = command.add(
        group, "delete", delete, "remove what is stored of a stack", "fairlead compose delete -p shop --wait"
    )
    _common(deleting)
    _waiting(deleting)
