"""What stands against a change of documents, given everything else; pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from fairlead.schema.policy import PolicyReference
from services.policy.ports import refuse
from services.policy.rules import CIDR_GROUP, Policy, title
from services.policy.store import policy_key
from services.policy.trials import broken
from services.policy.view import View

Changes = Mapping[PolicyReference, Policy | None]
"""What is to stand under each name; None: nothing any more."""


def check_groups(view: View, changes: Changes) -> None:
    """Raise InvalidInput if a deny would have no group to deny by, before or after the changes."""
    after = list(_after(view, changes).values())
    known = {f"{CIDR_GROUP} {policy.group.name}" for policy in after if policy.group}
    for reference, policy in changes.items():
        if policy is None:
            _check_unused(reference, after)
        else:
            _check_known(policy, known)


def _check_known(policy: Policy, known: set[str]) -> None:
    for expected in policy.expected:
        if expected.deny and expected.what.startswith(CIDR_GROUP) and expected.what not in known:
            refuse(expected.path, f"there is no {expected.what}, and a deny of nobody denies nothing: apply it first")


def _check_unused(reference: PolicyReference, others: Iterable[Policy]) -> None:
    """Raise InvalidInput if the document is a group of prefixes that policies deny by."""
    what = f"{CIDR_GROUP} {reference.name}"
    users = sorted(
        title(policy.reference)
        for policy in others
        if any(expected.deny and expected.what == what for expected in policy.expected)
    )
    if users and reference.kind == CIDR_GROUP:
        refuse("policy", f"{', '.join(users)} would no longer deny anything: change them first")


def failing_tests(view: View, changes: Changes) -> list[str]:
    """Return the tests that would fail after the changes, each in one line."""
    keys = {policy_key(reference) for reference in changes}
    return broken(view.model.policies, _after(view, changes), keys, view.enforcement)


def _after(view: View, changes: Changes) -> dict[str, Policy]:
    keys = {policy_key(reference): policy for reference, policy in changes.items()}
    others = {key: policy for key, policy in view.model.policies.items() if key not in keys}
    return others | {key: policy for key, policy in keys.items() if policy is not None}
