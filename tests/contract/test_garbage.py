"""Garbage at every registered subject of live services: an error reply, nobody stops, nothing changes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import msgspec
import nats
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nats.aio.client import Client
from nats.aio.msg import Msg

from fairlead import codec
from fairlead.bus_nats import connect
from fairlead.contract.vectors import encoded
from fairlead.kv_etcd import EtcdKv
from fairlead.schema import TOPICS
from fairlead.schema.admission import StartNow
from fairlead.schema.base import Delivery, Empty, Topic
from tests.kernel.rig import why_not
from tests.support.etcd import EtcdServer
from tests.support.nats import NatsServer
from tests.support.services import ServiceProcess
from tests.support.starts import Start, heard

pytestmark = [pytest.mark.connected, pytest.mark.timeout(180)]
NODE = "g1"
ASKED = [topic for topic in TOPICS if topic.delivery in (Delivery.COMMAND, Delivery.SNAPSHOT)]
EVENTS = [topic for topic in TOPICS if topic.delivery is Delivery.EVENT and topic.intent]
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)


REASON_AGAINST_KERNEL = why_not()
NETNS = f"fairlead-garbage-{os.getpid()}"
"""The datapath service gets a network namespace of its own, with one cable to the bus."""
CABLE = f"fg{os.getpid() % 100000}"
OUTSIDE, INSIDE = "169.254.201.1", "169.254.201.2"
WIRING = f"""netns add {NETNS}
link add {CABLE} type veth peer name up1 netns {NETNS}
address add {OUTSIDE}/30 dev {CABLE}
link set {CABLE} up
"""
WIRING_INSIDE = f"link set lo up\naddress add {INSIDE}/30 dev up1\nlink set up1 up\n"


def ip(text: str, *inside: str) -> None:
    subprocess.run([*inside, "ip", "-batch", "-"], input=text, text=True, check=True, capture_output=True)


class World:
    """One hub, one etcd and all five services, the datapath on the real kernel where this machine lets it."""

    def __init__(self, folder: Path) -> None:
        self.hub = NatsServer(folder)
        self.etcd = EtcdServer(folder / "etcd")
        self.pins = Path(f"/sys/fs/bpf/{NETNS}")
        options = {"NATS": self.hub.url, "ETCD": self.etcd.url, "POOLS": "10.77.0.0/16", "CLAIM_LENGTHS": "24"}
        bgp = {"BGP_ASN": "65001", "BGP_PEERS": "127.0.0.1:65101", "BGP_ROUTER_ID": "10.0.0.1"}
        bgp["BGP_RUN_DIR"] = str(folder / "bgp")
        self.services = [ServiceProcess(name, NODE, folder, options) for name in ("ipam", "identity", "policy")]
        self.services.append(ServiceProcess("bgp", NODE, folder, {**options, **bgp}))
        if not REASON_AGAINST_KERNEL:
            self.services.append(self._datapath(folder, options))
        self._folder = folder
        self.waiting: Start | None = None
        """A start that waits for its turn all the while: it answers too."""

    def start(self) -> None:
        self.hub.start()
        self.etcd.start()
        if not REASON_AGAINST_KERNEL:
            ip(WIRING)
            ip(WIRING_INSIDE, "nsenter", f"--net=/run/netns/{NETNS}", "--")
        for service in self.services:
            service.start()
        self.waiting = Start(self._folder / "waiting", self.hub.url)
        asyncio.run(self._until_it_answers())

    async def _until_it_answers(self) -> None:
        async with connect(self.hub.url, name="test") as bus:
            await bus.client(10)
            assert await heard(bus, StartNow(node="-"), 1)

    def ended(self) -> list[str]:
        """Return which processes have ended."""
        waits = self.waiting is not None and self.waiting.process.poll() is None
        return [one.service for one in self.services if not one.alive] + ([] if waits else ["the start that waits"])

    def _datapath(self, folder: Path, options: dict[str, str]) -> ServiceProcess:
        url = self.hub.url.replace("127.0.0.1", OUTSIDE)
        kernel = {"NATS": url, "PIN_DIRECTORY": str(self.pins), "UPLINKS": "up1", "NODE_ADDRESSES": INSIDE}
        return ServiceProcess("datapath", NODE, folder, {**options, **kernel}, netns=f"/run/netns/{NETNS}")

    def stop(self) -> None:
        for service in self.services:
            service.kill()
        if self.waiting:
            self.waiting.end()
        self.hub.kill()
        self.etcd.kill()
        if Path(f"/run/netns/{NETNS}").exists():
            ip(f"netns delete {NETNS}\n")
            shutil.rmtree(self.pins, ignore_errors=True)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("garbage"))
    try:
        made.start()
        yield made
    finally:
        made.stop()


def served(topic: Topic[Any, Any]) -> bool:
    """Tell whether one of the world's services answers the topic."""
    return topic.service != "datapath" or not REASON_AGAINST_KERNEL


def subject(topic: Topic[Any, Any]) -> str:
    return f"{topic.subject}.{NODE}" if topic.names_speaker else topic.subject


