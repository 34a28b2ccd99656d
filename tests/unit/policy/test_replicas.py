"""Several replicas: one announces, all answer, and another one takes over without a wrong or missing row."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from fairlead.bus import Changed, Deleted
from fairlead.bus_nats import NatsBus
from fairlead.errors import Unavailable
from fairlead.kv import Delete, Put
from fairlead.schema.identity import ADDRESSES
from fairlead.schema.policy import APPLY, POLICY_ROWS, ApplyPolicy, PolicyRow
from services.policy import offline
from services.policy.lead import LEADER
from services.policy.packed import PackedRow, pack
from services.policy.settings import PolicySettings
from services.policy.told import newest
from tests.support.etcd import EtcdServer
from tests.support.nats import NatsServer
from tests.support.services import ServiceProcess
from tests.unit.policy.stack import DATABASE, EMPLOYEE, INTERN, World, clusterwide, seed


class Pair:
    """Two replicas on one store and one hub in memory."""

    def __init__(self) -> None:
        self.first, self.second = World(), World()
        self.second.kv, self.second.hub, self.second.bus = self.first.kv, self.first.hub, self.first.bus

    async def start(self) -> None:
        for number, name in ((EMPLOYEE, "employee"), (DATABASE, "protected-db"), (INTERN, "intern")):
            await self.first.identity(number, f"container:app={name};")
        await self.first.start()
        await self.first.until(lambda rows: len(rows) == 4)
        await self.second.start()

    async def crash(self, world: World) -> None:
        """Stop the replica as if it had died: its lease stays until it runs out."""
        held = await world.kv.get(LEADER)
        assert held is not None
        lease = await world.kv.grant(1)
        await world.stop()
        await world.kv.commit([], [Put(LEADER, held.value, lease)])

    async def stop(self) -> None:
        await self.first.stop()
        await self.second.stop()


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    pair = Pair()
    await pair.start()
    yield pair
    await pair.stop()


async def test_one_writes_each_row_once(pair: Pair) -> None:
    written: list[str] = []

    async def watch() -> None:
        async for event in pair.first.bus.bucket(POLICY_ROWS).watch():
            written.extend([f"{event.key} {event.row.revision}"] if isinstance(event, Changed) else [])

    await pair.first.host("n9")
    watching = asyncio.create_task(watch())
    for port in range(1, 21):
        answer = await pair.first.bus.request(APPLY, ApplyPolicy(document=seed(str(port)), wait_s=2))
        assert answer.resolved
    await asyncio.sleep(0.2)
    watching.cancel()
    of_database = [text for text in written if text.startswith(f"{DATABASE} ")]
    assert len(of_database) == len(set(of_database)) == 21


async def test_who_does_not_lead_makes_no_rows(pair: Pair) -> None:
    def made(world: World) -> int:
        model = world.service.view.model
        cohorts = {model._workloads.of.get(number) for number in model.identities}
        return sum(cohort is not None and cohort.row is not None for cohort in cohorts)

    await pair.first.bus.request(APPLY, ApplyPolicy(document=clusterwide("closed", ingress=[{}])))
    await pair.first.until(lambda rows: bool(rows[str(INTERN)].ingress_default_deny))
    assert (made(pair.first) > 0, made(pair.second)) == (True, 0)
    await pair.first.stop()
    await pair.second.identity(1004, "container:app=employee;")
    await pair.second.until(lambda rows: "1004" in rows)
    assert made(pair.second) > 0


async def test_a_replica_that_ends_hands_over_at_once(pair: Pair) -> None:
    before = await pair.first.rows()
    await pair.first.stop()
    item = await pair.first.kv.get(LEADER)
    await pair.first.identity(1004, "container:app=employee;")
    async with asyncio.timeout(2):  # the lease alone would take 4 s
        rows = await pair.second.until(lambda rows: "1004" in rows)
    assert {key: rows[key] for key in before} == before
    assert (await pair.first.kv.get(LEADER)) != item


async def test_what_changed_while_nobody_led_is_announced(pair: Pair) -> None:
    await pair.first.bus.request(APPLY, ApplyPolicy(document=clusterwide("out", egress=[{"toCIDR": ["10.0.0.0/8"]}])))
    await pair.first.until(lambda rows: bool(rows[str(INTERN)].egress_default_deny))
    await pair.crash(pair.first)
    await pair.first.identity(1004, "container:app=employee;")
    assert "1004" not in await pair.first.rows()
    rows = await pair.second.until(lambda rows: "1004" in rows)
    assert rows["1004"].egress_default_deny
    async with asyncio.timeout(5):  # prefixes are told after the rows that know them
        while not (cidrs := await pair.second.cidrs()).rows:
            await asyncio.sleep(0.005)
    assert [row.prefix for row in cidrs.rows] == ["10.0.0.0/8"]


async def test_who_lost_the_lead_by_hand_steps_down(pair: Pair) -> None:
    """Somebody else's key is respected, whatever one's own lease says."""
    await pair.first.kv.commit([], [Put(LEADER, b"somebody else")])
    await asyncio.sleep(1.5)
    await pair.first.identity(1004, "container:app=employee;")
    await asyncio.sleep(0.5)
    assert "1004" not in await pair.first.rows()
    await pair.first.kv.commit([], [Delete(LEADER)])
    await pair.first.until(lambda rows: "1004" in rows)


def row(revision: int, *origins: str) -> PackedRow:
    row = PolicyRow(identity=INTERN, entries=(), origins=origins, revision=revision, trace=f"trace {revision}")  # type: ignore[arg-type] # a test's number
    return pack(row)


def test_the_row_that_stands_when_another_takes_over() -> None:
    assert newest(None, row(5)) == row(5)
    assert newest(row(7, "a"), row(5, "a")) == row(5, "a")  # says the same: nothing to write
    assert newest(row(7, "a"), row(9, "b")) == row(9, "b")  # made of something we have yet to hear of
    assert newest(row(7, "a"), row(5, "b")) == row(7, "a")
    assert newest(row(7, "a"), row(7, "b")) == replace(row(7, "a"), revision=8)


class Stack:
    """One etcd, one NATS server, two policy services."""

    def __init__(self, folder: Path) -> None:
        self.etcd, self.nats = EtcdServer(folder / "etcd"), NatsServer(folder)
        self.etcd.start()
        self.nats.start()
        for number, name in enumerate(("employee", "protected-db", "intern"), 1001):
            self.identity(number, name)
        options = {"NATS": self.nats.url, "ETCD": self.etcd.url}
        self.replicas = [ServiceProcess("policy", name, folder, options).start() for name in ("p1", "p2")]

    def identity(self, number: int, name: str) -> None:
        self.etcd.ctl("put", f"cilium/state/identities/v1/id/{number}", f"container:app={name};")

    def stop(self) -> None:
        for process in self.replicas:
            process.kill()
        self.nats.kill()
        self.etcd.kill()


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    stack = Stack(tmp_path)
    yield stack
    stack.stop()


@pytest.mark.connected
async def test_a_killed_leader_is_replaced_in_seconds_and_no_row_is_wrong_or_missing(stack: Stack) -> None:
    bus = NatsBus(stack.nats.url, name="test")
    bus.start()
    async with asyncio.timeout(60):
        await until(bus, lambda rows: len(rows) == 4)
        watching = asyncio.create_task(bus_events(bus))
        for port in range(1, 9):  # both replicas answer, and both know when the one that leads has written
            await bus.bucket(ADDRESSES).ensure()
            await bus.bucket(ADDRESSES).mark_complete(1)
            answer = await bus.request(APPLY, ApplyPolicy(document=seed(str(port)), wait_s=5), timeout_s=10)
            assert answer.resolved
            rows = await bus.bucket(POLICY_ROWS).rows()
            assert {entry.port for entry in rows[str(DATABASE)].entries if entry.identity == EMPLOYEE} == {port}
        interns = clusterwide("interns", endpointSelector={"matchLabels": {"app": "intern"}}, egress=[{}])
        assert (await bus.request(APPLY, ApplyPolicy(document=interns, wait_s=5), timeout_s=10)).resolved
        before = await bus.bucket(POLICY_ROWS).rows()
        stack.replicas[0].kill()
        begun = time.monotonic()
        stack.identity(1004, "employee")
        await until(bus, lambda rows: "1004" in rows)
        taken_s = time.monotonic() - begun
        print(f"taken over after {taken_s:.1f} s")
        assert taken_s < 8
        await asyncio.sleep(1)
        after = await bus.bucket(POLICY_ROWS).rows()
        assert {key for key in before if after[key] != before[key]} == {str(DATABASE)}
        assert not watching.done()
        watching.cancel()
    await bus.close()


@pytest.mark.connected
async def test_a_leader_killed_amid_churn_leaves_every_row_right(stack: Stack) -> None:
    bus = NatsBus(stack.nats.url, name="test")
    bus.start()
    documents = [
        seed(),
        clusterwide("no-interns", ingressDeny=[{"fromEndpoints": [{"matchLabels": {"app": "intern"}}]}]),
    ]
    names = ("employee", "protected-db", "intern")
    async with asyncio.timeout(90):
        await until(bus, lambda rows: len(rows) == 4)
        watching = asyncio.create_task(bus_events(bus))
        for document in documents:
            await bus.request(APPLY, ApplyPolicy(document=document), timeout_s=10)
        for number in range(1004, 1064):
            stack.identity(number, names[number % 3])
            if number == 1024:
                stack.replicas[0].kill()
        world = offline.World(enforcement=PolicySettings(node="p1").enforcement())
        for number in range(1001, 1064):
            world.put_workload(number, [f"container:app={names[number % 3 if number > 1003 else number - 1001]}"])
        for document in documents:
            world.put_document(document)
        wanted = {str(number): replace(row, revision=0, trace="") for number, row in world.rows().items()}
        await until(bus, lambda rows: {key: replace(row, revision=0, trace="") for key, row in rows.items()} == wanted)
        assert not watching.done()
        watching.cancel()
    await bus.close()


async def bus_events(bus: NatsBus) -> None:
    """Watch rows; no row may go, and none may ever be open that was closed."""
    async for event in bus.bucket(POLICY_ROWS).watch():
        assert not isinstance(event, Deleted)


async def until(bus: NatsBus, reached: Callable[[dict[str, PolicyRow]], bool]) -> None:
    while True:
        with contextlib.suppress(Unavailable):
            if reached(await bus.bucket(POLICY_ROWS).rows()):
                return
        await asyncio.sleep(0.05)
