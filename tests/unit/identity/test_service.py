from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import timedelta

import msgspec
import pytest

from fairlead import telemetry
from fairlead.address import Address, Prefix
from fairlead.bus_memory import Hub
from fairlead.clock import SYSTEM
from fairlead.errors import Conflict, InvalidInput, Unavailable
from fairlead.kv import Delete, Put
from fairlead.kv_memory import MemoryKv
from fairlead.schema.identity import ADDRESSES, IDENTITIES, NODES, RegisterNode, WithdrawWorkload
from tests.unit.identity.world import N1, N2, Replica, endpoint, gone, machine, register_nodes, running, until


@pytest.fixture
def kv() -> MemoryKv:
    return MemoryKv()


@pytest.fixture
def hub() -> Hub:
    return Hub()


@pytest.fixture
async def replica(kv: MemoryKv, hub: Hub) -> AsyncIterator[Replica]:
    async with running(kv, hub) as started:
        await register_nodes(started)
        yield started


async def test_an_endpoint_gets_identity_addresses_and_rows(replica: Replica, kv: MemoryKv) -> None:
    telemetry.setup("test", "n1", {})
    with telemetry.span("cause"):
        trace = telemetry.traceparent()
        answer = await replica.service.register_endpoint(endpoint())
    assert trace
    assert answer.labels == ("container:app=web",)
    assert 256 <= answer.identity <= 65535
    await replica.catch_up()
    stored = await kv.get(f"cilium/state/identities/v1/id/{answer.identity}")
    assert stored is not None
    assert stored.value == b"container:app=web;"
    address = await kv.get("cilium/state/ip/v1/default/10.0.1.2")
    assert address is not None
    assert address.revision == answer.revision
    value = json.loads(address.value)
    assert {key: value[key] for key in ("IP", "Mask", "HostIP", "ID", "Metadata", "K8sPodName")} == {
        "IP": "10.0.1.2",
        "Mask": None,
        "HostIP": "192.168.0.1",
        "ID": answer.identity,
        "Metadata": "",
        "K8sPodName": "web",
    }
    identity = await replica.bus.bucket(IDENTITIES).get(str(answer.identity))
    group = await replica.bus.bucket(ADDRESSES).get("n1")
    assert identity is not None
    assert group is not None
    assert identity.labels == ("container:app=web",)
    assert {entry.prefix for entry in group.entries} == {"10.0.1.2/32", "fd00:1::2/128"}
    assert {entry.identity for entry in group.entries} == {answer.identity}
    assert group.revision == answer.revision
    assert telemetry.trace_id(identity.trace) == telemetry.trace_id(group.trace) == telemetry.trace_id(trace)


async def test_saying_it_again_changes_nothing(replica: Replica, kv: MemoryKv) -> None:
    first = await replica.service.register_endpoint(endpoint())
    node = RegisterNode(node=N1, addresses=(Address("192.168.0.1"),))
    before = kv.revision
    assert await replica.service.register_endpoint(endpoint()) == first
    assert not (await replica.service.register_node(node)).changed
    assert kv.revision == before


async def test_a_node_must_be_known_before_its_endpoints_unless_they_name_its_address(replica: Replica) -> None:
    with pytest.raises(Unavailable, match="n9"):
        await replica.service.register_endpoint(endpoint(node="n9"))  # type: ignore[arg-type]  # a name is a text
    named = endpoint(node="n9", node_address=Address("192.168.0.9"))  # type: ignore[arg-type]  # a name is a text
    await replica.service.register_endpoint(named)
    await replica.catch_up()
    assert replica.group_of("10.0.1.2/32") == "n9"


async def test_the_larger_generation_wins_wherever_it_comes_from(replica: Replica) -> None:
    await replica.service.register_endpoint(endpoint(generation=5))
    with pytest.raises(Conflict, match="newer than 4"):
        await replica.service.register_endpoint(endpoint(generation=4, labels=("app=old",)))
    with pytest.raises(Conflict, match="fairlead/endpoints/n1/web"):
        await replica.service.register_endpoint(endpoint("thief", N2, generation=5))
    await replica.service.register_endpoint(endpoint("heir", N2, generation=6))
    await replica.catch_up()
    assert replica.group_of("10.0.1.2/32") == "n2"
    # the old owner's farewell comes late and must not take the heir's addresses
    await replica.service.withdraw_endpoint(gone(generation=5))
    await replica.catch_up()
    assert replica.group_of("fd00:1::2/128") == "n2"


