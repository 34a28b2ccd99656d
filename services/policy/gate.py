"""What stands against a change of one document, given everything else; pure."""

from __future__ import annotations

from fairlead.schema.policy import PolicyReference
from services.policy.rules import Policy
from services.policy.store import policy_key
from services.policy.trials import broken
from services.policy.view import View


def check_groups(view: View, reference: PolicyReference, policy: Policy | None) -> None:
    """Raise InvalidInput if a deny would have no group to deny by, before or after the change."""
    if policy is None:
        view.check_unused(reference)
    else:
        view.check_groups(policy)


def failing_tests(view: View, reference: PolicyReference, policy: Policy | None) -> list[str]:
    """Return the tests that would fail if the document were put there (None: removed), each in one line."""
    key, before = policy_key(reference), view.model.policies
    others = {name: other for name, other in before.items() if name != key}
    return broken(before, others if policy is None else {**others, key: policy}, key, view.enforcement)
