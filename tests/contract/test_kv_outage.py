"""A real etcd that is killed, frozen, emptied: nothing is lost, nothing comes twice, everybody is told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing

import pytest

from fairlead.errors import Unavailable
from fairlead.kv import Compacted, Put
from fairlead.kv_etcd import EtcdKv
from fairlead.kv_memory import MemoryKv
from tests.support.etcd import EtcdServer, etcd, free_port

__all__ = ["etcd"]
pytestmark = pytest.mark.connected


@pytest.fixture
async def kv(etcd: EtcdServer) -> AsyncIterator[EtcdKv]:
    store = EtcdKv(etcd.url, timeout_s=1)
    yield store
    await store.close()


async def test_a_store_that_never_was_is_unavailable_by_address() -> None:
    port = free_port()
    kv = EtcdKv(f"http://127.0.0.1:{port}", timeout_s=1)
    with pytest.raises(Unavailable, match=f"127.0.0.1:{port}"):
        await kv.get("a")
    await kv.close()


async def test_calls_work_again_soon_after_the_store_is_back(etcd: EtcdServer, kv: EtcdKv) -> None:
    await kv.commit([], [Put("a", b"1")])
    etcd.kill()
    deadline = time.monotonic() + 8
    while time.monotonic() < deadline:
        with pytest.raises(Unavailable):
            await kv.get("a")
        await asyncio.sleep(0.1)
    etcd.start()
    back = time.monotonic()
    while True:
        try:
            item = await kv.get("a")
            break
        except Unavailable:
            assert time.monotonic() - back < 2.5, "the channel waits too long before it tries again"
            await asyncio.sleep(0.02)
    assert item is not None
    assert item.value == b"1"


async def test_a_watch_survives_crashes_without_loss_or_duplicate(etcd: EtcdServer, kv: EtcdKv) -> None:
    start = (await kv.list("")).revision
    seen: list[tuple[str, int]] = []

    async def follow() -> None:
        async for batch in kv.watch("a/", start):
            assert len(batch) == 2, "one revision came in pieces"
            seen.extend((change.key, change.revision) for change in batch)

    following = asyncio.create_task(follow())
    written: list[tuple[str, int]] = []
    for number in range(60):
        if number % 20 == 10:
            etcd.kill()
            await asyncio.sleep(0.3)
            etcd.start()
        keys = [f"a/{number}/1", f"a/{number}/2"]
        revision = await commit_until_it_works(kv, keys)
        written += [(key, revision) for key in keys]
    await until(lambda: len(seen) >= len(written), 10)
    assert seen == written
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)


async def until(true: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"not so within {seconds} s"
        await asyncio.sleep(0.02)


async def commit_until_it_works(kv: EtcdKv, keys: list[str]) -> int:
    while True:
        try:
            return await kv.commit([], [Put(key, b"") for key in keys])
        except Unavailable:
            await asyncio.sleep(0.05)


async def test_a_watch_notices_a_store_that_froze(etcd: EtcdServer, kv: EtcdKv) -> None:
    start = (await kv.list("")).revision
    async with aclosing(kv.watch("a", start)) as watch:
        waiting = asyncio.ensure_future(anext(watch))
        await asyncio.sleep(0.5)
        first_calls = set(kv._watching)
        assert first_calls
        etcd.freeze()
        with pytest.raises(Unavailable, match="Deadline"):
            await kv.get("a")
        await until(lambda: not kv._watching & first_calls, 15)
        etcd.thaw()
        revision = await commit_until_it_works(kv, ["a"])
        assert [change.revision for change in await asyncio.wait_for(waiting, 5)] == [revision]


async def test_a_store_that_lost_its_data_is_another_history(etcd: EtcdServer, kv: EtcdKv) -> None:
    for _ in range(10):
        last = await kv.commit([], [Put("a", b"")])
    async with aclosing(kv.watch("a", last)) as watch:
        waiting = asyncio.ensure_future(anext(watch))
        await asyncio.sleep(0.3)
        etcd.kill()
        etcd.wipe()
        etcd.start()
        with pytest.raises(Compacted):
            await asyncio.wait_for(waiting, 10)


async def test_the_next_member_is_used_when_one_fails(etcd: EtcdServer) -> None:
    kv = EtcdKv(f"http://127.0.0.1:{free_port()},{etcd.url}", timeout_s=1)
    with pytest.raises(Unavailable):
        await kv.get("a")
    assert await kv.get("a") is None
    await kv.close()


async def test_memory_that_is_away_pauses_its_watches() -> None:
    kv = MemoryKv()
    waiting = asyncio.ensure_future(anext(kv.watch("a", 1)))
    await kv.commit([], [Put("a", b"1")])
    kv.away = True
    await asyncio.sleep(0)
    assert not waiting.done()
    with pytest.raises(Unavailable):
        await kv.get("a")
    kv.away = False
    assert [change.key for change in await asyncio.wait_for(waiting, 1)] == ["a"]
