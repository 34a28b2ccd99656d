"""Claims on a store in memory, and the race on a real etcd."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest

from fairlead import codec
from fairlead.address import Prefix
from fairlead.bus_memory import Hub, MemoryBus
from fairlead.clock import SYSTEM
from fairlead.errors import Unavailable
from fairlead.kv import Check, Delete, Kv, Put
from fairlead.kv_etcd import EtcdKv
from fairlead.kv_memory import MemoryKv
from fairlead.schema.base import NodeName
from fairlead.schema.ipam import CLAIMS as BUCKET
from fairlead.schema.ipam import AllocateAddress
from services.ipam.claims import Claims
from services.ipam.model import Pool, choose_prefix
from services.ipam.service import Ipam
from services.ipam.store import CLAIMS, StateFile, StoredClaim, claim_key, claimed_prefix
from tests.support.etcd import EtcdServer, etcd

__all__ = ["etcd"]
POOLS = (Pool(Prefix("10.0.0.0/16"), 24), Pool(Prefix("fd00::/64"), 80))
TIGHT = (Pool(Prefix("10.0.0.0/20"), 24),)


class Node:
    """The ipam of one node."""

    def __init__(self, kv: Kv, hub: Hub, folder: Path, name: str = "n1", pools: tuple[Pool, ...] = POOLS) -> None:
        self.name = name
        self.conditions: dict[str, tuple[bool, str]] = {}
        self.bus = MemoryBus(hub)
        file = StateFile(folder / f"{name}.json", name)
        self.ipam = Ipam(NodeName(name), file, self.state, SYSTEM)
        self.claims = Claims(kv, self.bus, self.ipam, pools, self.state, SYSTEM)

    def state(self, name: str, ok: bool, detail: str = "") -> None:
        self.conditions[name] = (ok, detail)

    @property
    def prefixes(self) -> tuple[Prefix, ...]:
        return self.ipam.state().prefixes

    async def lease(self, owner: str = "web") -> tuple[str, ...]:
        return (await self.ipam.allocate(AllocateAddress(owner=owner))).addresses

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Node]:
        tasks = [asyncio.create_task(self.claims.run()), asyncio.create_task(self.claims.projector.run())]
        try:
            yield self
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def until(true: Callable[[], bool], seconds: float = 5) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"not so within {seconds} s"
        await asyncio.sleep(0.005)


def claim_of(node: str, prefix: str) -> Put:
    value = StoredClaim(node=NodeName(node), prefix=Prefix(prefix))
    return Put(claim_key(Prefix(prefix)), codec.encode(value))


async def test_a_node_claims_one_prefix_of_each_family_and_announces_it(tmp_path: Path) -> None:
    kv, hub = MemoryKv(), Hub()
    async with Node(kv, hub, tmp_path).running() as node:
        await until(lambda: len(node.prefixes) == 2)
        await until(lambda: "n1" in node.claims.projector.rows)
        await asyncio.wait_for(node.claims.projector.flushed(), 5)
        row = await node.bus.bucket(BUCKET).get("n1")
        assert row is not None
        assert row.prefixes == node.prefixes
        stored = await kv.get(claim_key(node.prefixes[0]))
        assert stored is not None
        assert codec.decode(stored.value, StoredClaim).node == "n1"
        assert "/" not in stored.key.removeprefix(CLAIMS)
        assert row.revision == kv.revision
        assert len(await node.lease()) == 2


async def test_after_a_restart_without_etcd_it_serves_at_once(tmp_path: Path) -> None:
    kv, hub = MemoryKv(), Hub()
    async with Node(kv, hub, tmp_path).running() as first:
        await until(lambda: len(first.prefixes) == 2)
        held = await first.lease()
    kv.away = True
    async with Node(kv, hub, tmp_path).running() as second:
        assert await second.lease() == held
        assert await second.lease("new") != held
        kv.away = False
        await until(lambda: "n1" in second.claims.projector.rows)
    assert len((await kv.list(CLAIMS)).items) == 2


async def test_without_etcd_and_without_a_claim_it_waits_and_says_so(tmp_path: Path) -> None:
    kv, hub = MemoryKv(), Hub()
    kv.away = True
    async with Node(kv, hub, tmp_path).running() as node:
        await until(lambda: "claim" in node.conditions)
        assert not node.conditions["claim"][0]
        with pytest.raises(Unavailable, match=r"no prefix.*away"):
            await node.lease()
        kv.away = False
        await until(lambda: len(node.prefixes) == 2)
        assert node.conditions["claim"][0]
        assert await node.lease()


async def test_a_node_that_lost_its_disk_finds_its_claim(tmp_path: Path) -> None:
    kv, hub = MemoryKv(), Hub()
    async with Node(kv, hub, tmp_path).running() as first:
        await until(lambda: len(first.prefixes) == 2)
    (tmp_path / "n1.json").unlink()
    async with Node(kv, hub, tmp_path).running() as second:
        await until(lambda: len(second.prefixes) == 2)
        assert second.prefixes == first.prefixes


async def test_a_claim_removed_by_hand_is_put_again(tmp_path: Path) -> None:
    kv, hub = MemoryKv(), Hub()
    async with Node(kv, hub, tmp_path).running() as node:
        await until(lambda: "n1" in node.claims.projector.rows)
        key = claim_key(node.prefixes[0])
        gone = await kv.commit([], [Delete(key)])
        await until(lambda: kv._items.get(key) is not None and kv._items[key].revision > gone)
        await until(lambda: node.claims.projector.rows["n1"].revision > gone)
        assert {claim_key(prefix) for prefix in node.prefixes} <= kv._items.keys()


async def test_a_prefix_taken_by_another_keeps_its_leases_and_gives_no_new_ones(tmp_path: Path) -> None:
    kv, hub = MemoryKv(), Hub()
    async with Node(kv, hub, tmp_path).running() as node:
        await until(lambda: "n1" in node.claims.projector.rows)
        held = await node.lease()
        mine = node.prefixes[0]
        await kv.commit([], [claim_of("n7", mine)])
        await until(lambda: not node.conditions.get("claim conflict", (True, ""))[0])
        assert "n7" in node.conditions["claim conflict"][1]
        assert await node.lease() == held
        with pytest.raises(Unavailable, match="n7"):
            await node.lease("new")
        assert mine in node.prefixes
        await kv.commit([], [Delete(claim_key(mine))])
        await until(lambda: node.conditions["claim conflict"][0])
        assert await node.lease("new")


async def test_a_restart_after_another_took_the_prefix_is_a_conflict_too(tmp_path: Path) -> None:
    kv, hub = MemoryKv(), Hub()
    async with Node(kv, hub, tmp_path).running() as first:
        await until(lambda: len(first.prefixes) == 2)
        mine = first.prefixes[0]
    network = mine.network
    half = Prefix(str(next(network.subnets())))
    await kv.commit([], [Delete(claim_key(mine)), claim_of("n7", half)])
    async with Node(kv, hub, tmp_path).running() as second:
        await until(lambda: not second.conditions.get("claim conflict", (True, ""))[0])
        assert await kv.get(claim_key(mine)) is None


async def test_a_full_pool_is_named_and_the_other_family_serves(tmp_path: Path) -> None:
    kv, hub = MemoryKv(), Hub()
    await kv.commit([], [claim_of("n7", "10.0.0.0/16")])
    async with Node(kv, hub, tmp_path).running() as node:
        await until(lambda: len(node.prefixes) == 1)
        await until(lambda: "claim" in node.conditions)
        assert "10.0.0.0/16 has no free /24" in node.conditions["claim"][1]
        assert len(await node.lease()) == 1
    async with Node(kv, hub, tmp_path, "n2", TIGHT).running() as node:
        await until(lambda: "claim" in node.conditions)
        with pytest.raises(Unavailable, match=r"10\.0\.0\.0/20 has no free"):
            await node.lease()


async def test_an_unreadable_claim_still_takes_its_prefix(tmp_path: Path) -> None:
    kv, hub = MemoryKv(), Hub()
    await kv.commit([], [Put(CLAIMS + "10.0.0.0_21", b"garbage"), Put(CLAIMS + "nonsense", b"")])
    nodes = [Node(kv, hub, tmp_path, f"n{number}", TIGHT) for number in range(8)]
    async with contextlib.AsyncExitStack() as stack:
        for node in nodes:
            await stack.enter_async_context(node.running())
        await until(lambda: all(node.prefixes for node in nodes))
    assert all(node.prefixes[0] in Prefix("10.0.8.0/21") for node in nodes)


def rivals(count: int) -> list[tuple[str, Pool]]:
    """Return nodes that all want to begin in the same /24, every other one with a /25: keys alone do not tell them apart."""
    pools = (TIGHT[0], Pool(TIGHT[0].prefix, 25))
    place = Prefix("10.0.3.0/24")
    names = ((f"n{number}", pools[number % 2]) for number in range(10_000))
    return [(name, pool) for name, pool in names if choose_prefix(pool, name, []) in place][:count]


@pytest.mark.connected
async def test_nodes_that_race_never_get_overlapping_prefixes(etcd: EtcdServer, tmp_path: Path) -> None:
    hub, stores = Hub(), [EtcdKv(etcd.url) for _ in range(10)]
    nodes = [Node(kv, hub, tmp_path, name, (pool,)) for kv, (name, pool) in zip(stores, rivals(10), strict=True)]
    async with contextlib.AsyncExitStack() as stack:
        for node in nodes:
            await stack.enter_async_context(node.running())
        await until(lambda: all(node.prefixes for node in nodes), 20)
    claimed = [node.prefixes[0] for node in nodes]
    for number, prefix in enumerate(claimed):
        for other in claimed[:number]:
            assert prefix not in other, f"{prefix} and {other} overlap"
            assert other not in prefix, f"{prefix} and {other} overlap"
    listing = await stores[0].list(CLAIMS)
    assert sorted(filter(None, map(claimed_prefix, listing.items))) == sorted(claimed)
    assert all(node.conditions["claim"][0] for node in nodes)
    for store in stores:
        await store.close()


@pytest.mark.connected
async def test_the_claim_survives_a_crash_of_etcd(etcd: EtcdServer, tmp_path: Path) -> None:
    hub, kv = Hub(), EtcdKv(etcd.url, timeout_s=1)
    async with Node(kv, hub, tmp_path).running() as node:
        await until(lambda: len(node.prefixes) == 2)
        etcd.kill()
        assert len(await node.lease()) == 2
        etcd.wipe()
        etcd.start()
        # the store knows nothing any more; the node states its claims again
        for prefix in node.prefixes:
            async with asyncio.timeout(15):
                while prefix.replace("/", "_") not in etcd.ctl("get", claim_key(prefix), "--keys-only"):
                    await asyncio.sleep(0.1)
    await kv.close()


async def test_nobody_gets_an_address_before_every_family_is_claimed(tmp_path: Path) -> None:
    asked: list[int] = []

    class Asking(MemoryKv):
        """Looks, at every commit, how many families could be leased from at that moment."""

        async def commit(self, checks: Sequence[Check], changes: Sequence[Put | Delete]) -> int:
            asked.append(len(node.prefixes))
            return await super().commit(checks, changes)

    node = Node(Asking(), Hub(), tmp_path)
    async with node.running():
        await until(lambda: len(node.prefixes) == 2)
    assert asked == [0, 0]
    assert len(await node.lease()) == 2
