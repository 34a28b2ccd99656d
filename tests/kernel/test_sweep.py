"""Flows that are over are taken out and told; valid ones never are; the table grows with the option."""

from __future__ import annotations

import struct

import pytest

from services.datapath.kernel import abi
from services.datapath.kernel.flowcalls import Jiffies
from services.datapath.kernel.linux import LinuxKernel
from services.datapath.kernel.sweep import trusted_for
from services.datapath.kernel.testrun import REDIRECT, TestRun
from services.datapath.kernel.tuning import Tuning
from services.datapath.reports import Event, EventKind
from tests.kernel.packets import ACK, FIN, SYN, tcp, udp
from tests.kernel.rig import SMALL, Rig, pod_address
from tests.kernel.sending import families, send

pytestmark = pytest.mark.kernel


def age(rig: Rig, seconds: int) -> None:
    table, second = rig.kernel._tables.maps["conntrack"], rig.kernel._tables.settings().second
    for key, value in table.items().items():
        (seen,) = struct.unpack_from("=Q", value)
        table.put(key, struct.pack("=Q", seen - seconds * second) + value[8:])


def sweep(rig: Rig) -> tuple[int, int, list[Event]]:
    """Return how many flows are left and gone after a pass, and what was told."""
    alive, deleted, told = 0, 0, list[Event]()
    while True:
        part = rig.kernel.sweep()
        alive, deleted, told = alive + part.alive, deleted + part.deleted, [*told, *part.ended]
        if part.last:
            return alive, deleted, told


def test_clock_is_that_of_the_programs(rig: Rig, pod: TestRun) -> None:
    clock = Jiffies()
    before = clock.now()
    assert send(rig, pod, udp(1000, 53), 4) == REDIRECT
    [value] = rig.flows().values()
    assert before <= abi.FLOW.unpack(value)[0] <= clock.now()
    clock.close()


@families
def test_the_end_of_a_silent_flow_tells_the_flags_of_both_directions(rig: Rig, pod: TestRun, family: int) -> None:
    assert send(rig, pod, tcp(1000, 80, SYN), family) == REDIRECT
    assert send(rig, pod, tcp(80, 1000, SYN | ACK), family, sender=2) == REDIRECT
    age(rig, 20_000)
    assert [event.tcp_flags for event in sweep(rig)[2]] == [(SYN, SYN | ACK)]


@families
def test_silent_flow_goes_after_its_time_and_half_a_minute_and_is_told(rig: Rig, pod: TestRun, family: int) -> None:
    assert send(rig, pod, udp(1000, 53), family) == REDIRECT
    assert send(rig, pod, udp(53, 1000), family, sender=2) == REDIRECT
    rig.take_events()
    age(rig, 80)
    assert sweep(rig) == (1, 0, [])
    age(rig, 20)
    alive, deleted, [event] = sweep(rig)
    assert (alive, deleted, event.kind) == (0, 1, EventKind.CLOSED)
    assert (event.source, event.destination) == (pod_address(1, family), pod_address(2, family))
    assert (event.sport, event.dport, event.packets, event.endpoint) == (1000, 53, (1, 1), 2)
    assert (event.source_identity, event.destination_identity) == (1001, 1002)
    assert not rig.flows()


@families
def test_valid_connections_stay_and_told_ends_are_not_told_again(rig: Rig, pod: TestRun, family: int) -> None:
    assert send(rig, pod, tcp(1000, 80, SYN), family) == REDIRECT
    assert send(rig, pod, tcp(80, 1000, SYN | ACK), family, sender=2) == REDIRECT
    assert send(rig, pod, tcp(1000, 80), family) == REDIRECT
    age(rig, 7000)
    assert sweep(rig) == (1, 0, [])
    assert send(rig, pod, tcp(1000, 80, FIN | ACK), family) == REDIRECT
    assert send(rig, pod, tcp(80, 1000, FIN | ACK), family, sender=2) == REDIRECT
    age(rig, 35)
    assert sweep(rig) == (1, 0, [])
    age(rig, 10)
    assert sweep(rig) == (0, 1, [])


def test_what_is_over_is_taken_out_a_few_at_a_time_and_counted_once(
    rig: Rig, pod: TestRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.datapath.kernel.sweep._TAKEN_AT_ONCE", 2)
    for port in range(1000, 1005):
        assert send(rig, pod, udp(port, 53), 4) == REDIRECT
    age(rig, 100)
    assert send(rig, pod, udp(1005, 53), 4) == REDIRECT
    parts = [rig.kernel.sweep()]
    while not parts[-1].last:
        parts.append(rig.kernel.sweep())
    assert [part.deleted for part in parts] == [2, 2, 1, 0]
    assert sum(part.alive for part in parts) == len(rig.flows()) == 1
    assert {event.sport for part in parts for event in part.ended} == set(range(1000, 1005))


def test_timeouts_are_those_of_the_programs() -> None:
    settings = abi.Settings(syn_timeout=1, established_timeout=2, closing_timeout=3, other_timeout=4)
    assert [trusted_for(6, flags, settings) for flags in (0, 2, 2 | 4, 2 | 8, 2 | 4 | 8)] == [1, 2, 2, 2, 3]
    assert trusted_for(17, 2 | 4 | 8, settings) == 4


@families
def test_fragments_go_when_no_stack_waits_for_the_rest(rig: Rig, pod: TestRun, family: int) -> None:
    first = 1 if family == 6 else 0x2000
    assert send(rig, pod, udp(1000, 53), family, fragment=first) == REDIRECT
    table = rig.kernel._tables.maps["fragments"]
    [(key, value)] = table.items().items()
    sweep(rig)
    assert len(table.items()) == 1
    (seen_s,) = struct.unpack_from("=H", value, 6)
    table.put(key, value[:6] + struct.pack("=H", (seen_s - 32) & 0xFFFF))
    sweep(rig)
    assert not table.items()


def test_a_larger_table_takes_the_flows_along(rig: Rig, pod: TestRun) -> None:
    assert send(rig, pod, udp(1000, 53), 4) == REDIRECT
    before = rig.flows()
    larger = LinuxKernel(rig.pins, ("up0",), Tuning(flows=8192, addresses=SMALL.addresses))
    try:
        assert larger.start().adopted
        table = larger._tables.maps["conntrack"]
        assert table.spec.entries == 8192
        assert table.items().keys() == before.keys()
    finally:
        larger.stop()
        rig.kernel.stop()
        rig.kernel.start()
