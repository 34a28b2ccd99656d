"""Kills under traffic: what is lost, wrongly dropped or wrongly passed must be nothing."""

from __future__ import annotations

import asyncio

import pytest

from fairlead.address import Address
from services.datapath.operations import PolicyKey, PolicyValue
from tests.bench.datapath_control import tables_of
from tests.kernel import versions as codes
from tests.restart import story, versions
from tests.support import kernels
from tests.support.node import Node

pytestmark = [pytest.mark.kernel, pytest.mark.connected, pytest.mark.timeout(600)]


@pytest.fixture(autouse=True)
def _possible() -> None:
    if reason := kernels.missing():
        pytest.skip(f"real kernel: {reason}")


async def test_kills_lose_and_pass_nothing() -> None:
    figures = await story.run(60, seed=1)
    print("\n".join(figures.lines()))
    assert figures.problems == []
    assert (figures.lost, figures.wrongly_dropped, figures.late, figures.wrongly_passed) == (0, 0, 0, 0), figures
    assert figures.sent > 10_000
    assert figures.changes > 50


def test_kills_amid_moves_between_schemas_lose_and_pass_nothing() -> None:
    if reason := codes.missing():
        pytest.skip(f"MOVES BETWEEN SCHEMAS ARE NOT TESTED: {reason}")
    figures = versions.run_kills(6, seed=1, seconds=120)
    print("\n".join(figures.lines()))
    assert figures.problems == []
    assert (figures.lost, figures.wrongly_dropped, figures.late, figures.wrongly_passed) == (0, 0, 0, 0), figures
    assert figures.sent > 1000
    assert figures.moves


async def test_the_counters_see_what_goes_wrong() -> None:
    async with story.stage() as (made, traffic):
        made.service.kill()
        server = next(number for number, row in _entries(made).items() if Address(story.addresses("server")[0]) in row)
        with tables_of(made) as tables:
            await asyncio.sleep(0.3)
            before = tables.state(server)
            tables._write_state(server, before._replace(flags=3, epoch=before.epoch + 1))  # held
            await asyncio.sleep(0.3)
            tables._write_state(server, before._replace(epoch=before.epoch + 2))
            tables.policies.change(server, {PolicyKey(0, 0, 0, 0): PolicyValue()}, ())
            await asyncio.sleep(0.3)
        figures = story.Figures()
        figures.take_in(await traffic.end())
    assert figures.lost > 50
    assert figures.wrongly_passed > 50
    assert figures.wrongly_dropped + figures.late > 20


def _entries(made: Node) -> dict[int, tuple[Address, ...]]:
    with tables_of(made) as tables:
        return {number: tuple(found) for number, found in tables.addresses_by_endpoint().items()}
