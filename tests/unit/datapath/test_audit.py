"""What single audited policies would have denied, found in user space."""

from __future__ import annotations

import pytest

from fairlead.address import Address
from fairlead.schema.base import IdentityId
from fairlead.schema.policy import Direction, PolicyEntry, PolicyRow, StagedPolicy
from services.datapath.audit import Staged, StagedEnd, audited
from services.datapath.kernel.twin.policy import Policy
from services.datapath.operations import PolicyKey, PolicyValue
from services.datapath.plan import expand_staged
from services.datapath.reports import DropReason, Event, EventKind

WEB, DB = IdentityId(300), IdentityId(301)
EVENT = Event(EventKind.NEW_FLOW, 0, 0, 6, Address("10.0.0.2"), Address("10.0.0.3"), 1, 80, WEB, DB, 2, 5, 60, 0)
ALLOW, ANY = PolicyValue(), PolicyKey(0, 0, 0, 0)


def _end(endpoint: int, entries: dict[PolicyKey, PolicyValue]) -> StagedEnd:
    return StagedEnd(endpoint, Staged(Policy(entries), 7, 8))


@pytest.mark.parametrize(
    ("source", "destination", "told"),
    [
        (None, None, (EventKind.NEW_FLOW, 0, 5, 0, 2)),
        (StagedEnd(1, None), StagedEnd(2, None), (EventKind.NEW_FLOW, 0, 5, 0, 2)),
        (None, _end(2, {ANY: ALLOW}), (EventKind.NEW_FLOW, 0, 5, 0, 2)),
        (None, _end(2, {}), (EventKind.AUDIT, DropReason.POLICY, 7, 0, 2)),
        (_end(1, {ANY: ALLOW}), _end(2, {}), (EventKind.AUDIT, DropReason.POLICY, 8, 1, 1)),
        (
            None,
            _end(2, {ANY: ALLOW, PolicyKey(WEB, 80, 6, 0): PolicyValue(deny=True, provenance=9)}),
            (EventKind.AUDIT, DropReason.POLICY_DENY, 9, 0, 2),
        ),
    ],
)
def test_first_denial_of_the_flow_is_told(
    source: StagedEnd | None, destination: StagedEnd | None, told: tuple[EventKind, int, int, int, int]
) -> None:
    event = audited(EVENT, source, destination)
    assert (event.kind, event.reason, event.provenance, event.direction, event.endpoint) == told


def test_drops_and_ends_stay_what_they_are() -> None:
    for kind in (EventKind.DROP, EventKind.CLOSED, EventKind.LASTING, EventKind.AUDIT):
        event = Event(kind, 133, 0, 6, Address("10.0.0.2"), Address("10.0.0.3"), 1, 80, WEB, DB, 2, 5, 60, 0)
        assert audited(event, None, _end(2, {})) is event


def test_staged_row_expands_to_what_would_be_enforced() -> None:
    entry = PolicyEntry(direction=Direction.INGRESS, identity=WEB, protocol=6, port=80)
    anybody = PolicyEntry(direction=Direction.INGRESS, identity=IdentityId(0))
    row = PolicyRow(identity=DB, entries=(anybody,), origins=("x",), revision=4)
    assert expand_staged(row, lambda _texts: 3) is None
    staged = StagedPolicy(entries=(entry,), ingress_default_deny=(0,))
    told = expand_staged(PolicyRow(identity=DB, entries=(anybody,), origins=("x",), revision=4, staged=staged), len)
    assert told is not None
    assert (set(told.entries), told.ingress_default_deny) == ({PolicyKey(WEB, 80, 6, 0)}, 1)
