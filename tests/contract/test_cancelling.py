"""What is cancelled ends, at whatever moment: a watch that does not end keeps its owner from following anything else."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest

from fairlead.bus_nats import connect
from fairlead.schema.ipam import CLAIMS
from fairlead.tasks import stop
from tests.support.nats import NatsServer


@pytest.mark.connected
async def test_a_request_cancelled_as_its_answer_comes_is_cancelled(tmp_path: Path) -> None:
    server = NatsServer(tmp_path).start()
    try:
        async with connect(server.url, name="a") as bus:
            await bus.bucket(CLAIMS).ensure()
            waiting = (await bus.client(1.0))._resp_map
            asking = asyncio.create_task(bus.bucket(CLAIMS).ensure())
            answer = await _first(waiting)
            while not answer.done():
                await asyncio.sleep(0)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
    finally:
        server.kill()


@pytest.mark.connected
async def test_who_is_cancelled_while_the_client_has_much_to_send_is_cancelled(tmp_path: Path) -> None:
    server = NatsServer(tmp_path).start()
    try:
        async with connect(server.url, name="a") as bus:
            client = await bus.client(5.0)
            flushing, full = client._flush_queue, asyncio.Queue[asyncio.Future[object]](1)
            full.put_nowait(asyncio.Future())
            client._flush_queue = full
            subscribing = asyncio.create_task(client.subscribe("x"))
            while not full._putters:  # type: ignore[attr-defined]
                await asyncio.sleep(0)
            subscribing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await subscribing
            client._flush_queue = flushing
    finally:
        server.kill()


async def _first(waiting: dict[str, asyncio.Future[object]]) -> asyncio.Future[object]:
    async with asyncio.timeout(5):
        while not waiting:
            await asyncio.sleep(0)
        return next(iter(waiting.values()))


async def test_a_task_that_loses_its_first_cancellation_is_stopped_nevertheless() -> None:
    begun = asyncio.Event()

    async def deaf_once() -> None:
        begun.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        await asyncio.Event().wait()

    task = asyncio.create_task(deaf_once())
    await begun.wait()
    async with asyncio.timeout(20):
        await stop(task)
    assert task.cancelled()


async def test_stopping_what_has_failed_or_ended_is_no_error() -> None:
    async def fail() -> None:
        raise ValueError("no")

    failed, ended = asyncio.create_task(fail()), asyncio.create_task(asyncio.sleep(0))
    await asyncio.wait({failed, ended})
    await stop(failed, ended)
    await stop()
    assert not failed.cancelled()
