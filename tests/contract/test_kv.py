"""What every store promises: the same asserts on memory and on a real etcd."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing

import pytest

from fairlead.errors import Conflict, InvalidInput, NotFound, Unavailable
from fairlead.kv import Change, Check, Compacted, Delete, Item, Kv, Put
from fairlead.kv_etcd import EtcdKv
from fairlead.kv_memory import MemoryKv
from tests.support.etcd import EtcdServer, shared_etcd

__all__ = ["shared_etcd"]
_NUMBERS = itertools.count()
Compact = Callable[[int], None]


@pytest.fixture(params=["memory", pytest.param("etcd", marks=pytest.mark.connected)])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[tuple[Kv, Compact]]:
    if request.param == "memory":
        memory = MemoryKv()
        yield memory, memory.compact
        await memory.close()
        return
    server: EtcdServer = request.getfixturevalue("shared_etcd")
    kv = EtcdKv(server.url)

    def compact(revision: int) -> None:
        server.ctl("compact", str(revision))

    yield kv, compact
    await kv.close()


@pytest.fixture
def kv(store: tuple[Kv, Compact]) -> Kv:
    return store[0]


@pytest.fixture
def prefix() -> str:
    return f"test/{next(_NUMBERS)}/"


async def put(kv: Kv, key: str, value: bytes = b"v") -> int:
    return await kv.commit([], [Put(key, value)])


async def within(seconds: float, work: Awaitable[tuple[Change, ...]]) -> tuple[Change, ...]:
    return await asyncio.wait_for(work, seconds)


async def test_get_tells_value_and_revisions(kv: Kv, prefix: str) -> None:
    assert await kv.get(prefix + "a") is None
    first = await put(kv, prefix + "a", b"1")
    second = await put(kv, prefix + "a", b"2")
    assert await kv.get(prefix + "a") == Item(prefix + "a", b"2", second, first)


async def test_list_is_sorted_and_keeps_to_the_prefix(kv: Kv, prefix: str) -> None:
    for name in ("b", "a/2", "a/1"):
        await put(kv, prefix + name)
    last = await put(kv, prefix.removesuffix("/") + "0", b"just behind the prefix")
    listing = await kv.list(prefix)
    assert [item.key for item in listing.items] == [prefix + "a/1", prefix + "a/2", prefix + "b"]
    assert listing.revision >= last


async def test_list_of_nothing_still_has_a_revision(kv: Kv, prefix: str) -> None:
    last = await put(kv, "elsewhere")
    listing = await kv.list(prefix)
    assert listing.items == ()
    assert listing.revision >= last


async def test_list_of_five_megabytes_in_ten_thousand_keys(kv: Kv, prefix: str) -> None:
    value = b"x" * 500
    for start in range(0, 10_000, 100):
        await kv.commit([], [Put(f"{prefix}{number:05}", value) for number in range(start, start + 100)])
    listing = await kv.list(prefix)
    assert [item.key for item in listing.items] == [f"{prefix}{number:05}" for number in range(10_000)]
    assert sum(len(item.value) for item in listing.items) == 5_000_000


async def test_commit_is_all_or_nothing(kv: Kv, prefix: str) -> None:
    revision = await put(kv, prefix + "a", b"old")
    with pytest.raises(Conflict, match=prefix + "a"):
        await kv.commit([Check(prefix + "b", 0), Check(prefix + "a", revision - 1)], [Put(prefix + "b", b"new")])
    assert await kv.get(prefix + "b") is None
    changed = await kv.commit([Check(prefix + "a", revision)], [Put(prefix + "b", b"new"), Delete(prefix + "a")])
    assert await kv.get(prefix + "a") is None
    made = await kv.get(prefix + "b")
    assert made is not None
    assert made.revision == changed > revision


async def test_zero_means_that_the_key_does_not_exist(kv: Kv, prefix: str) -> None:
    await kv.commit([Check(prefix + "a", 0)], [Put(prefix + "a", b"mine")])
    with pytest.raises(Conflict):
        await kv.commit([Check(prefix + "a", 0)], [Put(prefix + "a", b"theirs")])
    await kv.commit([], [Delete(prefix + "a")])
    await kv.commit([Check(prefix + "a", 0)], [Put(prefix + "a", b"again")])


async def test_deleting_what_is_not_there_is_no_change(kv: Kv, prefix: str) -> None:
    before = await put(kv, prefix + "a")
    assert await kv.commit([], [Delete(prefix + "nothing")]) == before
    assert await kv.commit([], []) == before


async def test_what_is_too_much_or_twice_is_refused(kv: Kv, prefix: str) -> None:
    with pytest.raises(InvalidInput, match="at most 100"):
        await kv.commit([], [Put(f"{prefix}{number}", b"") for number in range(101)])
    with pytest.raises(InvalidInput):
        await kv.commit([], [Put(prefix, b"1"), Put(prefix, b"2")])
    assert (await kv.list(prefix)).items == ()


async def test_two_writers_never_lose_an_update(kv: Kv, prefix: str) -> None:
    async def add(times: int) -> int:
        refused = 0
        while times:
            item = await kv.get(prefix + "n")
            check, value = (Check(prefix + "n", item.revision), item.value) if item else (Check(prefix + "n", 0), b"0")
            await asyncio.sleep(0)
            try:
                await kv.commit([check], [Put(prefix + "n", str(int(value) + 1).encode())])
            except Conflict:
                refused += 1
            else:
                times -= 1
        return refused

    refused = await asyncio.gather(add(50), add(50))
    item = await kv.get(prefix + "n")
    assert item is not None
    assert item.value == b"100"
    assert sum(refused) > 0, "the writers never met: the test shows nothing"


async def test_watch_gives_history_then_news_in_batches_of_one_revision(kv: Kv, prefix: str) -> None:
    first = await put(kv, prefix + "a", b"1")
    await put(kv, "elsewhere")
    async with aclosing(kv.watch(prefix, first - 1)) as watch:
        assert await within(5, anext(watch)) == (Change(prefix + "a", Item(prefix + "a", b"1", first, first), first),)
        waiting = asyncio.create_task(within(5, anext(watch)))
        await asyncio.sleep(0.05)
        both = await kv.commit([], [Put(prefix + "a", b"2"), Put(prefix + "b", b"3"), Put("elsewhere", b"4")])
        assert {(change.key, change.item and change.item.value, change.revision) for change in await waiting} == {
            (prefix + "a", b"2", both),
            (prefix + "b", b"3", both),
        }
        gone = await kv.commit([], [Delete(prefix + "a")])
        assert await within(5, anext(watch)) == (Change(prefix + "a", None, gone),)


async def test_watch_sees_every_one_of_ten_thousand_changes_once(kv: Kv, prefix: str) -> None:
    start = (await kv.list(prefix)).revision
    for begin in range(0, 10_000, 100):
        await kv.commit([], [Put(f"{prefix}{number:05}", b"x" * 500) for number in range(begin, begin + 100)])
    seen: list[str] = []
    async with aclosing(kv.watch(prefix, start)) as watch:
        while len(seen) < 10_000:
            batch = await within(10, anext(watch))
            assert len(batch) == 100
            seen += [change.key for change in batch]
    assert sorted(seen) == [f"{prefix}{number:05}" for number in range(10_000)]


async def test_forgotten_history_is_said_and_not_skipped(store: tuple[Kv, Compact], prefix: str) -> None:
    kv, compact = store
    old = await put(kv, prefix + "a", b"1")
    await put(kv, prefix + "a", b"2")
    await kv.commit([], [Delete(prefix + "a")])
    last = await put(kv, prefix + "b")
    compact(last)
    with pytest.raises(Compacted):
        await within(5, anext(kv.watch(prefix, old)))
    with pytest.raises(Compacted):
        await within(5, anext(kv.watch(prefix, last - 1)))
    async with aclosing(kv.watch(prefix, last)) as watch:
        news = await put(kv, prefix + "c")
        assert (await within(5, anext(watch)))[0].revision == news


async def test_a_revision_from_the_future_means_another_history(kv: Kv, prefix: str) -> None:
    with pytest.raises(Compacted):
        await within(5, anext(kv.watch(prefix, (await kv.list(prefix)).revision + 1000)))


async def test_a_lease_ends_with_all_its_keys_unless_kept_alive(kv: Kv, prefix: str) -> None:
    kept, left = await kv.grant(1), await kv.grant(1)
    start = await kv.commit([], [Put(prefix + "kept", b"", kept), Put(prefix + "left", b"", left)])
    async with aclosing(kv.watch(prefix, start)) as watch:
        waiting = asyncio.create_task(within(20, anext(watch)))
        while not waiting.done():
            assert await kv.keep_alive(kept)
            await asyncio.sleep(0.2)
        assert [(change.key, change.item) for change in await waiting] == [(prefix + "left", None)]
    assert not await kv.keep_alive(left)
    assert await kv.get(prefix + "kept") is not None
    with pytest.raises(NotFound):
        await kv.commit([], [Put(prefix + "x", b"", left)])


async def test_a_put_without_the_lease_frees_the_key_from_it(kv: Kv, prefix: str) -> None:
    lease = await kv.grant(1)
    await kv.commit([], [Put(prefix + "freed", b"", lease), Put(prefix + "bound", b"", lease)])
    start = await put(kv, prefix + "freed")
    async with aclosing(kv.watch(prefix, start)) as watch:
        async with asyncio.timeout(20):
            waiting = asyncio.ensure_future(anext(watch))
            while not waiting.done():
                await asyncio.sleep(0.2)
                await kv.get(prefix)
        assert [change.key for change in waiting.result()] == [prefix + "bound"]
    assert await kv.get(prefix + "freed") is not None


async def test_keys_that_are_not_utf8_survive(kv: Kv, prefix: str) -> None:
    odd = prefix + "ä\udcff"
    await put(kv, odd)
    assert [item.key for item in (await kv.list(prefix)).items] == [odd]


async def test_closing_ends_watches_and_refuses_calls(kv: Kv, prefix: str) -> None:
    start = await put(kv, prefix)

    async def drain() -> int:
        return len([batch async for batch in kv.watch(prefix, start)])

    waiting = asyncio.create_task(drain())
    await asyncio.sleep(0.2)
    await kv.close()
    assert await asyncio.wait_for(waiting, 5) == 0
    with pytest.raises(Unavailable):
        await kv.get(prefix)
