from __future__ import annotations

import asyncio
from collections.abc import Mapping
from random import Random

import pytest

from fairlead.clock import ManualClock, SystemClock
from fairlead.errors import Unavailable
from fairlead.reconcile import Pace, Reconciler
from fairlead.table import StatusKind, Table


class World:
    """A dict that can be told to refuse keys, and remembers the order of what was asked of it."""

    def __init__(self) -> None:
        self.rows: dict[str, int] = {}
        self.faulty: set[str] = set()
        self.log: list[str] = []
        self.broken = False

    async def update(self, rows: Mapping[str, int]) -> Mapping[str, str]:
        if self.broken:
            raise ZeroDivisionError("a defect")
        good = {key: value for key, value in rows.items() if key not in self.faulty}
        self.rows.update(good)
        self.log += [f"put {key}" for key in good]
        return dict.fromkeys(rows.keys() - good.keys(), "refused")

    async def delete(self, rows: Mapping[str, int]) -> Mapping[str, str]:
        for key in rows:
            self.rows.pop(key, None)
            self.log.append(f"delete {key}")
        return {}

    async def prune(self, desired: Mapping[str, int]) -> None:
        if self.broken:
            raise Unavailable("the world is away")
        for key in sorted(self.rows.keys() - desired.keys()):
            del self.rows[key]
            self.log.append(f"prune {key}")


def _set_up(**pace: float) -> tuple[World, Table[str, int], Reconciler[str, int], ManualClock]:
    world, table, clock = World(), Table[str, int]("test"), ManualClock()
    return world, table, Reconciler(table, world, clock, pace=Pace(**pace), random=Random(1)), clock  # type: ignore[arg-type] # numbers


async def test_rows_become_real_removals_first() -> None:
    world, table, reconciler, _ = _set_up()
    table.put("a", 1)
    await reconciler.settle_due()
    table.put("b", 2)
    table.remove("a")
    await reconciler.settle_due()
    assert world.log == ["put a", "delete a", "put b"]
    assert world.rows == {"b": 2}


async def test_a_failed_row_is_tried_again_later_and_blocks_nobody() -> None:
    world, table, reconciler, clock = _set_up(retry_s=1.0)
    world.faulty = {"bad"}
    table.put("bad", 1)
    table.put("good", 2)
    await reconciler.settle_due()
    assert world.rows == {"good": 2}
    assert table.failed() == {"bad": "refused"}
    world.faulty = set()
    await reconciler.settle_due()
    assert "bad" not in world.rows
    clock.advance(1.0)
    await reconciler.settle_due()
    assert world.rows["bad"] == 1
    assert table.failed() == {}


async def test_pauses_grow_up_to_their_limit() -> None:
    pace, random = Pace(retry_s=1.0, retry_max_s=8.0), Random(1)
    for attempts, full in [(1, 1.0), (2, 2.0), (3, 4.0), (4, 8.0), (5, 8.0), (5000, 8.0)]:
        pause_s = pace.pause_s(attempts, random)
        assert full / 2 <= pause_s <= full


async def test_nothing_is_pruned_before_everything_is_known() -> None:
    world, table, reconciler, _ = _set_up()
    world.rows = {"old": 9, "kept": 1}
    table.put("kept", 1)
    await reconciler.prune()
    assert "old" in world.rows
    table.initialise()
    await reconciler.prune()
    assert world.rows == {"kept": 1}


async def test_a_defect_in_the_operations_becomes_the_status_of_the_row() -> None:
    world, table, reconciler, _ = _set_up()
    world.broken = True
    table.put("a", 1)
    table.initialise()
    await reconciler.settle_due()
    assert table.failed() == {"a": "ZeroDivisionError: a defect"}
    await reconciler.prune()
    assert reconciler.prune_error == "the world is away"


async def test_a_value_changed_during_the_operation_is_realised_too() -> None:
    world, table, reconciler, _ = _set_up()
    plain = world.update

    async def update(rows: Mapping[str, int]) -> Mapping[str, str]:
        if rows == {"a": 1}:
            table.put("a", 2)
        return await plain(rows)

    world.update = update  # type: ignore[method-assign] # the change has to come in the middle
    table.put("a", 1)
    await reconciler.settle_due()
    assert world.rows == {"a": 2}
    row = table.get("a")
    assert row is not None
    assert row.status.kind is StatusKind.DONE


async def test_rows_that_changed_or_went_before_their_turn_are_not_written_with_their_old_value() -> None:
    world, table, reconciler, _ = _set_up(batch=1)
    plain = world.update

    async def update(rows: Mapping[str, int]) -> Mapping[str, str]:
        if "a" in rows:
            table.put("b", 20)
            table.remove("c")
        return await plain(rows)

    world.update = update  # type: ignore[method-assign] # the change has to come in the middle
    for number, key in enumerate("abc"):
        table.put(key, number)
    await reconciler.settle_due()
    assert world.rows == {"a": 0, "b": 20}
    assert world.log == ["put a", "delete c", "put b"]