async def test_fewer_addresses_free_the_others(replica: Replica) -> None:
    await replica.service.register_endpoint(endpoint())
    await replica.service.register_endpoint(endpoint(generation=2, addresses=(Address("10.0.1.2"),)))
    await replica.catch_up()
    assert set(replica.entries()) == {"10.0.1.2/32"}


async def test_relabelling_changes_the_identity_of_all_addresses_at_once(replica: Replica) -> None:
    old = await replica.service.register_endpoint(endpoint())
    new = await replica.service.register_endpoint(endpoint(generation=2, labels=("app=db",)))
    await replica.catch_up()
    assert old.identity != new.identity
    assert {entry.identity for entry in replica.entries().values()} == {new.identity}


async def test_what_is_withdrawn_stays_away_when_the_registration_comes_late(replica: Replica) -> None:
    await replica.service.register_endpoint(endpoint(generation=7))
    assert (await replica.service.withdraw_endpoint(gone(generation=7))).changed
    assert not (await replica.service.withdraw_endpoint(gone(generation=7))).changed
    with pytest.raises(Conflict, match="withdrawn"):
        await replica.service.register_endpoint(endpoint(generation=7))
    await replica.catch_up()
    assert replica.entries() == {}
    await replica.service.register_endpoint(endpoint(generation=8))
    await replica.catch_up()
    assert set(replica.entries()) == {"10.0.1.2/32", "fd00:1::2/128"}


async def test_an_older_withdrawal_is_ignored(replica: Replica) -> None:
    await replica.service.register_endpoint(endpoint(generation=7))
    assert not (await replica.service.withdraw_endpoint(gone(generation=6))).changed
    await replica.catch_up()
    assert len(replica.entries()) == 2


async def test_endpoints_without_generation_come_and_go(replica: Replica) -> None:
    for _ in range(2):
        await replica.service.register_endpoint(endpoint(generation=0))
        await replica.service.withdraw_endpoint(gone(generation=0))
    await replica.service.register_endpoint(endpoint(generation=0))
    await replica.catch_up()
    assert len(replica.entries()) == 2


@pytest.mark.parametrize(
    ("labels", "field"),
    [(("reserved:host",), "reserved"), (("a=1", "a=2"), "twice"), (("a;b",), "semicolon"), (("=x",), "no key")],
)
async def test_bad_labels_are_refused_by_name(replica: Replica, labels: tuple[str, ...], field: str) -> None:
    with pytest.raises(InvalidInput, match=field):
        await replica.service.register_endpoint(endpoint(labels=labels))
    with pytest.raises(InvalidInput, match=field):
        await replica.service.put_workload(machine(labels=labels))


async def test_an_external_workload_is_announced_in_a_shard_with_its_trace(replica: Replica) -> None:
    telemetry.setup("test", "n1", {})
    with telemetry.span("cause"):
        trace = telemetry.traceparent()
        answer = await replica.service.put_workload(machine(addresses=(Prefix("10.9.0.1/32"), Prefix("10.8.0.0/24"))))
    await replica.catch_up()
    entries = replica.entries()
    assert {prefix: (entry.identity, entry.host) for prefix, entry in entries.items()} == {
        "10.9.0.1/32": (answer.identity, None),
        "10.8.0.0/24": (answer.identity, None),
    }
    group = replica.group_of("10.8.0.0/24")
    assert group.startswith("external-")
    assert telemetry.trace_id(replica.announcer.addresses.rows[group].trace) == telemetry.trace_id(trace)
    with telemetry.span("end"):
        end = telemetry.traceparent()
        await replica.service.remove_workload(WithdrawWorkload(source="cmdb", source_id="vm-1", generation=2))
    await replica.catch_up()
    assert replica.entries() == {}
    assert telemetry.trace_id(replica.announcer.addresses.rows[group].trace) == telemetry.trace_id(end)


