"""Audited endpoints: what their policy denies passes, is told, and is denied again at once when audit ends."""

from __future__ import annotations

import pytest

from services.datapath.kernel import abi
from services.datapath.kernel.testrun import REDIRECT, SHOT, TestRun
from services.datapath.operations import PolicyKey, PolicyValue
from services.datapath.reports import DropReason as Drop
from services.datapath.reports import EventKind
from tests.kernel.packets import SYN, TCP, frame, tcp, udp
from tests.kernel.rig import ALLOW_IN, ALLOW_OUT, Rig, pod_address
from tests.kernel.sending import families, send

pytestmark = pytest.mark.kernel
DENIED = PolicyKey(1001, 80, TCP, 0)


def told(rig: Rig) -> list[tuple[EventKind, int, int, int]]:
    """Return kind, reason, endpoint and provenance of what was reported."""
    return [(event.kind, event.reason, event.endpoint, event.provenance) for event in rig.take_events()]


@families
def test_default_deny_passes_and_is_told_with_its_cause(rig: Rig, pod: TestRun, family: int) -> None:
    rig.policy(2, {ALLOW_OUT: PolicyValue()})
    rig.kernel.put_endpoint(rig.entry(2, audit_ingress=True))
    assert send(rig, pod, tcp(1000, 80, SYN), family) == REDIRECT
    assert told(rig) == [(EventKind.AUDIT, Drop.POLICY, 2, 40)]
    assert send(rig, pod, tcp(80, 1000), family, sender=2) == REDIRECT
    assert send(rig, pod, tcp(1000, 80), family) == REDIRECT
    assert told(rig) == []
    [value] = rig.flows().values()
    assert abi.FLOW.unpack(value)[4] & 256


@families
def test_deny_entry_passes_and_counts(rig: Rig, pod: TestRun, family: int) -> None:
    rig.policy(2, {ALLOW_IN: PolicyValue(), DENIED: PolicyValue(deny=True, provenance=99)})
    rig.kernel.put_endpoint(rig.entry(2, audit_ingress=True))
    assert send(rig, pod, udp(1000, 80), family) == REDIRECT
    assert send(rig, pod, tcp(1000, 80, SYN), family) == REDIRECT
    assert told(rig) == [(EventKind.NEW_FLOW, 0, 2, 0), (EventKind.AUDIT, Drop.POLICY_DENY, 2, 99)]
    assert rig.kernel.policy(2)[DENIED][1].packets == 1


@families
def test_only_the_audited_direction_passes(rig: Rig, pod: TestRun, family: int) -> None:
    rig.policy(1, {ALLOW_IN: PolicyValue()})
    rig.kernel.put_endpoint(rig.entry(1, audit_ingress=True))
    assert send(rig, pod, tcp(1000, 80, SYN), family) == SHOT
    rig.kernel.put_endpoint(rig.entry(1, audit_egress=True))
    assert send(rig, pod, tcp(1000, 80, SYN), family) == REDIRECT
    # the other end enforces: what it denies is no audit, and the audited first half is not told as if it had passed
    rig.policy(2, {ALLOW_OUT: PolicyValue()})
    rig.take_events()
    assert send(rig, pod, tcp(1001, 80, SYN), family) == SHOT
    assert told(rig) == [(EventKind.DROP, Drop.POLICY, 2, 40)]


@families
def test_end_of_audit_revokes_at_once_both_ways(rig: Rig, pod: TestRun, family: int) -> None:
    rig.policy(2, {ALLOW_OUT: PolicyValue()})
    rig.kernel.put_endpoint(rig.entry(2, audit_ingress=True))
    send(rig, pod, tcp(1000, 80, SYN), family)
    send(rig, pod, tcp(80, 1000), family, sender=2)
    rig.kernel.put_endpoint(rig.entry(2))
    for _ in range(2):
        assert send(rig, pod, tcp(80, 1000), family, sender=2) == SHOT
        assert send(rig, pod, tcp(1000, 80), family) == SHOT
    rig.allow_all()
    assert send(rig, pod, tcp(1000, 80), family) == REDIRECT
    [value] = rig.flows().values()
    assert not abi.FLOW.unpack(value)[4] & 256


@families
def test_held_and_spoofed_stay_drops(rig: Rig, pod: TestRun, family: int) -> None:
    rig.kernel.put_endpoint(rig.entry(2, held=True, audit_ingress=True, audit_egress=True))
    assert send(rig, pod, tcp(1000, 80, SYN), family) == SHOT
    rig.kernel.put_endpoint(rig.entry(2, audit_ingress=True, audit_egress=True))
    stolen = frame(tcp(1000, 80), pod_address(1, family), pod_address(2, family))
    assert pod.run(stolen, rig.plugged[2].ifindex).action == SHOT
    assert [reason for _, reason, _, _ in told(rig)] == [Drop.HELD, Drop.INVALID_SOURCE]


@families
def test_denial_of_a_moment_ago_does_not_outlive_the_begin_of_audit(rig: Rig, pod: TestRun, family: int) -> None:
    rig.policy(2, {ALLOW_OUT: PolicyValue()})
    assert [send(rig, pod, tcp(1000, 80, SYN), family) for _ in range(2)] == [SHOT, SHOT]
    rig.kernel.put_endpoint(rig.entry(2, audit_ingress=True))
    assert send(rig, pod, tcp(1000, 80, SYN), family) == REDIRECT


def test_entries_read_back_as_written(rig: Rig) -> None:
    entry = rig.entry(2, audit_egress=True)
    rig.kernel.put_endpoint(entry)
    found = rig.kernel.endpoints()[2]
    assert (found.audit_ingress, found.audit_egress, found.held) == (False, True, False)
