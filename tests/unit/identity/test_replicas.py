"""Two replicas on a real etcd, many askers at once."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from fairlead.address import Address
from fairlead.bus_memory import Hub
from fairlead.errors import Unavailable
from fairlead.kv_etcd import EtcdKv
from fairlead.schema.identity import EndpointRegistered, RegisterEndpoint, WithdrawWorkload
from services.identity.keys import Keys
from services.identity.model import candidate
from tests.support.etcd import EtcdServer, etcd
from tests.unit.identity.world import N1, N2, Replica, endpoint, machine, register_nodes, running

__all__ = ["etcd"]
pytestmark = pytest.mark.connected


@pytest.fixture
async def pair(etcd: EtcdServer) -> AsyncIterator[tuple[Replica, Replica]]:
    hub = Hub()
    stores = EtcdKv(etcd.url, timeout_s=2), EtcdKv(etcd.url, timeout_s=2)
    async with running(stores[0], hub) as one, running(stores[1], hub) as two:
        await register_nodes(one)
        await two.catch_up()
        yield one, two
    for store in stores:
        await store.close()


def numbered(number: int, labels: str) -> RegisterEndpoint:
    return endpoint(f"e{number}", N1 if number % 2 else N2, addresses=(Address(f"10.3.0.{number}"),), labels=(labels,))


async def test_fifty_askers_with_the_same_labels_get_one_number(pair: tuple[Replica, Replica]) -> None:
    answers = await asyncio.gather(
        *(pair[number % 2].service.register_endpoint(numbered(number, "app=same")) for number in range(50))
    )
    assert len({answer.identity for answer in answers}) == 1
    listing = await pair[0].kv.list(pair[0].keys.ids)
    assert [item.value for item in listing.items] == [b"container:app=same;"]


async def test_label_sets_that_want_the_same_number_get_different_ones(pair: tuple[Replica, Replica]) -> None:
    wanted = [(f"n={number}", candidate((f"container:n={number}",), ())) for number in range(1500)]
    most, times = Counter(number for _, number in wanted).most_common(1)[0]
    rivals = [labels for labels, number in wanted if number == most]
    assert times > 1, "no two labels want the same number: the test shows nothing"
    answers: list[EndpointRegistered] = await asyncio.gather(
        *(
            pair[turn % 2].service.register_endpoint(numbered(turn, labels))
            for turn, labels in enumerate([*rivals, *(f"other={n}" for n in range(40))])
        )
    )
    assert len({answer.identity for answer in answers}) == len(answers)
    for answer in answers:
        item = await pair[0].kv.get(pair[0].keys.id(answer.identity))
        assert item is not None
        assert item.value.decode().rstrip(";") == answer.labels[0]


async def test_a_number_removed_by_hand_is_made_again(pair: tuple[Replica, Replica], etcd: EtcdServer) -> None:
    one, two = pair
    first = await one.service.register_endpoint(numbered(1, "app=x"))
    etcd.ctl("del", one.keys.id(first.identity))
    again = await two.service.register_endpoint(numbered(2, "app=x"))
    assert again.identity == first.identity
    assert etcd.ctl("get", "--print-value-only", one.keys.id(first.identity)).strip() == "container:app=x;"
    etcd.ctl("put", one.keys.id(first.identity), "container:app=usurper;")
    await two.catch_up()
    third = await two.service.register_endpoint(numbered(3, "app=x"))
    assert third.identity != first.identity


async def test_replicas_race_for_one_external_record(pair: tuple[Replica, Replica]) -> None:
    answers = await asyncio.gather(
        *(
            pair[turn % 2].service.put_workload(machine(generation=turn, labels=(f"v={turn}",)))
            for turn in range(1, 21)
        ),
        *(
            pair[turn % 2].service.remove_workload(WithdrawWorkload(source="cmdb", source_id="vm-1", generation=turn))
            for turn in range(1, 20)
        ),
        return_exceptions=True,
    )
    assert all(not isinstance(answer, BaseException) or isinstance(answer, Unavailable) for answer in answers)
    await pair[0].service.put_workload(machine(generation=21, labels=("v=last",)))
    for replica in pair:
        await replica.catch_up()
        entry = replica.entries()["10.9.0.1/32"]
        assert replica.announcer.identities.rows[str(entry.identity)].labels == ("container:v=last",)


async def test_a_crash_of_the_store_is_survived(pair: tuple[Replica, Replica], etcd: EtcdServer) -> None:
    one, two = pair
    await one.service.register_endpoint(numbered(1, "app=x"))
    etcd.kill()
    with pytest.raises(Unavailable):
        await one.service.register_endpoint(numbered(2, "app=x"))
    assert one.entries()
    etcd.start()
    async with asyncio.timeout(10):
        while True:
            try:
                await one.service.register_endpoint(numbered(2, "app=x"))
                break
            except Unavailable:
                await asyncio.sleep(0.05)
    etcd.ctl("put", Keys("cilium", "default").addresses + "10.3.0.9", json.dumps({"IP": "10.3.0.9", "ID": 700}))
    for replica in (one, two):
        await replica.catch_up()
        assert set(replica.entries()) == {"10.3.0.1/32", "10.3.0.2/32", "10.3.0.9/32"}