def broken(topic: Topic[Any, Any], chance: random.Random) -> bytes:
    """Return a valid message with one required field gone or one field of a wrong type."""
    value = codec.unpack(encoded(topic.message))
    fields = msgspec.structs.fields(topic.message)
    required = [field.encode_name for field in fields if field.required]
    field = chance.choice(required or [field.encode_name for field in fields])
    if required and chance.random() < 0.5:
        del value[field]
    else:
        value[field] = chance.choice([[[]], {"x": {}}, -1.5, "\x00", b"\xff"])
    if chance.random() < 0.5 or isinstance(value.get(field), bytes):
        return bytes(msgpack.packb(value))
    return json.dumps(value).encode()


def is_error(reply: Msg) -> bool:
    headers = reply.headers or {}
    return bool(headers.get("Nats-Service-Error")) and bool(headers.get("Fairlead-Error"))


async def throw(client: Client, topic: Topic[Any, Any], data: bytes) -> None:
    """Send garbage and check the answer; a topic that asks nothing may answer any object."""
    reply = await client.request(subject(topic), data, timeout=5)
    if topic.message is not Empty:
        assert is_error(reply), (subject(topic), data, reply.data[:200])
        # 404: a name that is well formed and names nothing
        assert (reply.headers or {})["Nats-Service-Error-Code"] in ("400", "404"), (subject(topic), data, reply.headers)
    elif is_error(reply):
        assert (reply.headers or {})["Fairlead-Error"] in ("invalid", "unavailable"), reply.headers


async def barrage(url: str, blob: bytes, value: object, chance: random.Random) -> None:
    client = await nats.connect(url)
    try:
        for topic in filter(served, ASKED):
            # a leading 0xc1 is never valid MessagePack and never JSON, so no blob is valid by chance
            shots = [b"\xc1" + blob, msgpack.packb([value]), json.dumps([value]).encode()]
            if topic.message is not Empty:
                shots.append(broken(topic, chance))
            for data in shots:
                await throw(client, topic, data)
    finally:
        await client.close()


def truth(world: World) -> dict[str, bytes]:
    """Return every key of etcd and its value."""

    async def read() -> dict[str, bytes]:
        kv = EtcdKv(world.etcd.url)
        try:
            return {item.key: item.value for item in (await kv.list("")).items}
        finally:
            await kv.close()

    return asyncio.run(read())


@pytest.fixture(scope="module")
def settled(world: World) -> dict[str, bytes]:
    """Return the truth once ipam has its claim, the datapath has stated its node with it, and nothing has changed for a second."""
    deadline = time.monotonic() + 30
    seen: list[dict[str, bytes]] = []
    while len(seen) < 10 or any(one != seen[-1] for one in seen[-10:]) or not any("claims" in key for key in seen[-1]):
        assert time.monotonic() < deadline, seen[-1]
        time.sleep(0.1)
        seen.append(truth(world))
    return seen[-1]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(blob=st.binary(max_size=200), value=JSON_VALUES, chance=st.randoms(use_true_random=False))
def test_garbage_is_answered_and_changes_nothing(
    world: World, settled: dict[str, bytes], blob: bytes, value: object, chance: random.Random
) -> None:
    asyncio.run(barrage(world.hub.url, blob, value, chance))
    assert world.ended() == []


def test_afterwards_the_truth_is_what_it_was(world: World, settled: dict[str, bytes]) -> None:
    assert truth(world) == settled
    assert world.ended() == []


def test_an_oversized_message_is_refused_with_its_size(world: World) -> None:
    async def send() -> Msg:
        client = await nats.connect(world.hub.url)
        try:
            return await client.request(f"fairlead.cmd.ipam.address.allocate.v1.{NODE}", b"x" * 5_000_000, timeout=10)
        finally:
            await client.close()

    reply = asyncio.run(send())
    assert "5000000 bytes" in (reply.headers or {})["Nats-Service-Error"]


def test_unusable_events_land_in_the_dead_letters_with_a_reason(world: World) -> None:
    async def send() -> list[dict[str, Any]]:
        client = await nats.connect(world.hub.url)
        js = client.jetstream()
        for topic in EVENTS:
            await js.publish(subject(topic), b"\xc1 no")
            await js.publish(subject(topic), b'{"kind": 7}')
        letters: list[dict[str, Any]] = []
        async with asyncio.timeout(20):
            while len(letters) < 2 * len(EVENTS):
                await asyncio.sleep(0.2)
                with contextlib.suppress(nats.js.errors.NotFoundError):
                    count = (await js.stream_info("fairlead-dead")).state.messages
                    raw = [await js.get_msg("fairlead-dead", number + 1) for number in range(count)]
                    letters = [msgpack.unpackb(message.data or b"") for message in raw]
        await client.close()
        return letters

    letters = asyncio.run(send())
    assert all(letter["reason"] and letter["code"] == "invalid" for letter in letters)
    assert {letter["subject"] for letter in letters} == {subject(topic) for topic in EVENTS}


@pytest.mark.skipif(bool(REASON_AGAINST_KERNEL), reason=f"no garbage for the datapath: {REASON_AGAINST_KERNEL}")
def test_the_datapath_was_among_them(world: World) -> None:
    assert "datapath" in [service.service for service in world.services if service.alive]
