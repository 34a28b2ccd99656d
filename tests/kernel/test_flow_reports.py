"""What is told of whole flows: their end, and that they last; and what a reader makes of other versions' reports."""

from __future__ import annotations

import struct

import pytest

from services.datapath.kernel import abi
from services.datapath.kernel.testrun import REDIRECT, TestRun
from services.datapath.reports import Event, EventKind
from tests.kernel.packets import ACK, FIN, RST, SYN, TCP, tcp, udp
from tests.kernel.rig import Rig, pod_address
from tests.kernel.sending import families, send

pytestmark = pytest.mark.kernel


def of_flows(rig: Rig) -> list[Event]:
    return [event for event in rig.take_events() if event.kind is not EventKind.NEW_FLOW]


def shake_hands(rig: Rig, pod: TestRun, family: int, client: int = 1) -> None:
    assert send(rig, pod, tcp(1000, 80, SYN), family, client) == REDIRECT
    assert send(rig, pod, tcp(80, 1000, SYN | ACK), family, 3 - client) == REDIRECT
    assert send(rig, pod, tcp(1000, 80), family, client) == REDIRECT


@families
@pytest.mark.parametrize("client", [1, 2])
@pytest.mark.parametrize("responder_first", [False, True])
def test_both_fins_end_a_flow_and_are_told_once(
    rig: Rig, pod: TestRun, family: int, client: int, responder_first: bool
) -> None:
    shake_hands(rig, pod, family, client)
    ends = [(tcp(1000, 80, FIN | ACK), client), (tcp(80, 1000, FIN | ACK), 3 - client)]
    for body, sender in reversed(ends) if responder_first else ends:
        assert of_flows(rig) == []
        assert send(rig, pod, body, family, sender) == REDIRECT
    [event] = of_flows(rig)
    assert event.kind is EventKind.CLOSED
    assert (event.source, event.destination) == (pod_address(client, family), pod_address(3 - client, family))
    assert (event.sport, event.dport, event.protocol) == (1000, 80, TCP)
    assert (event.source_identity, event.destination_identity) == (1000 + client, 1003 - client)
    assert event.packets == (3, 2)
    size = 54 if family == 4 else 74
    assert event.bytes == (3 * size, 2 * size)
    assert event.tcp_flags == (SYN | ACK | FIN, SYN | ACK | FIN)
    assert (event.endpoint, event.direction, event.is_reply) == (3 - client, 0, False)
    assert send(rig, pod, tcp(1000, 80), family, client) == REDIRECT
    assert send(rig, pod, tcp(80, 1000, FIN | ACK), family, 3 - client) == REDIRECT
    assert of_flows(rig) == []


@families
@pytest.mark.parametrize("breaker", [1, 2])
def test_one_reset_ends_a_flow(rig: Rig, pod: TestRun, family: int, breaker: int) -> None:
    shake_hands(rig, pod, family)
    assert send(rig, pod, tcp(1000, 80, RST) if breaker == 1 else tcp(80, 1000, RST | ACK), family, breaker) == REDIRECT
    [event] = of_flows(rig)
    assert event.kind is EventKind.CLOSED
    assert event.tcp_flags[breaker - 1] & RST


@families
def test_connection_on_the_ports_of_one_that_said_half_goodbye_tells_the_end_of_that(
    rig: Rig, pod: TestRun, family: int
) -> None:
    shake_hands(rig, pod, family)
    assert send(rig, pod, tcp(1000, 80, FIN | ACK), family) == REDIRECT
    assert of_flows(rig) == []
    assert send(rig, pod, tcp(1000, 80, SYN), family) == REDIRECT
    [event] = of_flows(rig)
    assert (event.kind, event.packets) == (EventKind.CLOSED, (3, 1))
    [value] = rig.flows().values()
    assert abi.FLOW.unpack(value)[8:10] == (1, 0)


@families
def test_lasting_flow_is_told_once_per_interval_if_wanted(rig: Rig, pod: TestRun, family: int) -> None:
    tables = rig.kernel._tables
    settings = tables.settings()
    table = tables.maps["conntrack"]

    def age(jiffies: int) -> None:
        for key, value in table.items().items():
            (last_seen,) = struct.unpack_from("=Q", value)
            reported_at = abi.FLOW.size - 16
            (reported,) = struct.unpack_from("=Q", value, reported_at)
            older = struct.pack("=Q", last_seen - jiffies) + value[8:reported_at]
            table.put(key, older + struct.pack("=Q", reported - jiffies) + value[reported_at + 8 :])

    assert send(rig, pod, udp(1000, 53), family) == REDIRECT
    age(100 * settings.second // 10)
    assert send(rig, pod, udp(1000, 53), family) == REDIRECT
    assert of_flows(rig) == []
    try:
        tables.set_settings(settings._replace(report_interval=5 * settings.second))
        age(1)
        assert send(rig, pod, udp(1000, 53), family) == REDIRECT
        assert send(rig, pod, udp(1000, 53), family) == REDIRECT
        [event] = of_flows(rig)
        assert (event.kind, event.packets) == (EventKind.LASTING, (3, 0))
        age(2 * settings.second)
        assert send(rig, pod, udp(1000, 53), family) == REDIRECT
        assert of_flows(rig) == []
        age(4 * settings.second)
        assert send(rig, pod, udp(1000, 53), family) == REDIRECT
        assert [event.kind for event in of_flows(rig)] == [EventKind.LASTING]
    finally:
        tables.set_settings(settings)


def test_reports_of_other_versions_are_read_as_far_as_they_go() -> None:
    blank = bytes(8) + b"\0" * 10 + b"\xff\xff\x0a\0\0\1" + b"\0" * 10 + b"\xff\xff\x0a\0\0\2" + bytes(16)
    shortest = blank + struct.pack(">HH", 1000, 80) + struct.pack("=HBBBB6x", 2, 1, 133, 0, 6)
    assert len(shortest) == abi.SHORTEST_EVENT_BYTES
    old = abi.unpack_event(shortest)
    assert old is not None
    assert (old.kind, old.reason, old.sport, old.dport, old.packets) == (EventKind.DROP, 133, 1000, 80, (0, 0))
    assert abi.unpack_event(shortest.ljust(abi.EVENT.size + 40, b"\0")) == old
    unknown = bytearray(shortest)
    unknown[62] = 200
    assert abi.unpack_event(bytes(unknown)) is None
    assert abi.unpack_event(shortest[:40]) is None
