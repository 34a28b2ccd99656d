"""Packets that are wrong: whatever arrives, nothing passes that policy forbids, and no call fails."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from services.datapath.kernel.testrun import OK, REDIRECT
from services.datapath.operations import PolicyKey, PolicyValue
from tests.fuzz.packets.__main__ import run
from tests.kernel.packets import SYN, arp_request, echo, frame, icmp, solicitation, tcp, udp
from tests.kernel.rig import ALLOW_OUT, FAR, NODE, Rig, pod_address
from tests.kernel.sending import families

pytestmark = pytest.mark.kernel

# test-run itself refuses frames that end within the IP header; test_namespaces sends those through a real device
SHORTEST = {b"\x08\x00": 34, b"\x86\xdd": 54}


def samples(family: int, source: str, destination: str) -> list[bytes]:
    v6 = family == 6
    inner = frame(tcp(1000, 81, SYN), destination, source)[14:]
    return [
        frame(body, source, destination, **more)
        for body, more in (
            (tcp(1000, 81, SYN), {}),
            (udp(1000, 81), {}),
            (echo(family, 9), {}),
            (icmp(1 if v6 else 3, 0, inner, v6=v6), {}),
            (udp(1000, 81), {"fragment": 1 if v6 else 0x2000}),
            (udp(1000, 81), {"fragment": 8 * 185 if v6 else 185}),
        )
    ]


def mutations(packet: bytes, chance: random.Random, count: int) -> Iterator[bytes]:
    """Yield every truncation, then frames with a few bytes changed behind the addresses that identify the ends."""
    for length in range(SHORTEST.get(packet[12:14], 15), len(packet)):
        yield packet[:length]
    for _ in range(count):
        changed = bytearray(packet)
        for _ in range(chance.randint(1, 4)):
            changed[chance.randrange(14, len(changed))] = chance.randrange(256)
        yield bytes(changed)


@pytest.fixture
def closed(rig: Rig) -> Rig:
    """Pod 1 may send nothing, pod 2 may receive only TCP 80 from nobody who exists."""
    rig.policy(1, {})
    rig.policy(2, {PolicyKey(4242, 80, 6, 0): PolicyValue(), ALLOW_OUT: PolicyValue()})
    return rig


@families
def test_nothing_malformed_leaves_a_closed_pod(closed: Rig, family: int) -> None:
    program, chance = closed.program("from_pod"), random.Random(family)
    for destination in (pod_address(2, family), FAR[family], NODE[family]):
        for packet in samples(family, pod_address(1, family), destination):
            for changed in mutations(packet, chance, 150):
                outcome = program.run(changed, closed.plugged[1].ifindex)
                # a neighbour solicitation may come out by chance: its answer goes back to the sender
                answered = outcome.packet[:6] == changed[6:12]
                assert outcome.action not in {OK, REDIRECT} or answered, changed.hex()
    assert not closed.flows()
    program.close()


@families
def test_nothing_malformed_enters_a_closed_pod(closed: Rig, family: int) -> None:
    chance = random.Random(family)
    for name in ("from_network", "from_host"):
        program = closed.program(name)
        for packet in samples(family, FAR[family], pod_address(2, family)):
            for changed in mutations(packet, chance, 300):
                assert program.run(changed).action != REDIRECT, changed.hex()
        program.close()
    assert not closed.flows()


def test_noise_and_broken_neighbour_messages_are_survived(closed: Rig) -> None:
    program, chance = closed.program("from_pod"), random.Random(1)
    mac = closed.plugged[1].pod_mac
    whole = [arp_request("10.7.0.1", "169.254.1.1", mac), solicitation("fd07::1", "fe80::1", mac)]
    for packet in whole:
        for changed in mutations(packet, chance, 300):
            outcome = program.run(changed, closed.plugged[1].ifindex)
            assert outcome.action != OK
            if outcome.action == REDIRECT:
                assert outcome.packet[:6] == changed[6:12]
    for _ in range(500):  # anything that calls itself ARP
        noise = chance.randbytes(12) + b"\x08\x06" + chance.randbytes(chance.randrange(1, 200))
        assert program.run(noise, closed.plugged[1].ifindex).action not in {OK, REDIRECT}
    program.close()


@pytest.mark.timeout(120)
def test_twin_and_programs_agree_on_every_packet() -> None:
    score = run(packets=20_000, seconds=100, seed=20)
    assert not score.disagreements
    assert score.packets >= 20_000
    assert score.flows > 500
    met = {fate.split()[-1] for fate in score.fates}
    assert met >= {"endpoint", "network", "stack", "untouched", "answered", "132", "133", "134", "175", "181", "220"}
    # by tunnels, and as the node's
    assert met >= {"tunnel", "147", "171", "172", "network_as_the_node", "endpoint_as_the_node", "167", "168"}
