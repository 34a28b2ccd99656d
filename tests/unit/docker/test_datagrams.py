"""The relay of a published UDP port, on loopback."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator

import pytest

from clients.docker import datagrams
from clients.docker.datagrams import DatagramRelay, is_local


def udp(host: str, port: int = 0) -> socket.socket:
    made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    made.bind((host, port))
    made.setblocking(False)
    return made


@pytest.fixture
def container() -> Iterator[socket.socket]:
    with udp("127.0.0.2") as made:
        yield made


@pytest.fixture
async def relay(container: socket.socket) -> AsyncIterator[DatagramRelay]:
    made = DatagramRelay(udp("127.0.0.1"), *container.getsockname())
    yield made
    made.close()


def port_of(relay: DatagramRelay) -> tuple[str, int]:
    host, port = relay._listening.getsockname()
    return host, port


async def heard(by: socket.socket) -> tuple[bytes, tuple[str, int]]:
    async with asyncio.timeout(5):
        return await asyncio.get_running_loop().sock_recvfrom(by, 100)


async def test_each_client_hears_the_answer_to_its_own_question(relay: DatagramRelay, container: socket.socket) -> None:
    with udp("127.0.0.1") as one, udp("127.0.0.1") as two:
        asked = {}
        for client, question in ((one, b"one"), (two, b"two")):
            client.sendto(question, port_of(relay))
            data, way = await heard(container)
            asked[data] = way
        for data in (b"two", b"one"):
            container.sendto(data + b"!", asked[data])
        assert [(await heard(client))[0] for client in (one, two)] == [b"one!", b"two!"]
        one.sendto(b"again", port_of(relay))
        assert await heard(container) == (b"again", asked[b"one"]), "a client keeps its way"


async def test_the_one_that_was_silent_longest_makes_room(
    relay: DatagramRelay, container: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datagrams, "MAX_CLIENTS", 2)
    clients = [udp("127.0.0.1") for _ in range(3)]
    for client in clients:
        client.sendto(b"x", port_of(relay))
        await heard(container)
    assert list(relay._ways) == [client.getsockname() for client in clients[1:]]
    for client in clients:
        client.close()


async def test_who_says_nothing_for_long_is_forgotten(relay: DatagramRelay, container: socket.socket) -> None:
    with udp("127.0.0.1") as old, udp("127.0.0.1") as new:
        for client in (old, new):
            client.sendto(b"x", port_of(relay))
            await heard(container)
        way, when = relay._ways[old.getsockname()]
        relay._ways[old.getsockname()] = way, when - datagrams.IDLE_S - 1
        relay._looking.cancel()
        relay._look()
        assert list(relay._ways) == [new.getsockname()]


async def test_a_container_that_hears_nothing_hurts_nobody(relay: DatagramRelay, container: socket.socket) -> None:
    address = container.getsockname()
    container.close()
    with udp("127.0.0.1") as client:
        client.sendto(b"lost", port_of(relay))
        while not relay._ways:
            await asyncio.sleep(0)
        with udp(*address) as again:
            client.sendto(b"lost, the refusal is told now", port_of(relay))
            client.sendto(b"heard", port_of(relay))
            words: list[bytes] = []
            while b"heard" not in words:
                words.append((await heard(again))[0])
            assert words in ([b"heard"], [b"lost, the refusal is told now", b"heard"])


async def test_closing_gives_the_port_back(relay: DatagramRelay, container: socket.socket) -> None:
    where = port_of(relay)
    with udp("127.0.0.1") as client:
        client.sendto(b"x", where)
        await heard(container)
    relay.close()
    assert not relay._ways
    udp(*where).close()


@pytest.mark.parametrize(
    ("client", "local"),
    [
        (("127.0.0.1", 7), True),
        (("192.0.2.77", 7), False),
        (("::1", 7, 0, 0), True),
        (("2001:db8::77", 7, 0, 0), False),
    ],
)
def test_only_addresses_of_this_node_are_local(client: tuple[str, int], local: bool) -> None:
    assert is_local(client) is local
