from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path

from clients.docker.state import Endpoint, Port, State
from fairlead.address import Address

PORT = Port(protocol="tcp", host_port=8080, port=80)


async def test_changes_at_the_same_time_all_count_in_memory_and_on_disk(tmp_path: Path) -> None:
    state = State(tmp_path)
    state.load()
    made = Endpoint(id="e", network="n", addresses=(Address("10.7.0.2"),), created=datetime(2026, 1, 1, tzinfo=UTC))
    await state.put(made)
    changes: tuple[dict[str, object], ...] = ({"ports": (PORT,)}, {"container": "c"}, {"sandbox": "/s"})
    await asyncio.gather(*(state.change("e", **change) for change in changes))
    again = State(tmp_path)
    again.load()
    for one in (state, again):
        found = one.endpoints["e"]
        assert (found.ports, found.container, found.sandbox) == ((PORT,), "c", "/s")
    await asyncio.gather(state.drop(found), state.drop(found))
    again.load()
    assert again.endpoints == {}
