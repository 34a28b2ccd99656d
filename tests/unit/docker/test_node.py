"""A service of the node that is just being started again is waited for, a moment and no longer."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from clients.docker.node import NodeServices
from fairlead.address import Family, Prefix
from fairlead.bus_memory import MemoryBus
from fairlead.clock import SYSTEM, ManualClock
from fairlead.errors import Unavailable
from fairlead.schema.base import NodeName
from services.ipam.service import Ipam
from services.ipam.store import StateFile

NODE = NodeName("n1")


async def test_who_comes_back_within_a_moment_is_not_missed(tmp_path: Path) -> None:
    bus = MemoryBus()
    ipam = Ipam(NODE, StateFile(tmp_path / "leases.json", NODE), lambda *_: None, SYSTEM)
    await ipam.take([Prefix("10.0.0.0/24")])
    asking = asyncio.create_task(NodeServices(bus, NODE).lease("docker/x", Family.IPV4, None))
    await SYSTEM.sleep(0.3)
    assert not asking.done()
    await bus.serve("ipam", ipam.routes())
    assert await asking in Prefix("10.0.0.0/24")


async def test_who_stays_away_is_told_of() -> None:
    clock = ManualClock()
    with pytest.raises(Unavailable):
        await NodeServices(MemoryBus(), NODE, clock).prefixes()
    assert 1.5 < clock.monotonic_s() < 2
