"""One suite for the buckets of the real bus and of its twin in memory: what services rely on."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import pytest

from fairlead.address import Prefix
from fairlead.bus import Bus, Changed, Deleted, Keys, Restarted, Synced
from fairlead.bus_nats import connect
from fairlead.bus_nats.bucket import NatsBucket
from fairlead.schema.base import NodeName
from fairlead.schema.ipam import CLAIMS, Claim
from tests.support.buses import until_joined
from tests.support.nats import NatsServer


def claim(node: str, revision: int = 1) -> Claim:
    return Claim(node=NodeName(node), prefixes=(Prefix("10.0.1.0/24"),), revision=revision)


async def test_a_bucket_is_listed_then_followed(pair: tuple[Bus, Bus]) -> None:
    first, second = pair
    bucket = first.bucket(CLAIMS)
    await bucket.ensure()
    await bucket.put("n1", claim("n1"))
    await bucket.mark_complete(1)
    async with contextlib.aclosing(second.bucket(CLAIMS).watch()) as events:
        assert [await next_event(events) for _ in range(3)] == [
            Restarted(),
            Changed.to("n1", claim("n1")),
            Synced(complete=True),
        ]
        await bucket.put("n2", claim("n2"))
        await bucket.delete("n1")
        assert [await next_event(events) for _ in range(2)] == [Changed.to("n2", claim("n2")), Deleted("n1")]
    assert await second.bucket(CLAIMS).rows() == {"n2": claim("n2")}
    assert await second.bucket(CLAIMS).get("n1") is None
    assert await second.bucket(CLAIMS).get("n2") == claim("n2")


async def next_event(events: object) -> object:
    return await asyncio.wait_for(anext(events), 10)  # type: ignore[call-overload]


async def test_a_watch_of_some_keys_hears_only_them(pair: tuple[Bus, Bus]) -> None:
    first, second = pair
    bucket = first.bucket(CLAIMS)
    await bucket.ensure()
    async with contextlib.aclosing(second.bucket(CLAIMS).watch(Keys(["n2"]))) as events:
        assert [await next_event(events) for _ in range(2)] == [Restarted(frozenset({"n2"})), Synced(complete=False)]
        await bucket.put("n1", claim("n1"))
        await bucket.put("n2", claim("n2"))
        assert await next_event(events) == Changed.to("n2", claim("n2"))


async def test_keys_that_are_wanted_later_are_told_of_without_a_new_listing(pair: tuple[Bus, Bus]) -> None:
    first, second = pair
    bucket, keys = first.bucket(CLAIMS), Keys(["n1"])
    await bucket.ensure()
    for key in ("n1", "n2", "n3"):
        await bucket.put(key, claim(key))
    await bucket.delete("n3")
    async with contextlib.aclosing(second.bucket(CLAIMS).watch(keys)) as events:
        listed = [Restarted(frozenset({"n1"})), Changed.to("n1", claim("n1")), Synced(complete=False)]
        assert [await next_event(events) for _ in listed] == listed
        keys.want(["n1", "n2", "n4"])
        assert await next_event(events) == Changed.to("n2", claim("n2"))
        await bucket.put("n4", claim("n4"))
        await bucket.put("n2", claim("n2", 2))
        changed = [Changed.to("n4", claim("n4")), Changed.to("n2", claim("n2", 2))]
        assert [await next_event(events) for _ in changed] == changed
        keys.want(["n4"])
        await bucket.put("n4", claim("n4", 2))
        assert await next_event(events) == Changed.to("n4", claim("n4", 2))
        await bucket.put("n1", claim("n1", 2))
        await bucket.put("n4", claim("n4", 3))
        assert await next_event(events) == Changed.to("n4", claim("n4", 3)), "n1 is wanted no longer"


async def test_a_key_that_is_wanted_later_and_has_no_row_is_gone_if_the_owner_vouches_for_it(
    pair: tuple[Bus, Bus],
) -> None:
    first, second = pair
    bucket, keys = first.bucket(CLAIMS), Keys(["n1"])
    await bucket.ensure()
    async with contextlib.aclosing(second.bucket(CLAIMS).watch(keys)) as events:
        assert [await next_event(events) for _ in range(2)] == [Restarted(frozenset({"n1"})), Synced(complete=False)]
        keys.want(["n1", "n2"])
        await bucket.mark_complete(1)
        assert await next_event(events) == Synced(complete=True), "nothing is said of n2 before"
        keys.want(["n1", "n2", "n3"])
        assert await next_event(events) == Deleted("n3")


async def test_many_keys_are_wanted_at_once_and_again_others_amid_the_listing(pair: tuple[Bus, Bus]) -> None:
    first, second = pair
    bucket, keys = first.bucket(CLAIMS), Keys(["n0"])
    await bucket.ensure()
    names = [f"n{number}" for number in range(100)]
    for name in names:
        await bucket.put(name, claim(name))
    seen: set[str] = set()
    async with contextlib.aclosing(second.bucket(CLAIMS).watch(keys)) as events:
        assert isinstance(await next_event(events), Restarted)
        keys.want(names[:50])
        while len(seen) < 60:
            event = await next_event(events)
            if isinstance(event, Changed):
                seen.add(event.key)
            if len(seen) == 20:
                keys.want(names[:60])
    assert seen == set(names[:60])


async def test_ensure_returns_the_same_incarnation_while_the_bucket_lives(pair: tuple[Bus, Bus]) -> None:
    first, second = pair
    assert await first.bucket(CLAIMS).ensure() == await second.bucket(CLAIMS).ensure()


@pytest.mark.connected
async def test_a_watch_survives_the_hub_and_the_bucket(tmp_path: Path) -> None:
    server = NatsServer(tmp_path).start()
    try:
        async with connect(server.url, name="a") as bus:
            bucket = bus.bucket(CLAIMS)
            await until_joined(bus)
            await bucket.put("n1", claim("n1"))
            async with contextlib.aclosing(bucket.watch()) as events:
                assert [await next_event(events) for _ in range(2)] == [Restarted(), Changed.to("n1", claim("n1"))]
                assert isinstance(await next_event(events), Synced)
                server.kill()
                server.start()
                await until_joined(bus)
                await bucket.put("n2", claim("n2"))
                assert await next_event(events) == Changed.to("n2", claim("n2")), "resumed, not listed again"
                js = await bus.jetstream()
                await js.delete_stream("KV_claims")
                await bucket.ensure()
                await bucket.put("n3", claim("n3"))
                assert [await next_event(events) for _ in range(2)] == [Restarted(), Changed.to("n3", claim("n3"))]
    finally:
        server.kill()


@pytest.mark.connected
async def test_keys_wanted_while_the_hub_is_away_are_told_of_when_it_is_back(tmp_path: Path) -> None:
    server, keys = NatsServer(tmp_path).start(), Keys(["n1"])
    try:
        async with connect(server.url, name="a") as bus:
            bucket = bus.bucket(CLAIMS)
            await until_joined(bus)
            for key in ("n1", "n2"):
                await bucket.put(key, claim(key))
            async with contextlib.aclosing(bucket.watch(keys)) as events:
                listed = [Restarted(frozenset({"n1"})), Changed.to("n1", claim("n1")), Synced(complete=False)]
                assert [await next_event(events) for _ in listed] == listed
                server.kill()
                keys.want(["n1", "n2"])
                server.start()
                assert await next_event(events) == Changed.to("n2", claim("n2"))
    finally:
        server.kill()


@pytest.mark.connected
async def test_a_row_that_changes_while_it_is_asked_for_is_told_once_and_never_in_an_older_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, keys = NatsServer(tmp_path).start(), Keys(["n1"])
    try:
        async with connect(server.url, name="a") as bus:
            bucket = NatsBucket(bus, CLAIMS)
            await until_joined(bus)
            async with contextlib.aclosing(bucket.watch(keys)) as events:
                assert [await next_event(events) for _ in range(2)] == [
                    Restarted(frozenset({"n1"})),
                    Synced(complete=False),
                ]
                last = bucket._last

                async def changes_first(*asked: Any) -> Any:
                    for revision in (2, 3):
                        await bucket.put("n2", claim("n2", revision))
                    return await last(*asked)

                monkeypatch.setattr(bucket, "_last", changes_first)
                keys.want(["n1", "n2"])
                assert await next_event(events) == Changed.to("n2", claim("n2", 3))
                await bucket.put("n2", claim("n2", 4))
                assert await next_event(events) == Changed.to("n2", claim("n2", 4))
    finally:
        server.kill()
