"""Policies in somebody's name: on these subjects the owner is not only claimed, since a credential has the right to its own only.

The last token of a subject is the first part of the message's `owner`: `compose` speaks for `compose/shop` and `compose/blog`.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from fairlead.schema.base import Message, NodeName, Seconds, Text, Topic
from fairlead.schema.policy import ApplyPolicy, DeletePolicy, PolicyApplied, PolicyObject, RollBackPolicy


class ReplacePolicies(Message, frozen=True, kw_only=True):
    """State all documents of one owner: these are stored, whatever else the owner has goes; none at all removes everything.

    They are judged together: by the tests that all documents carry, once all of them have changed.
    """

    owner: Text
    documents: Annotated[tuple[PolicyObject, ...], Meta(max_length=1000)] = ()
    wait_s: Seconds = 0
    author: Text = ""


class PoliciesReplaced(Message, frozen=True, kw_only=True):
    """What became of each document, in the order in which they were stored; `removed` are those that the owner no longer has."""

    owner: str
    stored: tuple[PolicyApplied, ...] = ()
    removed: tuple[PolicyApplied, ...] = ()


def speaker(owner: str) -> NodeName:
    """Return the token of the subject on which one speaks in this owner's name."""
    return NodeName(owner.partition("/")[0])


OWNED_APPLY = Topic(
    "fairlead.cmd.policy.owned.apply.v1",
    ApplyPolicy,
    PolicyApplied,
    per_owner=True,
    intent=True,
    summary="store a policy in an owner's name, and wait",
)
OWNED_DELETE = Topic(
    "fairlead.cmd.policy.owned.delete.v1",
    DeletePolicy,
    PolicyApplied,
    per_owner=True,
    intent=True,
    summary="remove a policy in an owner's name, and wait",
)
OWNED_ROLLBACK = Topic(
    "fairlead.cmd.policy.owned.rollback.v1",
    RollBackPolicy,
    PolicyApplied,
    per_owner=True,
    intent=True,
    summary="store an earlier version again in an owner's name, and wait",
)
OWNED_REPLACE = Topic(
    "fairlead.cmd.policy.owned.replace.v1",
    ReplacePolicies,
    PoliciesReplaced,
    per_owner=True,
    intent=True,
    summary="state all policies of an owner at once, and wait",
)
FORCE_REPLACE = Topic(
    "fairlead.cmd.policy.document.forcereplace.v1",
    ReplacePolicies,
    PoliciesReplaced,
    intent=True,
    summary="state all policies of an owner at once although tests fail or some belong to somebody else",
)
