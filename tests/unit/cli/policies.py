"""A policy service small enough to read at a glance."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import msgspec

from fairlead.bus import ANY_NODE, Route, route
from fairlead.errors import NotFound
from fairlead.schema import owned as owned_schema
from fairlead.schema import policy
from fairlead.schema.base import Empty, IdentityId, NodeName

NOW = datetime(2026, 1, 1, tzinfo=UTC)
N1, N2 = NodeName("n1"), NodeName("n2")
DB = IdentityId(1003)


@dataclass
class Policies:
    """The policy service; `late` names nodes that do not confirm."""

    stored: dict[str, policy.StoredPolicy] = field(default_factory=dict)
    versions: list[policy.PolicyVersion] = field(default_factory=list)
    late: tuple[NodeName, ...] = ()

    async def apply(self, ask: policy.ApplyPolicy) -> policy.PolicyApplied:
        name = ask.document.metadata["name"]
        reference = policy.PolicyReference(kind=ask.document.kind, name=name, namespace="default")
        self.stored[name] = policy.StoredPolicy(policy=reference, document=ask.document, revision=7, author=ask.author)
        self._keep("stored", ask.author, ask.document)
        return self._applied(reference, ask.wait_s)

    async def force_apply(self, ask: policy.ApplyPolicy) -> policy.PolicyApplied:
        return msgspec.structs.replace(await self.apply(ask), warnings=("forced: a test fails",))

    async def delete(self, ask: policy.DeletePolicy) -> policy.PolicyApplied:
        if ask.policy.name not in self.stored:
            raise NotFound(f"no policy {ask.policy.name}")
        return self._applied(self.stored.pop(ask.policy.name).policy, ask.wait_s)

    async def history(self, ask: policy.PolicyHistoryQuery) -> policy.PolicyHistory:
        return policy.PolicyHistory(policy=ask.policy, versions=tuple(self.versions))

    async def roll_back(self, ask: policy.RollBackPolicy) -> policy.PolicyApplied:
        wanted = self.versions[(ask.version or len(self.versions) - 1) - 1].document
        assert wanted is not None
        self.stored[ask.policy.name] = policy.StoredPolicy(policy=ask.policy, document=wanted, revision=7)
        self._keep(f"rolled back to {ask.version}", ask.author, wanted)
        return self._applied(ask.policy, ask.wait_s)

    def _keep(self, action: str, author: str, document: policy.PolicyObject) -> None:
        number = len(self.versions) + 1
        self.versions.append(
            policy.PolicyVersion(
                version=number, revision=6 + number, action=action, at=NOW, author=author, document=document
            )
        )

    def _applied(self, reference: policy.PolicyReference, wait_s: float) -> policy.PolicyApplied:
        nodes = [
            policy.NodeRealised(
                node=node, realised=node not in self.late, detail="revision 6" if node in self.late else ""
            )
            for node in (N1, N2)
        ]
        return policy.PolicyApplied(
            policy=reference, revision=7, resolved=True, identities=(DB,), nodes=tuple(nodes) if wait_s else ()
        )

    async def list_all(self, _ask: Empty) -> policy.PolicyList:
        return policy.PolicyList(policies=tuple(self.stored.values()), revision=7)

    def routes(self) -> list[Route]:
        """Return every topic with its handler, also those in an owner's name."""
        replies: list[tuple[Any, Any]] = [
            (policy.APPLY, self.apply),
            (policy.DELETE, self.delete),
            (policy.POLICIES, self.list_all),
            (policy.HISTORY, self.history),
            (policy.FORCE_APPLY, self.force_apply),
            (policy.FORCE_DELETE, self.delete),
            (policy.ROLLBACK, self.roll_back),
        ]
        owned: list[tuple[Any, Any]] = [
            (owned_schema.OWNED_APPLY, self.apply),
            (owned_schema.OWNED_DELETE, self.delete),
            (owned_schema.OWNED_ROLLBACK, self.roll_back),
        ]
        plain = [route(topic, handler) for topic, handler in replies]
        return [*plain, *(route(topic, handler, ANY_NODE) for topic, handler in owned)]
