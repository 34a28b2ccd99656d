"""When flows are collected, and what is said of it."""

from __future__ import annotations

import pytest

from fairlead.address import Address
from fairlead.clock import ManualClock
from services.datapath.collector import LONGEST_S, SHORTEST_S, Collection, Collector, next_interval_s
from services.datapath.kernel.fake import FakeKernel
from services.datapath.reports import Event, EventKind
from services.datapath.worker import KernelThread

END = Event(EventKind.CLOSED, 0, 0, 17, Address("10.0.0.2"), Address("10.0.0.3"), 1, 53, 300, 301, 2, 0, 0, 0)


@pytest.mark.parametrize(
    ("deleted", "alive", "fill", "next_s"),
    [
        (0, 0, 0.0, 45.0),
        (1, 99, 0.1, 45.0),
        (10, 90, 0.1, 30.0),
        (50, 50, 0.1, 15.0),
        (99, 1, 0.1, SHORTEST_S),
        (0, 95, 0.95, SHORTEST_S),
    ],
)
def test_interval_follows_what_was_found(deleted: int, alive: int, fill: float, next_s: float) -> None:
    assert next_interval_s(30.0, deleted, alive, fill) == pytest.approx(next_s)


def test_interval_never_leaves_its_bounds() -> None:
    assert next_interval_s(LONGEST_S, 0, 100, 0.1) == LONGEST_S
    assert next_interval_s(SHORTEST_S, 100, 0, 0.1) == SHORTEST_S


def test_a_table_that_is_nearly_full_is_a_condition() -> None:
    assert Collection(alive=90, capacity=100).condition() == ("flow table", True, "")
    name, well, text = Collection(alive=91, capacity=100).condition()
    assert (name, well) == ("flow table", False)
    assert "raise `flows`" in text
    assert Collection(alive=99, capacity=100).condition()[2] == text


async def test_ends_are_told_and_passes_are_counted() -> None:
    kernel, thread, told = FakeKernel(), KernelThread(), list[Event]()
    kernel.world.standing, kernel.world.places, kernel.world.over = 95, 100, [END, END]
    collector = Collector(kernel, thread, ManualClock(), told.extend)
    await collector.once()
    await collector.once()
    found = collector.collection
    assert told == [END, END]
    assert (found.runs, found.deleted, found.alive, found.capacity) == (2, 2, 95, 100)
    assert found.fill == 0.95
    thread.close()
