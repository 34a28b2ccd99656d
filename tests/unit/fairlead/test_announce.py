"""The announcer: what etcd says is what the bucket holds, through every loss."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from fairlead.address import Prefix
from fairlead.announce import Follower, Projector
from fairlead.bus_memory import MemoryBus
from fairlead.errors import Unavailable
from fairlead.kv import Change, Delete, Item, Put
from fairlead.kv_memory import MemoryKv
from fairlead.schema.base import BucketSpec, NodeName
from fairlead.schema.ipam import Claim

CLAIMS = BucketSpec("claims", Claim, owner="test")
"""A table with one writer for all keys."""


def claim(node: str, revision: int) -> Claim:
    return Claim(node=NodeName(node), prefixes=(Prefix("10.0.0.0/24"),), revision=revision)


@asynccontextmanager
async def running(*parts: Follower | Projector[Claim]) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(part.run()) for part in parts]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def settled(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(8):
        while not condition():
            await asyncio.sleep(0.005)


async def test_the_follower_lists_and_then_follows_every_prefix() -> None:
    kv = MemoryKv()
    await kv.commit([], [Put("a/1", b"x"), Put("b/1", b"y"), Put("c/1", b"no")])
    seen: dict[str, bytes] = {}

    async def snapshot(items: dict[str, Item], _revision: int) -> None:
        seen.clear()
        seen.update({key: item.value for key, item in items.items()})

    async def changes(batch: tuple[Change, ...]) -> None:
        for change in batch:
            if change.item is None:
                seen.pop(change.key)
            else:
                seen[change.key] = change.item.value

    follower = Follower(kv, ["a/", "b/"], on_snapshot=snapshot, on_changes=changes)
    async with running(follower):
        await settled(lambda: seen == {"a/1": b"x", "b/1": b"y"})
        revision = await kv.commit([], [Put("a/2", b"z"), Delete("b/1"), Put("c/2", b"no")])
        await settled(lambda: seen == {"a/1": b"x", "a/2": b"z"})
        assert follower.revision == revision


@pytest.mark.parametrize("together", [1, 3])
async def test_commits_that_wait_are_handed_on_together_as_far_as_allowed(together: int) -> None:
    kv = MemoryKv()
    batches: list[tuple[str, ...]] = []
    listed, go = asyncio.Event(), asyncio.Event()

    async def snapshot(_items: dict[str, Item], _revision: int) -> None:
        listed.set()

    async def changes(batch: tuple[Change, ...]) -> None:
        batches.append(tuple(change.key for change in batch))
        await go.wait()

    follower = Follower(kv, ["a/"], on_snapshot=snapshot, on_changes=changes, together=together)
    async with running(follower):
        await listed.wait()
        await kv.commit([], [Put("a/0", b"")])
        await settled(lambda: len(batches) == 1)
        for number in range(1, 8):
            last = await kv.commit([], [Put(f"a/{number}", b""), Put(f"a/{number}-too", b"")])
        for _ in range(100):  # turns of the loop, in which the watch reads as far as it may
            await asyncio.sleep(0)
        go.set()
        await settled(lambda: follower.revision == last)
    told = [key for batch in batches for key in batch]
    assert told == ["a/0", *(f"a/{n}{more}" for n in range(1, 8) for more in ("", "-too"))]
    assert max(map(len, batches)) == 2 * together, "a commit is never torn apart"


async def test_a_projector_makes_the_bucket_equal_and_vouches_for_it() -> None:
    bus = MemoryBus()
    bucket = bus.bucket(CLAIMS)
    await bucket.ensure()
    await bucket.put("old", claim("old", 1))
    projector: Projector[Claim] = Projector(bucket)
    async with running(projector):
        projector.set("n1", claim("n1", 2))
        await asyncio.wait_for(projector.flushed(), 5)
        assert (await bucket.rows()).keys() == {"old", "n1"}, "nothing goes before everything is known"
        projector.replace({"n1": claim("n1", 2), "n2": claim("n2", 3)}, 3)
        await asyncio.wait_for(projector.flushed(), 5)
        assert await bucket.rows() == {"n1": claim("n1", 2), "n2": claim("n2", 3)}
        projector.remove("n1")
        await asyncio.wait_for(projector.flushed(), 5)
        assert (await bucket.rows()).keys() == {"n2"}


async def test_a_lost_bucket_is_filled_anew() -> None:
    bus = MemoryBus()
    bucket = bus.bucket(CLAIMS)
    projector: Projector[Claim] = Projector(bucket)
    async with running(projector):
        projector.replace({"n1": claim("n1", 2)}, 2)
        await asyncio.wait_for(projector.flushed(), 5)
        bus.hub.drop_bucket("claims")
        await settled(lambda: "n1" in bus.hub.tables.get("claims", {}))
    assert await bucket.rows() == {"n1": claim("n1", 2)}


async def test_while_the_hub_is_away_rows_wait() -> None:
    bus = MemoryBus()
    projector: Projector[Claim] = Projector(bus.bucket(CLAIMS))
    async with running(projector):
        projector.replace({"n1": claim("n1", 2)}, 2)
        await asyncio.wait_for(projector.flushed(), 5)
        bus.hub.up = False
        projector.set("n2", claim("n2", 3))
        projector.remove("n1")
        await asyncio.sleep(0.1)
        assert not projector.is_flushed
        bus.hub.up = True
        await asyncio.wait_for(projector.flushed(), 5)
        assert bus.hub.tables["claims"].keys() == {"n2"}


async def test_equal_rows_are_not_written_again() -> None:
    bus = MemoryBus()
    bucket = bus.bucket(CLAIMS)
    projector: Projector[Claim] = Projector(bucket)
    async with running(projector):
        projector.replace({"n1": claim("n1", 2)}, 2)
        await asyncio.wait_for(projector.flushed(), 5)
        queue: asyncio.Queue[tuple[str, bytes | None]] = asyncio.Queue()
        bus.hub.watchers["claims"].append(queue)
        projector.replace({"n1": claim("n1", 2)}, 2)
        projector.set("n1", claim("n1", 2))
        await asyncio.wait_for(projector.flushed(), 5)
        written = [queue.get_nowait() for _ in range(queue.qsize())]
        assert [key for key, _ in written if key] == []


async def test_in_a_bucket_of_one_row_per_node_only_ours_is_touched() -> None:
    bus = MemoryBus()
    bucket = bus.bucket(BucketSpec("claims", Claim, owner="test", node_keyed=True))
    await bucket.ensure()
    await bucket.put("n1", claim("n1", 1))
    await bucket.put("n2", claim("n2", 1))
    projector: Projector[Claim] = Projector(bucket)
    async with running(projector):
        projector.replace({"n1": claim("n1", 2)}, 2)
        await asyncio.wait_for(projector.flushed(), 5)
        assert await bucket.rows() == {"n1": claim("n1", 2), "n2": claim("n2", 1)}
        assert "claims" not in bus.hub.complete, "one node does not vouch for the others"
        projector.remove("n1")
        await asyncio.wait_for(projector.flushed(), 5)
        assert (await bucket.rows()).keys() == {"n2"}


async def test_rows_that_go_out_together_all_arrive_though_the_hub_fails_some() -> None:
    bucket = MemoryBus().bucket(CLAIMS)
    on_their_way, most, failures = 0, 0, 7
    put = bucket.put

    async def slow(key: str, row: Claim) -> None:
        nonlocal on_their_way, most, failures
        on_their_way += 1
        most = max(most, on_their_way)
        await asyncio.sleep(0)
        on_their_way -= 1
        if failures:
            failures -= 1
            raise Unavailable("the hub is away")
        await put(key, row)

    bucket.put = slow  # type: ignore[method-assign] # a slow way to the real one
    projector = Projector(bucket, at_once=8)
    projector.replace({f"n{number}": claim(f"n{number}", 1) for number in range(20)}, 1)
    async with running(projector):
        await asyncio.wait_for(projector.flushed(), 8)
    assert len(await bucket.rows()) == 20
    assert most == 8
