"""A store, a hub, and one replica of the service on them."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from fairlead.bus_memory import Hub
from fairlead.kv_memory import MemoryKv
from tests.unit.identity.world import Replica, register_nodes, running


@pytest.fixture
def kv() -> MemoryKv:
    return MemoryKv()


@pytest.fixture
def hub() -> Hub:
    return Hub()


@pytest.fixture
async def replica(kv: MemoryKv, hub: Hub) -> AsyncIterator[Replica]:
    async with running(kv, hub) as started:
        await register_nodes(started)
        yield started
