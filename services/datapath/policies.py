"""Policy rows as kernel maps, worked out once per row however many endpoints share it; and what of them is realised. Pure but for numbers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import replace

from fairlead.errors import FairleadError
from fairlead.schema.base import NodeName
from fairlead.schema.datapath import RealisedRow
from fairlead.schema.policy import PolicyRow
from services.datapath.audit import Staged
from services.datapath.endpoints import Endpoints
from services.datapath.kernel.twin.policy import Policy
from services.datapath.ledger import Entries
from services.datapath.model import PolicyMap
from services.datapath.plan import Numbering, expand, expand_staged

Outcome = tuple[PolicyMap | None, str]


class Policies:
    """The newest policy of each identity that this node hosts."""

    def __init__(self, number: Numbering) -> None:
        self._number = number
        self._outcomes: dict[int, Outcome] = {}
        self._staged: dict[int, Staged] = {}
        self.stood: Collection[Entries] = ()
        """What an earlier process has ordered, while its rows are read: a row that comes to the same is that object. Endpoints' policies are
        compared time and again, and one object need not be."""

    def hear(self, identity: int, row: PolicyRow | None) -> None:
        """Learn the newest row of the identity."""
        self._staged.pop(identity, None)
        if row is None:
            self._outcomes.pop(identity, None)
            return
        self._outcomes[identity] = self._expand(row)
        with suppress(FairleadError):  # what is not enforced hinders nothing
            if (staged := expand_staged(row, self._number)) is not None:
                denies = staged.ingress_default_deny, staged.egress_default_deny
                self._staged[identity] = Staged(Policy(staged.entries), *denies)

    def get(self, identity: int) -> Outcome:
        """Return the map, or why there is none; neither while there is no row."""
        return self._outcomes.get(identity, (None, ""))

    def staged(self, identity: int) -> Staged | None:
        """Return what would be enforced if nothing were merely audited or staged; None if nothing is."""
        return self._staged.get(identity)

    def _expand(self, row: PolicyRow) -> Outcome:
        try:
            policy = expand(row, self._number)
            entries = next((stood for stood in self.stood if stood == policy.entries), policy.entries)
            return replace(policy, entries=entries), ""
        except FairleadError as error:
            return None, f"revision {row.revision} is refused: {error.message}"


def realised(node: NodeName, endpoints: Endpoints, trace: str) -> RealisedRow:
    """Return what the kernel holds: a revision only where every endpoint of the identity holds it, and what hinders the others."""
    revisions: dict[int, list[int | None]] = defaultdict(list)
    failed: dict[str, str] = {}
    hindrances = endpoints.table.failed()
    for record in endpoints.live():
        decision = endpoints.decisions[record.endpoint]
        if not decision.identity:
            continue
        stands = endpoints.standing.get(record.endpoint)
        policy = stands.policy if stands else None
        held = policy is None or policy.identity != decision.identity
        revisions[decision.identity].append(None if held or policy is None else policy.revision)
        hindrance = hindrances.get(record.endpoint) or decision.hindrance
        if hindrance:
            failed[str(decision.identity)] = f"endpoint {record.name}: {hindrance}"
    return RealisedRow(node=node, rows=_complete(revisions), failed=failed, trace=trace)


def _complete(revisions: Mapping[int, list[int | None]]) -> dict[str, int]:
    rows = {}
    for identity, values in revisions.items():
        known = [value for value in values if value is not None]
        if len(known) == len(values):
            rows[str(identity)] = min(known)
    return rows
