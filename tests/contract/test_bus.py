"""One suite for the real bus and its twin in memory: what services rely on."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fairlead.address import Address, Prefix
from fairlead.bus import ANY_NODE, Bus, Changed, Deleted, Keys, Restarted, Synced, route
from fairlead.bus_memory import Hub, MemoryBus
from fairlead.bus_nats import connect
from fairlead.clock import SYSTEM
from fairlead.errors import Conflict, Denied, InvalidInput, Unavailable
from fairlead.schema.base import NodeName
from fairlead.schema.flow import FLOW_SEEN, Flow, FlowEnd, Verdict
from fairlead.schema.identity import REGISTER_NODE, WORKLOAD_PUBLISHED, Committed, ExternalWorkload, RegisterNode
from fairlead.schema.ipam import ALLOCATE, CLAIMS, AddressAllocated, AllocateAddress, Claim
from tests.support.nats import NatsServer

N1, N2 = NodeName("n1"), NodeName("n2")


@pytest.fixture(params=["memory", pytest.param("nats", marks=pytest.mark.connected)])
async def pair(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[Bus, Bus]]:
    """Two participants; with the real bus the second one sits behind a leaf."""
    if request.param == "memory":
        hub = Hub()
        yield MemoryBus(hub, "a"), MemoryBus(hub, "b")
        return
    server = NatsServer(tmp_path).start()
    leaf = NatsServer(tmp_path, "leaf", server).start()
    try:
        async with connect(server.url, name="a") as first, connect(leaf.url, name="b", domain="hub") as second:
            await until_joined(second)
            yield first, second
    finally:
        leaf.kill()
        server.kill()


async def until_joined(bus: Bus) -> None:
    """Wait until the leaf reaches the hub."""
    async with asyncio.timeout(10):
        while True:
            try:
                await bus.bucket(CLAIMS).ensure()
            except Unavailable:
                await asyncio.sleep(0.05)
            else:
                return


def claim(node: str, revision: int = 1) -> Claim:
    return Claim(node=NodeName(node), prefixes=(Prefix("10.0.1.0/24"),), revision=revision)


async def allocate(ask: AllocateAddress) -> AddressAllocated:
    if ask.owner == "taken":
        raise Conflict("`owner`: taken by web")
    return AddressAllocated(owner=ask.owner, addresses=(Address("10.0.1.2"),))


async def served(asker: Bus) -> None:
    """Wait until the interest of whoever serves has crossed the leaf."""
    async with asyncio.timeout(10):
        while True:
            try:
                await asker.request(ALLOCATE, AllocateAddress(owner="first"), node=N1)
            except Unavailable:
                await asyncio.sleep(0.02)
            else:
                return


async def test_a_request_is_answered_across_the_leaf(pair: tuple[Bus, Bus]) -> None:
    first, second = pair
    await second.serve("ipam", [route(ALLOCATE, allocate, N1)])
    await served(first)
    reply = await first.request(ALLOCATE, AllocateAddress(owner="web"), node=N1)
    assert reply == AddressAllocated(owner="web", addresses=(Address("10.0.1.2"),))


async def test_the_handlers_error_reaches_the_asker(pair: tuple[Bus, Bus]) -> None:
    first, second = pair
    await second.serve("ipam", [route(ALLOCATE, allocate, N1)])
    await served(first)
    with pytest.raises(Conflict, match="taken by web"):
        await first.request(ALLOCATE, AllocateAddress(owner="taken"), node=N1)


async def test_a_malformed_request_is_refused_naming_the_field(pair: tuple[Bus, Bus]) -> None:
    first, second = pair
    await second.serve("ipam", [route(ALLOCATE, allocate, N1)])
    await served(first)
    with pytest.raises(InvalidInput, match="`owner`"):
        await first.request(ALLOCATE, AllocateAddress(owner="-bad-"), node=N1)


async def test_one_handler_answers_every_node_about_itself_only(pair: tuple[Bus, Bus]) -> None:
    heard: list[str] = []

    async def register(ask: RegisterNode) -> Committed:
        heard.append(ask.node)
        return Committed(revision=1)

    first, second = pair
    await first.serve("identity", [route(REGISTER_NODE, register, ANY_NODE), route(ALLOCATE, allocate, N1)])
    await served(second)
    for node in (N1, N2):
        await second.request(REGISTER_NODE, RegisterNode(node=node, addresses=(Address("192.0.2.1"),)), node=node)
    with pytest.raises(Denied, match="`node`: n2 stated on the subject of node n1"):
        await second.request(REGISTER_NODE, RegisterNode(node=N2, addresses=(Address("192.0.2.1"),)), node=N1)
    assert heard == ["n1", "n2"]


async def test_a_request_that_nobody_serves_says_so(pair: tuple[Bus, Bus]) -> None:
    with pytest.raises(Unavailable, match="nobody serves"):
        await pair[0].request(ALLOCATE, AllocateAddress(owner="web"), node=N2)


async def test_gather_hears_everybody(pair: tuple[Bus, Bus]) -> None:
    for bus in pair:
        await bus.serve("ipam", [route(ALLOCATE, allocate, N1)], shared=False)
    for _ in range(20):  # interest takes a moment to cross the leaf
        replies = await pair[0].gather(ALLOCATE, AllocateAddress(owner="web"), node=N1, wait_s=0.2)
        if len(replies) == 2:
            break
        await asyncio.sleep(0.1)
    assert replies == [AddressAllocated(owner="web", addresses=(Address("10.0.1.2"),))] * 2


async def test_events_reach_their_service(pair: tuple[Bus, Bus]) -> None:
    first, second = pair
    seen: asyncio.Queue[ExternalWorkload] = asyncio.Queue()

    async def take(event: ExternalWorkload) -> Committed:
        await seen.put(event)
        return Committed(revision=1)

    event = ExternalWorkload(
        source="cmdb", source_id="7", generation=1, addresses=(Prefix("10.9.0.1/32"),), labels=("app=x",)
    )
    await second.serve("identity", [route(WORKLOAD_PUBLISHED, take)])
    await publish_when_ready(first, event)
    assert await asyncio.wait_for(seen.get(), 5) == event


async def publish_when_ready(bus: Bus, event: ExternalWorkload) -> None:
    """Publish once the service has made the stream."""
    async with asyncio.timeout(10):
        while True:
            try:
                await bus.publish(WORKLOAD_PUBLISHED, event)
            except Unavailable:
                await asyncio.sleep(0.05)
            else:
                return


async def test_followers_hear_all_nodes(pair: tuple[Bus, Bus]) -> None:
    first, second = pair
    seen: asyncio.Queue[Flow] = asyncio.Queue()
    await second.follow(FLOW_SEEN, seen.put)
    end = FlowEnd(address=Address("10.0.0.1"))
    flow = Flow(
        uuid="u",
        time=SYSTEM.now(),
        node_name=N1,
        verdict=Verdict.DROPPED,
        traffic_direction="INGRESS",
        protocol="TCP",
        source=end,
        destination=end,
    )
    async with asyncio.timeout(5):
        while seen.empty():  # interest takes a moment to cross the leaf
            await first.publish(FLOW_SEEN, flow, node=N1)
            await asyncio.sleep(0.05)
    assert (await seen.get()) == flow


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
async def test_what_begins_to_serve_while_the_server_is_away_is_heard_when_it_is_back(tmp_path: Path) -> None:
    server = NatsServer(tmp_path).start()
    try:
        async with connect(server.url, name="a") as first, connect(server.url, name="b") as second:
            for bus in (first, second):
                await until_joined(bus)
            server.kill()
            async with asyncio.timeout(5):
                while first.connected:
                    await asyncio.sleep(0.02)
            serving = asyncio.create_task(first.serve("ipam", [route(ALLOCATE, allocate, N1)]))
            server.start()
            await served(second)
            await serving
    finally:
        server.kill()
