"""One suite for the real bus and its twin in memory: what services rely on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fairlead.address import Address, Prefix
from fairlead.bus import ANY_NODE, Bus, route
from fairlead.bus_nats import NatsBus, connect
from fairlead.clock import SYSTEM
from fairlead.errors import Conflict, Denied, InvalidInput, Unavailable
from fairlead.schema.base import NodeName
from fairlead.schema.flow import FLOW_SEEN, Flow, FlowEnd, Verdict
from fairlead.schema.identity import REGISTER_NODE, WORKLOAD_PUBLISHED, Committed, ExternalWorkload, RegisterNode
from fairlead.schema.ipam import ALLOCATE, AddressAllocated, AllocateAddress
from tests.support.buses import until_joined
from tests.support.nats import NatsServer

N1, N2 = NodeName("n1"), NodeName("n2")
OneServer = tuple[NatsServer, NatsBus, NatsBus]


async def allocate(ask: AllocateAddress) -> AddressAllocated:
    if ask.owner == "taken":
        raise Conflict("`owner`: taken by web")
    return AddressAllocated(owner=ask.owner, addresses=(Address("10.0.1.2"),))


async def served(asker: Bus) -> None:
    """Wait until the interest of whoever serves has crossed the leaf."""
    async with asyncio.timeout(10):
        while True:
            try:
                await asker.request(ALLOCATE, AllocateAddress(owner="first"), node=N1, timeout_s=1.0)
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


@pytest.fixture
async def one_server(tmp_path: Path) -> AsyncIterator[OneServer]:
    """A server that the test may end, and two participants that have joined there."""
    server = NatsServer(tmp_path).start()
    try:
        async with connect(server.url, name="a") as first, connect(server.url, name="b") as second:
            for bus in (first, second):
                await until_joined(bus)
            yield server, first, second
    finally:
        server.kill()


@pytest.mark.connected
async def test_what_begins_to_serve_while_the_server_is_away_is_heard_when_it_is_back(one_server: OneServer) -> None:
    server, first, second = one_server
    server.kill()
    async with asyncio.timeout(5):
        while first.connected:
            await asyncio.sleep(0.02)
    serving = asyncio.create_task(first.serve("ipam", [route(ALLOCATE, allocate, N1)]))
    server.start()
    await served(second)
    await serving
    reply = await second.request(ALLOCATE, AllocateAddress(owner="web"), node=N1)
    assert reply.addresses == (Address("10.0.1.2"),)


@pytest.mark.connected
async def test_what_begins_to_serve_while_the_server_dies_is_heard_as_soon_as_it_is_back(one_server: OneServer) -> None:
    server, first, second = one_server
    server.freeze()  # what is asked of it from now on is never answered
    serving = asyncio.create_task(first.serve("ipam", [route(ALLOCATE, allocate, N1)]))
    await asyncio.sleep(0.2)
    server.kill()
    server.start()
    async with asyncio.timeout(5):  # the client itself would wait ten seconds for the lost answer
        await served(second)
    reply = await second.request(ALLOCATE, AllocateAddress(owner="web"), node=N1)
    assert reply.addresses == (Address("10.0.1.2"),)
    serving.cancel()
