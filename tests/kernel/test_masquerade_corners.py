"""Masquerade where a flow is not what it was: only audited, over, without an outer end, or with a far end that has moved."""

from __future__ import annotations

import struct
import time

import pytest

from fairlead.address import Prefix
from services.datapath.kernel.testrun import REDIRECT, SHOT, TestRun
from services.datapath.outside import Masquerade
from services.datapath.reports import DropReason as Drop
from services.datapath.reports import EventKind
from tests.kernel.outside import BOTH, ON, drops
from tests.kernel.packets import ACK, RST, SYN, Transport, frame, icmp, tcp, udp
from tests.kernel.rig import Rig, pod_address, run
from tests.kernel.sending import families

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("out")]

LONGER_THAN_A_WAY_IS_KEPT_S = 0.03
WORLD = {4: "198.51.100.7", 6: "2001:db8:7::7"}


def leaves(out: Rig, pod: TestRun, body: Transport, family: int) -> tuple[int, bool]:
    """Send from pod 1 to the world; return the action, and whether the pod's own address is on the packet."""
    packet = frame(body, pod_address(1, family), WORLD[family])
    outcome = pod.run(packet, out.plugged[1].ifindex)
    ends = slice(26, 30) if family == 4 else slice(22, 38)
    return outcome.action, outcome.packet[ends] == packet[ends]


@families
def test_what_is_only_audited_is_told_once_however_often_its_way_is_asked_for(
    out: Rig, pod: TestRun, family: int
) -> None:
    out.policy(1, {})
    out.kernel.put_endpoint(out.entry(1, audit_egress=True))
    for _ in range(3):
        assert leaves(out, pod, udp(1000, 53), family) == (REDIRECT, False)
        time.sleep(LONGER_THAN_A_WAY_IS_KEPT_S)
    assert [event.kind for event in out.take_events()] == [EventKind.AUDIT]
    out.kernel.put_endpoint(out.entry(1, audit_egress=True))
    assert leaves(out, pod, udp(1000, 53), family) == (REDIRECT, False)
    assert [event.kind for event in out.take_events()] == [EventKind.AUDIT]


@families
def test_the_end_of_a_flow_that_is_over_does_not_leave_with_the_pods_address(
    out: Rig, pod: TestRun, family: int
) -> None:
    out.kernel.set_masquerade(Masquerade())
    assert leaves(out, pod, tcp(1000, 80, SYN), family) == (REDIRECT, True)
    table = out.kernel._tables.maps["conntrack"]
    for key, value in out.flows().items():
        table.put(key, struct.pack("=Q", 1) + value[8:])
    out.kernel.set_masquerade(ON)
    assert leaves(out, pod, tcp(1000, 80, RST), family)[0] == SHOT
    assert drops(out) == [Drop.NO_MAPPING]
    assert leaves(out, pod, tcp(1000, 80, ACK), family) == (REDIRECT, False)


@families
def test_an_error_about_a_flow_without_an_outer_end_is_dropped(
    out: Rig, pod: TestRun, network: TestRun, family: int
) -> None:
    out.kernel.set_masquerade(Masquerade(BOTH, 61000, 61000))
    assert leaves(out, pod, udp(1, 53), family) == (REDIRECT, False)
    assert leaves(out, pod, udp(2, 53), family)[0] == SHOT
    answer = frame(udp(53, 2), WORLD[family], pod_address(1, family))
    assert network.run(answer).action == REDIRECT
    out.take_events()
    error = icmp(1 if family == 6 else 3, 0, answer[14:], v6=family == 6)
    assert leaves(out, pod, error, family)[0] == SHOT
    assert drops(out) == [Drop.NO_MAPPING]


@families
def test_a_flow_whose_far_end_becomes_the_node_goes_to_the_stack(out: Rig, pod: TestRun, family: int) -> None:
    assert leaves(out, pod, udp(1000, 53), family) == (REDIRECT, False)
    own = f"{WORLD[family]}/{32 if family == 4 else 128}"
    run("ip", "addr", "add", own, "dev", "lo")
    out.kernel.apply_addresses({Prefix(own): 1}, ())
    try:
        for _ in range(2):
            assert leaves(out, pod, udp(1000, 53), family) == (REDIRECT, True)
    finally:
        run("ip", "addr", "del", own, "dev", "lo")