async def test_generations_of_external_workloads_only_rise(replica: Replica) -> None:
    await replica.service.put_workload(machine(generation=5))
    for generation in (5, 4):
        answer = await replica.service.put_workload(machine(generation=generation, labels=("app=other",)))
        assert not answer.changed
    late = WithdrawWorkload(source="cmdb", source_id="vm-1", generation=4)
    assert not (await replica.service.remove_workload(late)).changed
    assert (
        await replica.service.remove_workload(WithdrawWorkload(source="cmdb", source_id="vm-1", generation=5))
    ).changed
    assert not (await replica.service.put_workload(machine(generation=5))).changed
    await replica.catch_up()
    assert replica.entries() == {}
    assert (await replica.service.put_workload(machine(generation=6))).changed


async def test_a_withdrawal_that_overtakes_its_publication_still_counts(replica: Replica) -> None:
    await replica.service.remove_workload(WithdrawWorkload(source="cmdb", source_id="vm-1", generation=3))
    assert not (await replica.service.put_workload(machine(generation=2))).changed
    await replica.catch_up()
    assert replica.entries() == {}


async def test_nobody_takes_an_address_that_belongs_to_another(replica: Replica) -> None:
    await replica.service.register_endpoint(endpoint())
    with pytest.raises(Conflict, match="fairlead/endpoints/n1/web"):
        await replica.service.put_workload(machine(addresses=(Prefix("10.0.1.2/32"),)))
    await replica.service.put_workload(machine())
    with pytest.raises(Conflict, match="fairlead/externals/cmdb/vm-1"):
        await replica.service.put_workload(machine(source="openstack", generation=99))
    with pytest.raises(Conflict, match="fairlead/externals/cmdb/vm-1"):
        await replica.service.register_endpoint(endpoint("x", generation=99, addresses=(Address("10.9.0.1"),)))


async def test_sixty_four_addresses_are_exchanged_for_others(replica: Replica) -> None:
    first = tuple(Prefix(f"10.1.{number}.1/32") for number in range(64))
    second = tuple(Prefix(f"10.2.{number}.1/32") for number in range(64))
    await replica.service.put_workload(machine(addresses=first))
    await replica.service.put_workload(machine(addresses=second, generation=2))
    await replica.catch_up()
    assert set(replica.entries()) == set(second)


async def test_an_overdue_lease_is_told_and_nothing_is_deleted(replica: Replica) -> None:
    await replica.service.put_workload(machine(lease_s=60))
    await until(lambda: bool(replica.leases._leased))
    replica.leases.look(SYSTEM.now())
    assert replica.conditions["external leases"][0]
    replica.leases.look(SYSTEM.now() + timedelta(seconds=61))
    ok, detail = replica.conditions["external leases"]
    assert not ok
    assert "cmdb/vm-1" in detail
    await replica.catch_up()
    assert set(replica.entries()) == {"10.9.0.1/32"}


async def test_what_people_put_by_hand_takes_effect_and_bad_entries_do_not(replica: Replica) -> None:
    await replica.put("cilium/state/identities/v1/id/7777", "k8s:app=legacy;k8s:env=;")
    await replica.put("cilium/state/ip/v1/default/172.16.0.1", '{"IP":"172.16.0.1","ID":7777}')
    await replica.put(
        "cilium/state/ip/v1/default/172.16.1.0/24", '{"IP":"172.16.1.0","Mask":"////AA==","ID":7777,"X":1}'
    )
    await replica.put(
        "cilium/state/ip/v1/default/172.16.2.2", '{"IP":"172.16.2.2","Mask":null,"HostIP":"192.168.0.2","ID":7777}'
    )
    await replica.put("cilium/state/ip/v1/other/172.16.9.9", '{"IP":"172.16.9.9","ID":7777}')
    bad = {
        "ip/v1/default/172.16.0.3": '{"IP":"172.16.0.4","ID":7777}',
        "ip/v1/default/172.16.0.5": '{"IP":"172.16.0.5","ID":"7777"}',
        "ip/v1/default/172.16.0.6": "not json",
        "ip/v1/default/172.16.0.7": '{"IP":"172.16.0.7","Mask":"AP8A/w==","ID":7777}',
        "ip/v1/default/172.16.0.8/32": '{"IP":"172.16.0.8","ID":7777}',
        "ip/v1/default/nonsense": '{"IP":"172.16.0.9","ID":7777}',
        "identities/v1/id/abc": "k8s:app=x;",
        "identities/v1/id/300": "",
        "identities/v1/id/5": "k8s:app=x;",
        "nodes/v1/default/n7": '{"Name":"n8","Cluster":"default"}',
        "nodes/v1/default/N 7": '{"Name":"N 7","Cluster":"default"}',
    }
    for key, value in bad.items():
        await replica.put(f"cilium/state/{key}", value)
    await replica.put("cilium/state/identities/v1/id/301", b"\xff\xfe")
    await replica.catch_up()
    assert set(replica.entries()) == {"172.16.0.1/32", "172.16.1.0/24", "172.16.2.2/32"}
    assert replica.group_of("172.16.2.2/32") == "n2"
    assert replica.announcer.identities.rows["7777"].labels == ("k8s:app=legacy", "k8s:env")
    assert set(replica.announcer.identities.rows) == {"7777"}
    assert set(replica.catalogue.bad) == {f"cilium/state/{key}" for key in [*bad, "identities/v1/id/301"]}
    assert not replica.conditions["entries"][0]
    await replica.put("cilium/state/ip/v1/default/172.16.0.3", '{"IP":"172.16.0.3","ID":7777}')
    for key in list(replica.catalogue.bad):
        await replica.kv.commit([], [Delete(key)])
    await replica.catch_up()
    assert replica.conditions["entries"] == (True, "")


