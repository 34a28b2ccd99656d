"""A small world with one workload in it."""

from __future__ import annotations

import pytest

from tests.unit.cli.world import World


@pytest.fixture
async def world() -> World:
    made = await World().start()
    await made.run("workload", "add", "protected-db", "--node", "n2", "--label", "app=protected-db", "--netns", "/x")
    return made
