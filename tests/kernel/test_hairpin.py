"""A pod that reaches itself by way of the node: always allowed, and back where it came from."""

from __future__ import annotations

import socket
import time

import pytest

from services.datapath.kernel import netlink
from services.datapath.kernel.testrun import REDIRECT, SHOT
from services.datapath.reports import DropReason as Drop
from services.datapath.reports import EventKind
from tests.kernel.packets import SYN, echo, frame, tcp, udp
from tests.kernel.rig import Rig, pod_address
from tests.kernel.sending import families

pytestmark = pytest.mark.kernel


@families
def test_pod_reaches_itself_whatever_policy_says(rig: Rig, family: int) -> None:
    rig.policy(1, {})
    address, pod = pod_address(1, family), rig.program("from_pod")
    for body in (tcp(1000, 80, SYN), tcp(80, 1000), udp(80, 80), echo(family, 5), echo(family, 5, reply=True)):
        after = pod.run(frame(body, address, address), rig.plugged[1].ifindex)
        assert after.action == REDIRECT
        assert after.packet[:12] == rig.plugged[1].pod_mac + rig.plugged[1].host_mac
    assert pod.run(frame(udp(1, 2), address, pod_address(2, family)), rig.plugged[1].ifindex).action == SHOT
    assert [event.reason for event in rig.take_events() if event.kind is EventKind.DROP] == [Drop.POLICY]
    pod.close()


@families
def test_held_pod_does_not_even_reach_itself(rig: Rig, family: int) -> None:
    rig.kernel.put_endpoint(rig.entry(1, held=True))
    address, pod = pod_address(1, family), rig.program("from_pod")
    assert pod.run(frame(udp(1, 2), address, address), rig.plugged[1].ifindex).action == SHOT
    assert [event.reason for event in rig.take_events()] == [Drop.HELD]
    pod.close()


@families
def test_only_the_pod_itself_may_say_so(rig: Rig, family: int) -> None:
    address, pod = pod_address(1, family), rig.program("from_pod")
    assert pod.run(frame(udp(1, 2), address, address), rig.plugged[2].ifindex).action == SHOT
    assert [event.reason for event in rig.take_events()] == [Drop.INVALID_SOURCE]
    pod.close()


@families
def test_frame_comes_back_in_by_the_pods_own_device(rig: Rig, family: int) -> None:
    address = pod_address(1, family)
    with netlink.inside(rig.netns("1")):
        wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    with wire:
        wire.bind(("eth0", 3))
        wire.setblocking(False)
        wire.send(frame(udp(1000, 7600, b"to myself"), address, address))
        deadline = time.monotonic() + 3
        while time.monotonic() < deadline:
            try:
                packet, (_, _, kind, *_) = wire.recvfrom(200)
            except BlockingIOError:
                continue
            if kind == socket.PACKET_HOST and packet.endswith(b"to myself"):
                assert packet[:6] == rig.plugged[1].pod_mac
                return
    pytest.fail("the frame did not come back")
