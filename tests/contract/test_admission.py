"""A start that waits, as a process with a real bus: heard there, ended from there, and not hindered by what is wrong with it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from fairlead.bus_nats import NatsBus
from fairlead.schema.admission import StartNow
from fairlead.schema.base import Empty
from fairlead.schema.health import HEALTH
from tests.support.nats import NatsServer
from tests.support.starts import Start, heard

pytestmark = pytest.mark.connected


@pytest.fixture
def starts() -> Iterator[list[Start]]:
    made: list[Start] = []
    yield made
    for one in made:
        one.end()


async def test_starts_are_heard_and_ended_from_the_bus_that_came_later(tmp_path: Path, starts: list[Start]) -> None:
    server = NatsServer(tmp_path)
    starts += [Start(tmp_path, server.url), Start(tmp_path, server.url, "bgp")]
    server.start()
    bus = NatsBus(server.url, name="person")
    bus.start()
    await bus.client(10)
    try:
        waiting = await heard(bus, StartNow(node="-"), 2)
        assert {(one.node, one.service, one.starts) for one in waiting} == {("n1", "ipam", False), ("n1", "bgp", False)}
        health = {one.service: one for one in await bus.gather(HEALTH, Empty(), wait_s=0.5)}
        assert "waits until" in health["ipam"].conditions[0].detail
        told = await heard(bus, StartNow(node="n1", service="ipam"), 2)
        assert {one.service: one.starts for one in told} == {"ipam": True, "bgp": False}
        status, out, error = starts[0].ended()
        assert (status, out) == (0, "started\n"), error
        assert "a person wants it now" in error
        assert starts[1].process.poll() is None
    finally:
        await bus.close()
        server.kill()


@pytest.mark.parametrize(
    "options",
    [{}, {"FAIRLEAD_NATS_CREDENTIALS": "/no/such/seed"}, {"FAIRLEAD_NATS_AUTHORITY": "/no/such/authority"}],
    ids=["no server", "no credential", "no authority"],
)
def test_a_bus_that_cannot_be_used_changes_nothing(
    tmp_path: Path, starts: list[Start], options: dict[str, str]
) -> None:
    starts.append(Start(tmp_path, "nats://127.0.0.1:1", **options))
    with pytest.raises(subprocess.TimeoutExpired):
        starts[0].process.wait(2.5)
    (tmp_path / "admission" / "start-now").touch()
    status, out, error = starts[0].ended()
    assert (status, out) == (0, "started\n"), error
    assert "Traceback" not in error
    assert len(error.splitlines()) <= 3, error
