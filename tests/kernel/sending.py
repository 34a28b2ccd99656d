"""What tests of single packets have in common."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from services.datapath.kernel.testrun import TestRun
from tests.kernel.packets import Transport, frame
from tests.kernel.rig import Rig, pod_address

families = pytest.mark.parametrize("family", [4, 6])


def send(rig: Rig, pod: TestRun, body: Transport, family: int, sender: int = 1, *, device: int = 0, **more: int) -> int:
    """Send from one pod to the other, if need be by the device of another; return what the program did."""
    packet = frame(body, pod_address(sender, family), pod_address(3 - sender, family), **more)
    return pod.run(packet, rig.plugged[device or sender].ifindex).action


def carried(sending: socket.socket, receiving: socket.socket, payload: bytes) -> bytes:
    """Send all of it, reading meanwhile, since it may be more than buffers take; return what came."""
    for end in (
        sending,
        receiving,
    ):  # the stack tells a sender of its sizes once a second, whichever test it was told in
        end.settimeout(20)
    received = b""
    with ThreadPoolExecutor(1) as beside:
        sent = beside.submit(sending.sendall, payload)
        while len(received) < len(payload) and (more := receiving.recv(1 << 16)):
            received += more
    sent.result()
    return received


def reasons(rig: Rig) -> list[int]:
    """Return why packets were dropped since the last look."""
    return [event.reason for event in rig.take_events()]