async def test_labels_numbered_by_hand_keep_their_number(replica: Replica) -> None:
    await replica.put("cilium/state/identities/v1/id/4242", "container:app=web;")
    await replica.catch_up()
    assert (await replica.service.register_endpoint(endpoint())).identity == 4242
    await replica.put("cilium/state/identities/v1/value/container:app=db;/10.0.0.9", "4243")
    assert (await replica.service.register_endpoint(endpoint("db", generation=2, labels=("app=db",)))).identity == 4243


async def test_addresses_move_when_their_node_turns_up_and_the_gaining_group_is_written_first(replica: Replica) -> None:
    await replica.put("cilium/state/ip/v1/default/10.5.0.1", '{"IP":"10.5.0.1","HostIP":"192.168.0.5","ID":9999}')
    await replica.catch_up()
    shard = replica.group_of("10.5.0.1/32")
    order: list[str] = []
    original = replica.announcer.addresses._bucket.put

    async def put(key: str, row: object) -> None:
        order.append(key)
        await original(key, row)  # type: ignore[arg-type]  # passed on as it came

    replica.announcer.addresses._bucket.put = put  # type: ignore[method-assign]  # to see the order of writes
    await replica.service.register_node(RegisterNode(node="n5", addresses=(Address("192.168.0.5"),)))  # type: ignore[arg-type]  # a name is a text
    await replica.catch_up()
    assert order == ["n5", shard]
    assert replica.group_of("10.5.0.1/32") == "n5"


async def test_nodes_are_announced_with_addresses_and_prefixes(replica: Replica) -> None:
    ask = RegisterNode(
        node=N1,
        addresses=(Address("192.168.0.1"), Address("fd00::1")),
        prefixes=(Prefix("10.0.1.0/24"), Prefix("fd00:1::/80"), Prefix("10.0.9.0/25")),
    )
    answer = await replica.service.register_node(ask)
    await replica.catch_up()
    row = await replica.bus.bucket(NODES).get("n1")
    assert row is not None
    assert row.revision == answer.revision
    assert row.addresses == ask.addresses
    assert set(row.prefixes) == set(ask.prefixes)


async def test_a_node_is_announced_with_its_labels_and_cannot_claim_to_be_the_world(replica: Replica) -> None:
    ask = RegisterNode(node=N1, addresses=(Address("192.168.0.1"),), labels=("role=gateway", "k8s:zone=a", "spot="))
    assert (await replica.service.register_node(ask)).changed
    assert not (await replica.service.register_node(ask)).changed
    await replica.catch_up()
    row = await replica.bus.bucket(NODES).get("n1")
    assert row is not None
    assert row.labels == ("container:role=gateway", "container:spot", "k8s:zone=a")
    with pytest.raises(InvalidInput, match="reserved:world"):
        await replica.service.register_node(msgspec.structs.replace(ask, labels=("reserved:world",)))


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
