"""One node on the kernel in dicts, and the services that it talks to, over one bus in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fairlead.bus_memory import Hub
from tests.unit.datapath.world import Control, TestNode


@pytest.fixture
def hub() -> Hub:
    return Hub()


@pytest.fixture
async def control(hub: Hub) -> Control:
    made = Control(hub)
    await made.start()
    return made


@pytest.fixture
async def node(tmp_path: Path, hub: Hub) -> AsyncIterator[TestNode]:
    made = TestNode(tmp_path, hub)
    await made.start()
    yield made
    await made.stop()
