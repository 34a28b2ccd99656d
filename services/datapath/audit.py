"""Policies that are only audited or staged deny nothing: here is told what they would have denied. Pure.

An endpoint that is audited whole is the programs' business: they judge its packets by the policy itself. Single policies are not in the
kernel's map at all, so a new flow, which the programs report once, is compared with what the map would be.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from services.datapath.kernel.twin.policy import EGRESS, INGRESS, Policy
from services.datapath.reports import DropReason, Event, EventKind


@dataclass(frozen=True)
class Staged:
    """What would be enforced if nothing that selects an identity were merely audited or staged."""

    policy: Policy
    ingress_default_deny: int = 0
    egress_default_deny: int = 0


@dataclass(frozen=True)
class StagedEnd:
    """An end of the flow that this node hosts."""

    endpoint: int
    staged: Staged | None
    """None: nothing that selects it is audited or staged."""


def audited(event: Event, source: StagedEnd | None, destination: StagedEnd | None) -> Event:
    """Return the event as an audited one if a policy that is not enforced would have denied the flow, else as it is."""
    if event.kind is not EventKind.NEW_FLOW or event.is_reply:
        return event
    ends = ((source, event.destination_identity, EGRESS), (destination, event.source_identity, INGRESS))
    for end, peer, direction in ends:
        if end is None or end.staged is None:
            continue
        denied = _denied(end.staged, peer, event, direction)
        if denied is not None:
            reason, provenance = denied
            by = replace(event, reason=reason, provenance=provenance, direction=direction, endpoint=end.endpoint)
            return replace(by, kind=EventKind.AUDIT, audited=True)
    return event


def _denied(staged: Staged, peer: int, event: Event, direction: int) -> tuple[int, int] | None:
    match = staged.policy.best(peer, event.protocol, event.dport, direction)
    if match is None:
        silent = staged.egress_default_deny if direction == EGRESS else staged.ingress_default_deny
        return DropReason.POLICY, silent
    return (DropReason.POLICY_DENY, match[1].provenance) if match[1].deny else None
