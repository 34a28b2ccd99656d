"""The service on a store and a bus in memory: what is committed, what is announced, and what a reply waits for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from fairlead import codec
from fairlead.errors import InvalidInput
from fairlead.kv import Delete, Put
from fairlead.kv_memory import MemoryKv
from fairlead.schema.base import Empty
from fairlead.schema.policy import (
    APPLY,
    DELETE,
    POLICIES,
    POLICY_PUBLISHED,
    ApplyPolicy,
    DeletePolicy,
    PolicyObject,
    PolicyReference,
)
from services.policy.simulate import simulate
from services.policy.store import StoredDocument
from tests.unit.policy.stack import DATABASE, EMPLOYEE, INTERN, World, by_number, clusterwide, seed


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    await world.identity(EMPLOYEE, "container:app=employee;")
    await world.identity(DATABASE, "container:app=protected-db;")
    await world.identity(INTERN, "container:app=intern;")
    yield world
    await world.stop()


async def test_without_policy_every_row_is_open(world: World) -> None:
    await world.start()
    rows = by_number(await world.until(lambda rows: len(rows) == 4))
    assert set(rows) == {5, EMPLOYEE, DATABASE, INTERN}
    assert simulate(rows, INTERN, DATABASE, 6, 6379).allowed
    assert [entry.identity for entry in rows[INTERN].entries] == [0, 0]
    assert not simulate(rows, INTERN, 5, 6, 80).allowed  # a workload without labels yet is closed


async def test_the_seed_policy_admits_employees_to_one_port(world: World) -> None:
    await world.start()
    await world.host("n2", DATABASE)
    await world.until(lambda rows: str(EMPLOYEE) in rows)
    answer = await world.bus.request(APPLY, ApplyPolicy(document=seed(), author="test"))
    assert (answer.changed, answer.identities, answer.policy.namespace) == (True, (DATABASE,), "default")
    rows = by_number(
        await world.until(lambda rows: bool(rows.get(str(DATABASE)) and rows[str(DATABASE)].ingress_default_deny))
    )
    assert simulate(rows, EMPLOYEE, DATABASE, 6, 6379).allowed
    assert not simulate(rows, EMPLOYEE, DATABASE, 6, 22).allowed
    refused = simulate(rows, INTERN, DATABASE, 6, 6379)
    assert refused.ingress.origins == ("CiliumNetworkPolicy default/clustermesh-ingress-l4-policy ingress[0]",)
    assert simulate(rows, DATABASE, INTERN, 6, 80).allowed
    assert rows[DATABASE].revision == answer.revision
    assert rows[EMPLOYEE].revision < answer.revision


async def test_an_equal_document_commits_nothing(world: World) -> None:
    await world.start()
    first = await world.bus.request(APPLY, ApplyPolicy(document=seed()))
    before = world.kv.revision
    again = await world.bus.request(APPLY, ApplyPolicy(document=seed()))
    assert (again.changed, again.revision, world.kv.revision) == (False, first.revision, before)


async def test_a_bad_document_changes_nothing(world: World) -> None:
    await world.start()
    before = world.kv.revision
    with pytest.raises(InvalidInput, match=r"`spec.ingress\[0\].toPorts\[0\].ports\[0\].port`: '65536' is larger"):
        await world.bus.request(APPLY, ApplyPolicy(document=seed("65536")))
    assert world.kv.revision == before


async def test_events_are_stored_and_bad_ones_are_dead_letters(world: World) -> None:
    await world.start()
    await world.bus.publish(POLICY_PUBLISHED, seed())
    await world.until(lambda rows: bool(rows.get(str(DATABASE)) and rows[str(DATABASE)].ingress_default_deny))
    await world.bus.publish(POLICY_PUBLISHED, seed("no such port"))
    assert [service for service, _ in world.hub.dead] == ["policy"]
    assert "toPorts[0].ports[0].port" in world.hub.dead[0][1]


async def test_waiting_names_the_stragglers(world: World) -> None:
    await world.start()
    await world.host("n1", EMPLOYEE)
    await world.host("n2", DATABASE)
    await world.host("n3", DATABASE, INTERN)
    await world.confirm("n2", {DATABASE: 10_000})
    await world.confirm("n3", {DATABASE: 1}, {DATABASE: "the policy map is full"})
    answer = await world.bus.request(APPLY, ApplyPolicy(document=seed(), wait_s=0.3))
    assert answer.resolved
    assert [(node.node, node.realised) for node in answer.nodes] == [("n2", True), ("n3", False)]
    assert answer.nodes[1].detail == f"identity {DATABASE}: the policy map is full"


async def test_waiting_ends_with_the_last_confirmation(world: World) -> None:
    await world.start()
    await world.host("n2", DATABASE)

    async def node() -> None:
        rows = await world.until(
            lambda rows: bool(rows.get(str(DATABASE)) and rows[str(DATABASE)].ingress_default_deny)
        )
        await world.confirm("n2", {DATABASE: rows[str(DATABASE)].revision})

    confirming = asyncio.create_task(node())
    answer = await world.bus.request(APPLY, ApplyPolicy(document=seed(), wait_s=5))
    await confirming
    assert answer.resolved
    assert [(node.node, node.realised, node.detail) for node in answer.nodes] == [("n2", True, "")]


async def test_a_deleted_policy_opens_again_and_deleting_twice_is_the_same(world: World) -> None:
    await world.start()
    await world.bus.request(APPLY, ApplyPolicy(document=seed()))
    await world.until(lambda rows: bool(rows.get(str(DATABASE)) and rows[str(DATABASE)].ingress_default_deny))
    name = PolicyReference(kind="CiliumNetworkPolicy", name="clustermesh-ingress-l4-policy")
    answer = await world.bus.request(DELETE, DeletePolicy(policy=name))
    assert (answer.changed, answer.identities) == (True, (DATABASE,))
    rows = await world.until(lambda rows: not rows[str(DATABASE)].ingress_default_deny)
    assert rows[str(DATABASE)].revision == answer.revision
    again = await world.bus.request(DELETE, DeletePolicy(policy=name))
    assert (again.changed, again.warnings != ()) == (False, True)
    assert (await world.bus.request(POLICIES, Empty())).policies == ()


async def test_a_restart_keeps_revisions_and_writes_nothing(world: World) -> None:
    await world.start()
    await world.bus.request(APPLY, ApplyPolicy(document=seed()))
    before = await world.until(lambda rows: bool(rows.get(str(DATABASE)) and rows[str(DATABASE)].ingress_default_deny))
    await world.stop()
    await world.identity(INTERN, "container:app=employee;")  # changes the database's row, and the intern's labels only
    await world.start()
    after = await world.until(lambda rows: rows[str(DATABASE)] != before[str(DATABASE)])
    assert simulate(by_number(after), INTERN, DATABASE, 6, 6379).allowed
    assert after[str(DATABASE)].revision > before[str(DATABASE)].revision
    assert {key for key in after if after[key] != before[key]} == {str(DATABASE)}


async def test_a_lost_bucket_is_filled_with_the_same_rows(world: World) -> None:
    await world.start()
    await world.bus.request(APPLY, ApplyPolicy(document=seed()))
    before = await world.until(lambda rows: bool(rows.get(str(DATABASE)) and rows[str(DATABASE)].ingress_default_deny))
    world.hub.drop_bucket("policy")
    assert await world.until(lambda rows: len(rows) == len(before)) == before


async def test_prefixes_get_numbers_that_last(world: World) -> None:
    await world.start()
    holes = {"toCIDRSet": [{"cidr": "10.0.0.0/8", "except": ["10.96.0.0/12"]}]}
    await world.bus.request(APPLY, ApplyPolicy(document=clusterwide("out", egress=[holes, {"toCIDR": ["fd00::/8"]}])))
    rows = await world.until(lambda rows: bool(rows.get(str(INTERN)) and rows[str(INTERN)].egress_default_deny))
    async with asyncio.timeout(5):
        while len((cidrs := await world.cidrs()).rows) < 3:
            await asyncio.sleep(0.005)
    numbers = {row.prefix: row.identity for row in cidrs.rows}
    assert set(numbers) == {"10.0.0.0/8", "10.96.0.0/12", "fd00::/8"}
    assert all("reserved:world" in row.labels for row in cidrs.rows)
    assert simulate(by_number(rows), INTERN, numbers["10.0.0.0/8"], 17, 53).allowed
    assert not simulate(by_number(rows), INTERN, numbers["10.96.0.0/12"], 17, 53).allowed
    await world.stop()
    await world.start()
    await world.bus.request(APPLY, ApplyPolicy(document=clusterwide("more", egress=[{"toCIDR": ["192.0.2.0/24"]}])))
    async with asyncio.timeout(5):
        while len((cidrs := await world.cidrs()).rows) < 4:
            await asyncio.sleep(0.005)
    assert {row.prefix: row.identity for row in cidrs.rows}.items() >= numbers.items()
    assert len({row.identity for row in cidrs.rows}) == 4


async def test_a_prefix_without_use_goes_after_its_grace(world: World) -> None:
    await world.start(grace_s=0.05)
    document = clusterwide("out", egress=[{"toCIDR": ["10.0.0.0/8"]}])
    await world.bus.request(APPLY, ApplyPolicy(document=document))
    assert (await world.kv.list("fairlead/cidr")).items
    await world.bus.request(
        DELETE, DeletePolicy(policy=PolicyReference(kind="CiliumClusterwideNetworkPolicy", name="out"))
    )
    async with asyncio.timeout(5):
        while (await world.cidrs()).rows or (await world.kv.list("fairlead/cidr")).items:
            await asyncio.sleep(0.01)


async def test_many_prefixes_in_one_document(world: World) -> None:
    await world.start()
    prefixes = [f"10.{number // 256}.{number % 256}.0/24" for number in range(300)]
    await world.bus.request(APPLY, ApplyPolicy(document=clusterwide("out", egress=[{"toCIDR": prefixes}])))
    rows = await world.until(lambda rows: bool(rows.get(str(INTERN)) and len(rows[str(INTERN)].entries) >= 300))
    assert len({entry.identity for entry in rows[str(INTERN)].entries}) == 301  # and any peer, at ingress


async def test_a_document_put_by_hand_works_and_a_broken_one_keeps_the_last_good(world: World) -> None:
    await world.start()
    key = "fairlead/policies/CiliumClusterwideNetworkPolicy/_/by-hand"
    document = clusterwide("by-hand", egress=[{"toCIDR": ["10.0.0.0/8"]}])
    await world.kv.commit([], [Put(key, codec.encode(StoredDocument(document=document)))])
    await world.until(lambda rows: bool(rows.get(str(INTERN)) and rows[str(INTERN)].egress_default_deny))
    await world.kv.commit([], [Put(key, b"\xc1 broken")])
    async with asyncio.timeout(5):
        while world.conditions.get("store contents", (True, ""))[0]:
            await asyncio.sleep(0.005)
    assert "by-hand" in world.conditions["store contents"][1]
    assert (await world.rows())[str(INTERN)].egress_default_deny
    await world.kv.commit([], [Delete(key)])
    await world.until(lambda rows: not rows[str(INTERN)].egress_default_deny)
    assert world.conditions["store contents"] == (True, "")


async def test_a_store_that_lost_its_policies_opens_nothing(world: World) -> None:
    for number in range(2000, 2040):
        await world.identity(number, f"container:app=a{number};")
    await world.start()
    await world.bus.request(APPLY, ApplyPolicy(document=clusterwide("closed", ingress=[{}])))
    await world.until(lambda rows: len(rows) == 44 and all(row.ingress_default_deny for row in rows.values()))
    await world.stop()
    world.kv = MemoryKv()
    await world.start()
    async with asyncio.timeout(5):
        while world.conditions.get("mass change", (True, ""))[0]:
            await asyncio.sleep(0.005)
    rows = await world.rows()
    assert len(rows) == 44
    assert all(row.ingress_default_deny for row in rows.values())
    await world.stop()
    await world.start(accept_mass_change=True)
    await world.until(lambda rows: len(rows) == 1)


async def test_two_replicas_come_to_the_same(world: World) -> None:
    other = World()
    other.kv, other.hub, other.bus = world.kv, world.hub, world.bus
    await world.start()
    await other.start()
    documents = [clusterwide(f"p{number}", egress=[{"toCIDR": [f"10.{number}.0.0/16"]}]) for number in range(20)]
    await asyncio.gather(*(world.bus.request(APPLY, ApplyPolicy(document=document)) for document in documents))
    rows = await world.until(lambda rows: bool(rows.get(str(INTERN)) and len(rows[str(INTERN)].entries) == 21))
    assert len({entry.identity for entry in rows[str(INTERN)].entries}) == 21
    await other.stop()


async def test_groups_that_denies_refer_to_come_first_and_go_last(world: World) -> None:
    await world.start()
    group = PolicyObject(
        apiVersion="cilium.io/v2",
        kind="CiliumCIDRGroup",
        metadata={"name": "bad"},
        spec={"externalCIDRs": ["192.0.2.0/24"]},
    )
    denying = clusterwide("deny", egressDeny=[{"toCIDRSet": [{"cidrGroupRef": "bad"}]}])
    with pytest.raises(InvalidInput, match="there is no CiliumCIDRGroup bad"):
        await world.bus.request(APPLY, ApplyPolicy(document=denying))
    await world.bus.request(APPLY, ApplyPolicy(document=group, wait_s=1))
    await world.bus.request(APPLY, ApplyPolicy(document=denying, wait_s=1))
    number = next(row.identity for row in (await world.cidrs()).rows)
    assert not simulate(by_number(await world.rows()), INTERN, number, 6, 80).allowed
    reference = PolicyReference(kind="CiliumCIDRGroup", name="bad")
    with pytest.raises(InvalidInput, match="would no longer deny anything"):
        await world.bus.request(DELETE, DeletePolicy(policy=reference))


async def test_what_cannot_be_carried_out_is_told_at_once_and_in_the_list(world: World) -> None:
    await world.start()
    rules = {"http": [{"method": "GET"}]}
    item = {"toPorts": [{"ports": [{"port": "80", "protocol": "TCP"}], "rules": rules}]}
    services = {"toServices": [{"k8sService": {"serviceName": "cache"}}]}
    document = clusterwide("l7", ingress=[item], egress=[services])
    answer = await world.bus.request(APPLY, ApplyPolicy(document=document, wait_s=1))
    assert answer.warnings == (
        "`spec.ingress[0].toPorts[0].rules.http`: there is no HTTP proxy here: this traffic is refused",
        "`spec.egress[0].toServices[0]`: there is no workload of the service cache now: this allows nobody",
    )
    refused = simulate(by_number(await world.rows()), EMPLOYEE, DATABASE, 6, 80).ingress
    assert refused.origins == ("CiliumClusterwideNetworkPolicy l7 ingress[0] (closed: no HTTP proxy here)",)
    await world.identity(1004, "container:com.docker.compose.service=cache;")
    await world.until(lambda rows: "1004" in rows)
    assert (await world.bus.request(POLICIES, Empty())).policies[0].warnings == answer.warnings[:1]
