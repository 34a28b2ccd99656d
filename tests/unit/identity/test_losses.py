"""What the service does when buckets, the store or much of its content are gone, and with a second replica."""

from __future__ import annotations

import asyncio

import pytest

from fairlead.address import Address
from fairlead.bus_memory import Hub
from fairlead.errors import Unavailable
from fairlead.kv import Delete, Put
from fairlead.kv_memory import MemoryKv
from fairlead.schema.identity import ADDRESSES, IDENTITIES, WithdrawWorkload
from tests.unit.identity.world import Replica, endpoint, machine, running


async def test_a_lost_bucket_is_filled_again_with_equal_rows(replica: Replica, hub: Hub) -> None:
    await replica.service.register_endpoint(endpoint())
    await replica.catch_up()
    before = await replica.bus.bucket(ADDRESSES).rows()
    hub.drop_bucket("addresses")
    await asyncio.sleep(1.3)
    await replica.catch_up()
    assert await replica.bus.bucket(ADDRESSES).rows() == before


async def test_a_second_replica_says_the_same(replica: Replica, kv: MemoryKv, hub: Hub) -> None:
    await replica.service.register_endpoint(endpoint())
    await replica.service.put_workload(machine())
    await replica.service.remove_workload(WithdrawWorkload(source="cmdb", source_id="vm-1", generation=2))
    await replica.catch_up()
    async with running(kv, hub) as other:
        await other.catch_up()
        for mine, theirs in (
            (replica.announcer.identities, other.announcer.identities),
            (replica.announcer.nodes, other.announcer.nodes),
        ):
            assert dict(mine.rows) == dict(theirs.rows)
        mine_rows = {key: row for key, row in replica.announcer.addresses.rows.items() if row.entries or row.revision}
        their_rows = {key: row for key, row in other.announcer.addresses.rows.items() if row.entries or row.revision}
        assert mine_rows == their_rows


async def test_a_store_that_is_away_is_said_and_comes_back(replica: Replica, kv: MemoryKv) -> None:
    kv.away = True
    with pytest.raises(Unavailable):
        await replica.service.register_endpoint(endpoint())
    kv.away = False
    assert (await replica.service.register_endpoint(endpoint())).identity


async def test_before_the_store_was_read_nobody_is_numbered(kv: MemoryKv, hub: Hub) -> None:
    fresh = Replica(kv, hub)
    with pytest.raises(Unavailable, match="has not read"):
        await fresh.service.register_endpoint(endpoint(node_address=Address("192.168.0.1")))
    assert not fresh.conditions["store"][0]


async def test_a_mass_loss_waits_for_a_person(replica: Replica, kv: MemoryKv) -> None:
    rows = [
        Put(f"cilium/state/ip/v1/default/10.7.0.{n}", f'{{"IP":"10.7.0.{n}","ID":9999}}'.encode()) for n in range(50)
    ]
    await kv.commit([], rows)
    await replica.catch_up()
    await kv.commit([], [Delete(row.key) for row in rows])
    await replica.catch_up()
    assert len(replica.entries()) == 50
    assert "accept-loss" in replica.conditions["mass loss"][1]
    await kv.commit([], rows[:30])
    await replica.catch_up()
    assert len(replica.entries()) == 30
    assert replica.conditions["mass loss"][0]
    await kv.commit([], [Delete(row.key) for row in rows])
    await replica.catch_up()
    assert len(replica.entries()) == 30
    await replica.put("cilium/state/fairlead/v1/accept-loss", "yes")
    await replica.catch_up()
    assert replica.entries() == {}


async def test_a_restart_on_an_emptied_store_keeps_the_rows(hub: Hub) -> None:
    kv = MemoryKv()
    async with running(kv, hub) as first:
        await kv.commit(
            [], [Put(f"cilium/state/identities/v1/id/{300 + n}", f"k8s:n={n};".encode()) for n in range(50)]
        )
        await first.catch_up()
    async with running(MemoryKv(), hub) as second:
        await asyncio.sleep(0.1)
        assert not second.conditions["mass loss"][0]
        assert len(await second.bus.bucket(IDENTITIES).rows()) == 50


async def test_ten_thousand_addresses_are_projected_quickly(kv: MemoryKv, hub: Hub) -> None:
    for start in range(0, 10_000, 100):
        await kv.commit(
            [],
            [
                Put(
                    f"cilium/state/ip/v1/default/10.1.{n // 250}.{n % 250}",
                    f'{{"IP":"10.1.{n // 250}.{n % 250}","ID":9999}}'.encode(),
                )
                for n in range(start, start + 100)
            ],
        )
    async with running(kv, hub) as replica:
        await replica.catch_up()
        assert len(replica.entries()) == 10_000
