from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fairlead.table import Status, StatusKind, Table

_DONE = Status(StatusKind.DONE)


def _failed(at_s: float) -> Status:
    return Status(StatusKind.FAILED, "no", 1, at_s)


def test_a_row_is_pending_until_settled() -> None:
    table: Table[str, int] = Table("t")
    assert table.put("a", 1)
    (row,) = table.due(0)
    assert (row.key, row.value, row.status.kind) == ("a", 1, StatusKind.PENDING)
    assert table.settle(row, _DONE)
    assert table.due(0) == []
    assert table.desired() == {"a": 1}


def test_the_same_value_again_is_no_work() -> None:
    table: Table[str, int] = Table("t")
    table.put("a", 1)
    table.settle(table.due(0)[0], _DONE)
    assert not table.put("a", 1)
    assert table.due(0) == []
    assert table.put("a", 2)
    assert len(table.due(0)) == 1


def test_a_result_for_an_older_value_leaves_the_row_pending() -> None:
    table: Table[str, int] = Table("t")
    table.put("a", 1)
    (old,) = table.due(0)
    table.put("a", 2)
    assert not table.settle(old, _DONE)
    assert [row.value for row in table.due(0)] == [2]


def test_removal_is_done_first_and_leaves_when_it_is_done() -> None:
    table: Table[str, int] = Table("t")
    table.put("gone", 1)
    table.settle(table.due(0)[0], _DONE)
    table.put("new", 2)
    assert table.remove("gone")
    assert not table.remove("gone")
    first, second = table.due(0)
    assert (first.key, first.doomed, second.key) == ("gone", True, "new")
    assert table.desired() == {"new": 2}
    table.settle(first, _failed(5))
    assert table.get("gone") is not None
    (again,) = [row for row in table.due(5) if row.doomed]
    table.settle(again, _DONE)
    assert table.get("gone") is None


def test_a_row_wanted_again_while_it_goes_is_not_lost() -> None:
    table: Table[str, int] = Table("t")
    table.put("a", 1)
    table.settle(table.due(0)[0], _DONE)
    table.remove("a")
    (going,) = table.due(0)
    assert table.put("a", 1)
    assert not table.settle(going, _DONE)
    assert [(row.key, row.doomed) for row in table.due(0)] == [("a", False)]


def test_failed_rows_wait_for_their_time() -> None:
    table: Table[str, int] = Table("t")
    table.put("a", 1)
    table.settle(table.due(0)[0], _failed(10))
    assert table.due(9.9) == []
    assert table.next_due_s() == 10
    assert table.failed() == {"a": "no"}
    assert len(table.due(10)) == 1
    table.touch(["a"])
    assert len(table.due(0)) == 1
    assert table.failed() == {}


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["put1", "put2", "remove", "settle", "fail"]))))
def test_settling_everything_gives_what_was_wanted_last(steps: list[tuple[str, str]]) -> None:
    table: Table[str, int] = Table("t")
    wanted: dict[str, int] = {}
    world: dict[str, int] = {}
    for key, step in steps:
        if step.startswith("put"):
            wanted[key] = int(step[-1])
            table.put(key, wanted[key])
        elif step == "remove":
            wanted.pop(key, None)
            table.remove(key)
        else:
            for row in [row for row in table.due(0) if row.key == key]:
                _act(world, row) if step == "settle" else None
                table.settle(row, _DONE if step == "settle" else _failed(0))
    for row in table.due(0):
        _act(world, row)
        table.settle(row, _DONE)
    assert world == wanted == table.desired()
    assert table.due(0) == []
    assert len(table) == len(wanted)


def _act(world: dict[str, int], row: object) -> None:
    if row.doomed:  # type: ignore[attr-defined] # a TableRow
        world.pop(row.key, None)  # type: ignore[attr-defined] # a TableRow
    else:
        world[row.key] = row.value  # type: ignore[attr-defined] # a TableRow
