"""Starts that wait, as people see and end them."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from clients.cli.output import Exit
from fairlead.admission import Record
from fairlead.bus import route
from fairlead.clock import ManualClock
from fairlead.errors import InvalidInput
from fairlead.schema.admission import START_NOW
from fairlead.schema.health import HEALTH
from services.entrypoint import remember
from services.waiting import Waiting
from tests.unit.cli.world import NOW, World


async def waiting(world: World, node: str, service: str, minutes: int) -> Waiting:
    made = Waiting(node, service, NOW + timedelta(minutes=minutes), "its place in the window", ManualClock(NOW))
    await world.bus.serve(service, [route(START_NOW, made.start_now), route(HEALTH, made.health)], shared=False)
    return made


async def test_what_waits_is_listed_in_the_order_of_its_turns_and_nothing_starts() -> None:
    world = await World().start()
    assert "nothing waits" in (await world.run("admission", "list")).text
    starts = [await waiting(world, "n3", "datapath", 14), await waiting(world, "n2", "bgp", 7)]
    lines = (await world.run("admission", "list")).text.splitlines()
    assert lines[1].split()[:5] == ["bgp", "n2", "2026-01-01", "00:07:00", "7m"]
    assert "its place in the window" in lines[2]
    assert not any(one.wanted for one in starts)


@pytest.mark.parametrize(
    ("words", "begun"),
    [
        (("--node", "n2"), [True, True, False]),
        (("--service", "bgp"), [True, False, True]),
        (("--node", "n2", "--service", "bgp"), [True, False, False]),
        (("--all",), [True, True, True]),
    ],
)
async def test_those_that_are_meant_start_and_are_named(words: tuple[str, ...], begun: list[bool]) -> None:
    world = await World().start()
    places = (("n2", "bgp"), ("n2", "ipam"), ("n3", "bgp"))
    starts = [await waiting(world, node, service, 5) for node, service in places]
    found = await world.run("admission", "start-now", *words)
    assert (found.status, [one.wanted for one in starts]) == (Exit.OK, begun)
    assert found.text.endswith(f"{sum(begun)} start now")


async def test_nobody_in_particular_is_refused_and_nobody_there_is_said() -> None:
    world = await World().start()
    with pytest.raises(InvalidInput, match="which starts"):
        await world.run("admission", "start-now")
    found = await world.run("admission", "start-now", "--node", "n9")
    assert found.status == Exit.NO
    assert "admission/start-now" in found.text


async def test_status_shows_who_waits_until_when_and_why_and_asks_no_more_of_them() -> None:
    world = await World().start()
    world.health = []
    await waiting(world, "n3", "datapath", 14)
    found = await world.run("status")
    [line] = [line for line in found.text.splitlines() if line.startswith("datapath  n3")]
    assert line.split()[2] == "waiting"
    assert "not started: waits until 2026-01-01T00:14:00Z (its place in the window)" in line
    assert found.status == Exit.NO


async def test_status_shows_a_start_of_this_machine_that_no_bus_hears_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAIRLEAD_STATE_DIR", str(tmp_path))
    world = await World().start()
    due_s = (NOW + timedelta(minutes=7)).timestamp()
    remember(tmp_path / "admission/bgp.json", Record(due_s=due_s, node="n2", reason="its place in the window"))
    remember(tmp_path / "admission/ipam.json", Record(due_s=due_s, node="n3", reason="heard on the bus too"))
    remember(tmp_path / "admission/policy.json", Record(due_s=NOW.timestamp() - 1, node="p1"))
    await waiting(world, "n3", "ipam", 7)
    found = await world.run("status")
    lines = [line for line in found.text.splitlines() if "waiting" in line]
    assert [line.split()[:3] for line in lines if "not heard" in line] == [["bgp", "n2", "waiting"]]
    assert "waits until 2026-01-01T00:07:00Z (its place in the window)" in found.text
    assert sum("ipam  " in line for line in lines) == 1
    assert "p1" not in "".join(lines)
    assert found.status == Exit.NO
