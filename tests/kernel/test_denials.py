"""What policy denied is remembered for a moment: cheaper, and otherwise as if it were not."""

from __future__ import annotations

import struct
import time

import pytest

from services.datapath.kernel import abi
from services.datapath.kernel.testrun import OK, REDIRECT, SHOT, TestRun
from services.datapath.operations import PolicyKey, PolicyValue
from services.datapath.reports import DropReason as Drop
from tests.kernel.firewall import IN, OUT, Wires, protect
from tests.kernel.packets import ACK, SYN, TCP, echo, tcp, udp
from tests.kernel.rig import ALLOW_IN, ALLOW_OUT, Rig
from tests.kernel.sending import families, send

pytestmark = pytest.mark.kernel

LONGER_THAN_REMEMBERED_S = 0.03
DENIED = PolicyValue(deny=True)


def drops_counted(rig: Rig, reason: int, direction: int) -> int:
    values = rig.kernel._tables.maps["metrics"].get_per_cpu(struct.pack("=I", reason * 2 + direction))
    return sum(struct.unpack("=QQ", value)[0] for value in values)


@families
def test_every_denied_packet_is_counted_and_reported_alike(rig: Rig, pod: TestRun, family: int) -> None:
    rig.policy(2, {ALLOW_OUT: PolicyValue()})
    before = drops_counted(rig, Drop.POLICY, 0)
    assert [send(rig, pod, udp(1000, 53), family) for _ in range(20)] == [SHOT] * 20
    assert drops_counted(rig, Drop.POLICY, 0) == before + 20
    events = rig.take_events()
    assert len(events) == 20
    told = {
        (e.reason, e.direction, e.endpoint, e.provenance, e.source_identity, e.destination_identity) for e in events
    }
    assert told == {(Drop.POLICY, 0, 2, 40, 1001, 1002)}


@families
def test_entry_that_denies_counts_every_packet(rig: Rig, pod: TestRun, family: int) -> None:
    deny = PolicyKey(1001, 53, 17, 0)
    rig.policy(2, {ALLOW_IN: PolicyValue(), deny: PolicyValue(deny=True, provenance=77)})
    assert [send(rig, pod, udp(1000, 53), family) for _ in range(20)] == [SHOT] * 20
    assert rig.kernel.policy(2)[deny][1].packets == 20
    assert {(e.reason, e.provenance) for e in rig.take_events()} == {(Drop.POLICY_DENY, 77)}


@families
def test_block_of_ports_that_denies_counts_every_packet(rig: Rig, pod: TestRun, family: int) -> None:
    deny = PolicyKey(1001, 48, 17, 0, 13)
    rig.policy(2, {ALLOW_IN: PolicyValue(), deny: PolicyValue(deny=True, provenance=77)})
    assert [send(rig, pod, udp(1000, 53), family) for _ in range(20)] == [SHOT] * 20
    assert rig.kernel.policy(2)[deny][1].packets == 20
    assert {(e.reason, e.provenance) for e in rig.take_events()} == {(Drop.POLICY_DENY, 77)}
    rig.policy(2, {ALLOW_IN: PolicyValue()})
    assert send(rig, pod, udp(1000, 53), family) == REDIRECT
    assert rig.kernel._tables.policies.ranges(2) is None


@families
def test_permission_counts_with_the_next_packet(rig: Rig, pod: TestRun, family: int) -> None:
    for _ in range(50):
        rig.policy(2, {})
        assert send(rig, pod, udp(1000, 53), family) == SHOT
        rig.policy(2, {PolicyKey(1001, 53, 17, 0): PolicyValue()})
        assert send(rig, pod, udp(1000, 53), family) == REDIRECT
        rig.kernel._tables.maps["conntrack"].delete_all(rig.flows())


@families
def test_entry_by_hand_counts_after_a_moment(rig: Rig, pod: TestRun, family: int) -> None:
    rig.policy(2, {ALLOW_OUT: PolicyValue()})
    assert send(rig, pod, udp(1000, 53), family) == SHOT
    table = rig.kernel._tables.policies.table(2)
    assert table is not None
    table.put(abi.pack_policy_key(ALLOW_IN), bytes(24))
    time.sleep(LONGER_THAN_REMEMBERED_S)
    assert send(rig, pod, udp(1000, 53), family) == REDIRECT


@families
def test_denied_deny_entry_that_went_by_hand_is_not_believed(rig: Rig, pod: TestRun, family: int) -> None:
    deny = PolicyKey(1001, 53, 17, 0)
    rig.policy(2, {ALLOW_IN: PolicyValue(), deny: PolicyValue(deny=True)})
    assert send(rig, pod, udp(1000, 53), family) == SHOT
    table = rig.kernel._tables.policies.table(2)
    assert table is not None
    table.delete(abi.pack_policy_key(deny))
    assert send(rig, pod, udp(1000, 53), family) == REDIRECT


@families
def test_reply_passes_though_its_like_was_denied(rig: Rig, pod: TestRun, family: int) -> None:
    rig.policy(1, {ALLOW_OUT: PolicyValue()})
    rig.policy(2, {ALLOW_IN: PolicyValue()})
    assert send(rig, pod, udp(53, 1000), family, sender=2) == SHOT
    assert send(rig, pod, udp(1000, 53), family) == REDIRECT
    assert send(rig, pod, udp(53, 1000), family, sender=2) == REDIRECT


@families
def test_the_other_direction_is_another_question(rig: Rig, pod: TestRun, family: int) -> None:
    rig.policy(1, {ALLOW_IN: PolicyValue()})
    assert send(rig, pod, tcp(1000, 80, SYN), family) == SHOT
    assert send(rig, pod, tcp(80, 1000, SYN), family, sender=2) == REDIRECT


@families
def test_the_same_packet_from_another_device_is_spoofed(rig: Rig, pod: TestRun, family: int) -> None:
    rig.policy(2, {ALLOW_OUT: PolicyValue()})
    assert send(rig, pod, udp(1000, 53), family) == SHOT
    rig.take_events()
    assert send(rig, pod, udp(1000, 53), family, device=2) == SHOT
    assert [event.reason for event in rig.take_events()] == [Drop.INVALID_SOURCE]


@families
def test_echo_request_and_reply_are_not_taken_for_each_other(rig: Rig, pod: TestRun, family: int) -> None:
    request, reply, protocol = (8, 0, 1) if family == 4 else (128, 129, 58)
    assert (echo(family, request).bytes, request) != (echo(family, request, reply=True).bytes, reply)
    rig.policy(2, {PolicyKey(1001, 0, protocol, 0): PolicyValue(), PolicyKey(1001, request, protocol, 0): DENIED})
    assert send(rig, pod, echo(family, request), family) == SHOT
    assert send(rig, pod, echo(family, request, reply=True), family) == REDIRECT


@families
def test_what_the_node_may_not_begin_it_may_still_answer(closed: Rig, wires: Wires, family: int) -> None:
    """From one port to another the node may answer a connection that stood before, and begin none: one is no memory of the other."""
    protect(closed, {PolicyKey(2, 80, TCP, IN): PolicyValue(), PolicyKey(2, 2000, TCP, OUT): DENIED})
    assert wires.leaves(tcp(80, 2000, SYN), family) == SHOT
    assert wires.leaves(tcp(80, 2000, ACK), family) == OK
    protect(closed, {PolicyKey(2, 80, TCP, IN): DENIED, PolicyKey(2, 2001, TCP, OUT): PolicyValue()})
    assert wires.leaves(tcp(80, 2001, ACK), family) == SHOT
    assert wires.leaves(tcp(80, 2001, SYN), family) == OK
