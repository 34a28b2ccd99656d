"""Outer ends are freed when no flow has them any more; an end that a flow has is never taken, however long it has been silent."""

from __future__ import annotations

import struct

import pytest

from services.datapath.kernel import abi
from services.datapath.kernel.sweep import Sweeper
from services.datapath.kernel.sweep_outside import AT_ONCE
from services.datapath.kernel.testrun import REDIRECT, TestRun
from tests.kernel.packets import frame, udp
from tests.kernel.rig import FAR, NODE, Rig, pod_address
from tests.kernel.sending import families

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("out")]


def begin(out: Rig, pod: TestRun, family: int, port: int = 1000) -> None:
    """Have pod 1 begin a flow to the world."""
    packet = frame(udp(port, 53), pod_address(1, family), FAR[family])
    assert pod.run(packet, out.plugged[1].ifindex).action == REDIRECT


def rows(out: Rig) -> dict[bytes, bytes]:
    return out.kernel._tables.maps["masquerade"].items()


def age(out: Rig, seconds: int) -> None:
    """Have all outer ends been silent for longer."""
    table, second = out.kernel._tables.maps["masquerade"], out.kernel._tables.settings().second
    for key, value in rows(out).items():
        (seen,) = struct.unpack_from("=Q", value)
        table.put(key, struct.pack("=Q", seen - seconds * second) + value[8:])


def forget_flows(out: Rig) -> None:
    table = out.kernel._tables.maps["conntrack"]
    table.delete_all(table.items())


def sweep(out: Rig) -> tuple[int, int, int]:
    """Return how many ends a pass has left and freed, and how many it has looked at in one slice at most."""
    held, freed, most = 0, 0, 0
    while True:
        part = out.kernel.sweep()
        held, freed, most = held + part.held, freed + part.freed, max(most, part.held + part.freed)
        if part.last:
            return held, freed, most


@families
def test_what_a_flow_has_stays_however_long_it_is_silent(out: Rig, pod: TestRun, network: TestRun, family: int) -> None:
    begin(out, pod, family)
    [(key, _)] = rows(out).items()
    age(out, 100_000)
    for _ in range(2):
        assert sweep(out)[:2] == (1, 0)
    (outer,) = struct.unpack(">H", abi.MASQUERADE_KEY.unpack(key)[3])
    assert network.run(frame(udp(53, outer), FAR[family], NODE[family])).action == REDIRECT


@families
def test_what_no_flow_has_goes_when_it_is_silent(out: Rig, pod: TestRun, family: int) -> None:
    begin(out, pod, family)
    begin(out, pod, family, 1001)
    forget_flows(out)
    age(out, 25)
    assert sweep(out)[:2] == (2, 0)
    begin(out, pod, family)
    age(out, 10)
    assert sweep(out)[:2] == (1, 1)
    [(_, value)] = rows(out).items()
    assert abi.MASQUERADE.unpack(value)[2] == struct.pack(">H", 1000)


@families
def test_an_end_that_its_flow_has_exchanged_for_another_goes(out: Rig, pod: TestRun, family: int) -> None:
    begin(out, pod, family)
    [(key, value)] = rows(out).items()
    fields = list(abi.MASQUERADE_KEY.unpack(key))
    fields[3] = struct.pack(">H", 65535)
    out.kernel._tables.maps["masquerade"].put(abi.MASQUERADE_KEY.pack(*fields), value)
    age(out, 40)
    assert sweep(out)[:2] == (1, 1)
    assert list(rows(out)) == [key]


@families
def test_an_end_that_is_claimed_in_the_very_moment_is_put_back(out: Rig, pod: TestRun, family: int) -> None:
    begin(out, pod, family)
    before = rows(out)
    [key] = before
    sweeper = Sweeper(out.kernel._tables)
    assert not sweeper._outer.free(key)
    sweeper.close()
    assert rows(out) == before


def test_a_pass_over_many_lends_the_thread_in_slices(out: Rig, pod: TestRun) -> None:
    begin(out, pod, 4)
    [(key, value)] = rows(out).items()
    fields = list(abi.MASQUERADE_KEY.unpack(key))
    many = {}
    for number in range(3 * AT_ONCE):
        fields[2] = struct.pack(">H", number + 1000)
        many[abi.MASQUERADE_KEY.pack(*fields)] = value
    out.kernel._tables.maps["masquerade"].put_all(many)
    age(out, 40)
    held, freed, most = sweep(out)
    assert (held, freed) == (1, 3 * AT_ONCE)
    assert most <= AT_ONCE
    assert list(rows(out)) == [key]
