"""A node and its plugin."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fairlead.bus_memory import Hub
from tests.unit.datapath.world import Control, TestNode
from tests.unit.docker.world import World


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    hub = Hub()
    await Control(hub).start()
    node = TestNode(tmp_path / "datapath", hub)
    await node.start()
    await node.bus.serve("datapath", node.datapath.routes())
    made = World(node, tmp_path)
    await made.start()
    yield made
    await node.stop()
