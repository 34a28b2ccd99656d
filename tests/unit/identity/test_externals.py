"""Workloads that other systems publish, and what people put into the store by hand."""

from __future__ import annotations

from datetime import timedelta

import pytest

from fairlead import telemetry
from fairlead.address import Address, Prefix
from fairlead.clock import SYSTEM
from fairlead.errors import Conflict
from fairlead.kv import Delete
from fairlead.schema.identity import WithdrawWorkload
from tests.unit.identity.world import Replica, endpoint, machine, until


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
