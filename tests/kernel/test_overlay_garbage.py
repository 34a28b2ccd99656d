"""Nonsense out of a tunnel from a node that is known: nothing of it reaches a pod whose policy allows nothing."""

from __future__ import annotations

import socket
from random import Random

import pytest

from tests.kernel.nodes import Fleet, new_fleet, outside, tunnelled
from tests.kernel.packets import SYN, echo, frame, icmp, sctp, tcp, udp
from tests.kernel.rig import IDENTITY, pod_address

pytestmark = pytest.mark.kernel

PACKETS, PORT = 6000, 8472


def whole_frames(family: int) -> list[bytes]:
    bodies = [tcp(1, 2, SYN), tcp(1, 2), udp(1, 2), sctp(1, 2), echo(family, 7), icmp(3, v6=family == 6)]
    ends = pod_address(1, family), pod_address(2, family)
    return [*(frame(body, *ends) for body in bodies), frame(udp(1, 2), *ends, fragment=0x2000 if family == 4 else 1)]


def spoilt(random: Random, packet: bytes) -> bytes:
    """Return the frame with some bytes changed, and cut or made longer now and then."""
    data = bytearray(packet)
    for _ in range(random.randrange(4)):
        data[random.randrange(12, len(data))] = random.randrange(256)
    if random.random() < 0.3:
        return bytes(data[: random.randrange(len(data))])
    return bytes(data) + random.randbytes(random.choice((0, 0, 1, 40)))


def passed(fleet: Fleet) -> int:
    with fleet.on(2) as node:
        return sum(one.packets for one in node.kernel.counters() if one.reason == 0)


def dropped(fleet: Fleet) -> int:
    with fleet.on(2) as node:
        return sum(one.packets for one in node.kernel.counters() if one.reason)


def test_nothing_forbidden_comes_out_of_a_tunnel() -> None:
    random = Random(11)
    with new_fleet() as fleet:
        with fleet.on(2) as node:
            node.policy(2, {})
        before, refused = passed(fleet), dropped(fleet)
        whole = [*whole_frames(4), *whole_frames(6)]
        with fleet.nodes[1].socket_in("n1", socket.SOCK_DGRAM) as sender:
            for _ in range(PACKETS):
                number = random.choice((0, 1, 2, 6, IDENTITY[1], random.randrange(1 << 24)))
                inner = spoilt(random, random.choice(whole))
                sender.sendto(tunnelled("vxlan", number, inner), (str(outside(2, 4)), PORT))
        assert passed(fleet) == before
        assert dropped(fleet) - refused > PACKETS / 2, "most were frames enough to be looked at"
        with fleet.on(2) as node:
            assert not node.flows()
        fleet.reset()
        assert fleet.nodes[1].ping("1", pod_address(2, 4)), "and the node goes on"