async def test_operations_that_are_together_on_their_way_are_told_one_by_one_as_they_end() -> None:
    world, table, reconciler, _ = _set_up(batch=1, at_once=2)
    first, second, told = asyncio.Event(), asyncio.Event(), list[str]()
    gates, begun = {"a": first, "b": second}, list[str]()

    async def update(rows: Mapping[str, int]) -> Mapping[str, str]:
        begun.extend(rows)
        for key in rows:
            await gates.get(key, first).wait()
        return {}

    world.update = update  # type: ignore[method-assign] # has to wait
    reconciler._on_settled = lambda rows: told.extend(row.key for row in rows)
    for key in "abc":
        table.put(key, 1)
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        group.create_task(reconciler.settle_due())
        while begun != ["a", "b"]:
            await asyncio.sleep(0)
        second.set()
        while told != ["b"]:
            await asyncio.sleep(0)
        table.put("a", 2)  # what is on its way is not what is wanted any more: it comes again
        first.set()
    assert begun == ["a", "b", "c", "a"]
    assert not table.due(0.0)


async def test_ten_thousand_rows_are_settled_in_batches() -> None:
    world, table, reconciler, _ = _set_up(batch=1000)
    sizes: list[int] = []
    plain = world.update

    async def update(rows: Mapping[str, int]) -> Mapping[str, str]:
        sizes.append(len(rows))
        return await plain(rows)

    world.update = update  # type: ignore[method-assign] # only listens
    for number in range(10_000):
        table.put(str(number), number)
    await reconciler.settle_due()
    assert sizes == [1000] * 10
    assert len(world.rows) == 10_000


async def test_the_loop_wakes_on_changes_and_on_its_timer() -> None:
    world, table = World(), Table[str, int]("test")
    settled: list[str] = []
    reconciler = Reconciler(
        table,
        world,
        SystemClock(),
        pace=Pace(retry_s=0.02, refresh_s=0.05),
        on_settled=lambda rows: settled.extend(row.key for row in rows),
    )
    task = asyncio.create_task(reconciler.run())
    table.put("a", 1)
    await _until(lambda: world.rows == {"a": 1})
    world.faulty = {"b"}
    table.put("b", 2)
    await _until(lambda: settled.count("b") >= 2)
    world.faulty = set()
    await _until(lambda: world.rows == {"a": 1, "b": 2})
    table.initialise()
    world.rows["foreign"] = 7
    await _until(lambda: "foreign" not in world.rows)
    world.rows["foreign"] = 8
    await _until(lambda: "foreign" not in world.rows)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def _until(condition: object) -> None:
    async with asyncio.timeout(5):
        while not condition():  # type: ignore[operator] # a lambda
            await asyncio.sleep(0.005)


async def test_what_an_earlier_process_made_real_is_settled_at_once() -> None:
    world, table, clock = World(), Table[str, int]("test"), SystemClock()
    world.rows = {"same": 1, "other": 2}

    async def unlike(desired: Mapping[str, int]) -> list[str]:
        table.put("late", 4)  # comes while the world is looked at
        table.put("same-but-changed", 6)
        return [key for key, value in desired.items() if world.rows.get(key) != value]

    for key, value in {"same": 1, "other": 3, "new": 5, "same-but-changed": 1}.items():
        table.put(key, value)
    world.rows["same-but-changed"] = 1
    working = asyncio.create_task(Reconciler(table, world, clock, unlike=unlike).run())
    async with asyncio.timeout(5):
        while table.due(clock.monotonic_s()):
            await asyncio.sleep(0)
    working.cancel()
    assert sorted(world.log) == ["put late", "put new", "put other", "put same-but-changed"]
    assert world.rows == {"same": 1, "other": 3, "new": 5, "late": 4, "same-but-changed": 6}


@pytest.mark.parametrize("known", [True, False])
async def test_what_was_compared_at_the_beginning_is_not_compared_again_before_its_time(*, known: bool) -> None:
    world, table, clock = World(), Table[str, int]("test"), ManualClock()
    world.rows = {"stranger": 2}

    async def unlike(_desired: Mapping[str, int]) -> list[str]:
        return []

    reconciler = Reconciler(table, world, clock, pace=Pace(refresh_s=30), unlike=unlike)
    if known:
        table.initialise()
    await reconciler._take_over()
    table.initialise()
    await reconciler._prune_if_due()
    assert world.log == ([] if known else ["prune stranger"])
    clock.advance(31)
    await reconciler._prune_if_due()
    assert world.log == ["prune stranger"]


async def test_rows_are_worked_on_one_by_one_when_nobody_can_tell_what_stands() -> None:
    world, table, clock = World(), Table[str, int]("test"), SystemClock()

    async def unlike(_desired: Mapping[str, int]) -> list[str]:
        raise Unavailable("the world is away")

    table.put("a", 1)
    working = asyncio.create_task(Reconciler(table, world, clock, unlike=unlike).run())
    async with asyncio.timeout(5):
        while table.due(clock.monotonic_s()):
            await asyncio.sleep(0)
    working.cancel()
    assert world.rows == {"a": 1}
