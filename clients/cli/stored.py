"""What the commands about stored policies share: which one is meant, how long to wait, and what became of it."""

from __future__ import annotations

import argparse
import re
from typing import TypeVar

from clients.cli.output import Answer, Exit
from clients.cli.session import Session
from fairlead.errors import InvalidInput, NotFound
from fairlead.schema.base import NAME, Empty, Message, NodeName, Topic
from fairlead.schema.owned import speaker
from fairlead.schema.policy import POLICIES, PolicyApplied, PolicyReference, StoredPolicy

M = TypeVar("M", bound=Message)

CLUSTER_SCOPED = ("CiliumClusterwideNetworkPolicy", "CiliumCIDRGroup", "WorkloadAudit")
"""Kinds without a namespace."""
_WAIT_S = 30.0
_EXTRA_S = 5.0
"""On top of the wait: the answer of a wait that ran out must still arrive."""


def wait_s(session: Session) -> float:
    """Return how long the service is asked to wait: --timeout where given, else long enough for a busy fleet."""
    if not session.options.wait:
        return 0.0
    return _WAIT_S if session.options.timeout is None else float(session.options.timeout)


def answer_s(session: Session) -> float:
    """Return how long to wait for the service's answer: what it may wait itself, and a little."""
    return wait_s(session) + max(_EXTRA_S, session.timeout_s)


async def change(session: Session, topic: Topic[M, PolicyApplied], ask: M) -> PolicyApplied:
    """Ask for a change, on the owner's own subject where the topic has one. Raises what the service raised."""
    node = speaker_of(session.options.owner) if topic.per_owner else None
    return await session.bus.request(topic, ask, node=node, timeout_s=answer_s(session))


def speaker_of(owner: str) -> NodeName:
    """Return the token of an owner's subject. Raises InvalidInput for an owner that cannot have one."""
    if not re.fullmatch(NAME, speaker(owner)):
        raise InvalidInput(
            f"`--owner`: {owner!r}: an owner begins with a-z, 0-9 and dashes, like shop-ci or compose/shop"
        )
    return speaker(owner)


def owner_option(parser: argparse.ArgumentParser) -> None:
    """Declare --owner."""
    parser.add_argument("--owner", default="", metavar="NAME", help="on whose behalf, where documents have owners")


def changed(results: list[PolicyApplied], *, waited: bool, verb: str) -> Answer:
    """Return the outcome of changes, and status 3 where a node is late."""
    late = any(waited and (stragglers(one) or not one.resolved) for one in results)
    warnings = tuple(f"{title(one.policy)}: {text}" for one in results for text in one.warnings)
    text = "\n".join(_outcome(one, waited=waited, verb=verb) for one in results)
    return Answer(results, text, Exit.LATE if late else Exit.OK, warnings)


def stragglers(result: PolicyApplied) -> list[str]:
    """Return the nodes that have not confirmed, each with what is missing."""
    return [f"{one.node} ({one.detail})" if one.detail else str(one.node) for one in result.nodes if not one.realised]


def _outcome(result: PolicyApplied, *, waited: bool, verb: str) -> str:
    """Return what became of one policy, in one line."""
    head = f"{title(result.policy)} {verb if result.changed else 'unchanged'} at revision {result.revision}"
    head += f", selects {len(result.identities)} identities"
    late = stragglers(result)
    if not waited:
        return head
    if late:
        done = len(result.nodes) - len(late)
        return f"{head}\nrealised on {done} of {len(result.nodes)} nodes; not in time: {', '.join(late)}"
    return f"{head}\nrealised on {len(result.nodes)} nodes" if result.resolved else f"{head}\nnot resolved in time"


def title(reference: PolicyReference) -> str:
    """Return the policy as people name it."""
    return (
        f"{reference.kind} {reference.namespace}/{reference.name}"
        if reference.namespace
        else f"{reference.kind} {reference.name}"
    )


async def these(session: Session) -> list[StoredPolicy]:
    """Return the stored policies that --kind and --namespace leave."""
    options = session.options
    found = (await session.ask(POLICIES, Empty())).policies
    kept = [one for one in found if not options.kind or one.policy.kind.lower() == options.kind.lower()]
    return [one for one in kept if options.namespace is None or one.policy.namespace == options.namespace]


def one_named(found: list[StoredPolicy], name: str) -> list[StoredPolicy]:
    """Return the one policy of this name, in a list. Raises NotFound, InvalidInput where several have it."""
    same = [one for one in found if one.policy.name == name]
    if not same:
        raise NotFound(f"no policy {name!r}: `fairlead policy get` lists all")
    if len(same) > 1:
        raise InvalidInput(f"{name!r} names {', '.join(title(one.policy) for one in same)}: add --kind or --namespace")
    return same


def selection(parser: argparse.ArgumentParser, *, optional: bool = True) -> None:
    """Declare the options that say which stored policy is meant."""
    parser.add_argument("name", nargs="?" if optional else None, metavar="NAME")
    parser.add_argument("--kind", metavar="KIND", help="for instance CiliumNetworkPolicy")
    parser.add_argument("--namespace", metavar="NAMESPACE")
