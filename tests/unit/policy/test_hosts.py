"""Host policies: the row of a node itself, from the labels under its key in the store."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest_asyncio

from fairlead.kv import Delete, Put
from fairlead.schema.policy import APPLY, ApplyPolicy, PolicyEntry, PolicyObject, PolicyRow
from services.policy.others import node_labels
from services.policy.resolve import Mode
from tests.unit.policy.stack import DATABASE, World, clusterwide

NODE_KEY = "cilium/state/nodes/v1/default/"
SSH = {
    "ingress": [
        {"fromEntities": ["cluster"], "toPorts": [{"ports": [{"port": "22", "protocol": "TCP"}]}]},
    ]
}


@pytest_asyncio.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    yield world
    await world.stop()


async def register(world: World, node: str, *labels: str) -> None:
    value = {"Name": node, "Cluster": "default", "Labels": dict(label.split("=") for label in labels) or None}
    await world.kv.commit([], [Put(NODE_KEY + node, json.dumps(value).encode())])


def host_policy(name: str = "ssh", selector: dict[str, Any] | None = None, **spec: Any) -> PolicyObject:
    document = clusterwide(name, **(spec or SSH))
    assert document.spec is not None
    del document.spec["endpointSelector"]
    document.spec["nodeSelector"] = selector or {}
    return document


def ports(row: PolicyRow) -> set[tuple[int, int]]:
    return {(entry.identity, entry.port) for entry in row.entries if entry.direction == 0}


async def apply(world: World, document: PolicyObject, **options: Any) -> Any:
    return await world.bus.request(APPLY, ApplyPolicy(document=document, **options), timeout_s=5)


async def test_a_node_has_a_row_of_its_own_which_is_open_without_a_host_policy(world: World) -> None:
    await register(world, "n1", "role=gateway")
    await world.start()
    rows = await world.until(lambda rows: "host-n1" in rows)
    row = rows["host-n1"]
    assert row.identity == 1
    assert row.entries == (PolicyEntry(direction=0, identity=0), PolicyEntry(direction=1, identity=0))  # type: ignore[arg-type]


async def test_a_host_policy_reaches_the_nodes_that_it_selects_and_no_workload(world: World) -> None:
    await register(world, "n1", "role=gateway")
    await register(world, "n2", "role=store")
    await world.identity(DATABASE, "container:role=gateway;")
    await world.start()
    answer = await apply(world, host_policy(selector={"matchLabels": {"role": "gateway"}}))
    assert answer.identities == (1,)
    rows = await world.until(lambda rows: len(rows) == 4 and bool(rows["host-n1"].ingress_default_deny))
    # the entity `cluster`: this host, other nodes, and every workload; never the nodes in their role as subjects
    assert ports(rows["host-n1"]) == {(number, 22) for number in (1, 3, 4, 5, 6, 7, 8, DATABASE)}
    assert rows["host-n1"].origins == ("CiliumClusterwideNetworkPolicy ssh ingress[0]",)
    assert not rows["host-n2"].ingress_default_deny
    assert not rows[str(DATABASE)].ingress_default_deny


async def test_a_new_peer_and_new_labels_of_the_node_change_its_row(world: World) -> None:
    await register(world, "n1")
    await world.start()
    await apply(world, host_policy(selector={"matchLabels": {"role": "gateway"}}))
    await world.until(lambda rows: "host-n1" in rows)
    await register(world, "n1", "role=gateway")
    await world.until(lambda rows: bool(rows["host-n1"].ingress_default_deny))
    await world.identity(DATABASE, "container:app=db;")
    await world.until(lambda rows: (DATABASE, 22) in ports(rows["host-n1"]))
    await world.kv.commit([], [Delete(NODE_KEY + "n1")])
    left = await world.until(lambda rows: "host-n1" not in rows)
    assert str(DATABASE) in left


async def test_a_node_is_selected_by_its_name(world: World) -> None:
    await register(world, "n1")
    await register(world, "n2")
    await world.start()
    await apply(world, host_policy(selector={"matchLabels": {"kubernetes.io/hostname": "n2"}}))
    rows = await world.until(lambda rows: len(rows) == 3 and bool(rows["host-n2"].ingress_default_deny))
    assert not rows["host-n1"].ingress_default_deny


async def test_enforcement_mode_always_does_not_lock_people_out_of_nodes(world: World) -> None:
    await register(world, "n1")
    await world.start(enforcement_mode=Mode.ALWAYS)
    rows = await world.until(lambda rows: "host-n1" in rows)
    assert not rows["host-n1"].ingress_default_deny


async def test_waiting_names_the_node_that_has_not_confirmed_its_own_row(world: World) -> None:
    await register(world, "n1")
    await world.start()
    await world.host("n9")
    await world.until(lambda rows: "host-n1" in rows)
    answer = await apply(world, host_policy(), wait_s=0.3)
    assert [(node.node, node.realised) for node in answer.nodes] == [("n1", False)]
    assert answer.nodes[0].detail == "the node itself: the node has confirmed nothing yet"
    rows = await world.rows()
    await world.confirm("n1", {"host-n1": rows["host-n1"].revision})  # type: ignore[dict-item] # any key will do
    answer = await apply(world, host_policy(), wait_s=5)
    assert [(node.node, node.realised) for node in answer.nodes] == [("n1", True)]


async def test_rows_of_nodes_keep_their_revision_across_a_restart(world: World) -> None:
    await register(world, "n1")
    await world.start()
    await apply(world, host_policy())
    before = await world.until(lambda rows: "host-n1" in rows and bool(rows["host-n1"].ingress_default_deny))
    await world.stop()
    await world.start()
    await world.identity(DATABASE, "container:app=db;")
    after = await world.until(lambda rows: str(DATABASE) in rows and (DATABASE, 22) in ports(rows["host-n1"]))
    assert after["host-n1"].revision > before["host-n1"].revision
    await world.stop()
    await world.start()
    await world.identity(DATABASE + 1, "other:app=x;")
    again = await world.until(lambda rows: str(DATABASE + 1) in rows)
    assert (DATABASE + 1, 22) in ports(again["host-n1"])


def test_labels_of_nodes_as_cilium_writes_them() -> None:
    value = json.dumps({"Name": "n1", "Cluster": "default", "Labels": {"role": "gateway", "node:zone": "a"}})
    assert {str(label) for label in node_labels("n1", value.encode())} == {"k8s:role=gateway", "node:zone=a"}
