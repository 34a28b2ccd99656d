"""Policies in an owner's name on real servers: the network plugin of a node states shorthand's documents, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from fairlead.bus import route
from fairlead.bus_nats import NatsBus
from fairlead.clock import SYSTEM
from fairlead.kv_memory import MemoryKv
from fairlead.schema.base import Empty, IdentityId, NodeName
from fairlead.schema.datapath import ENDPOINTS, REALISED, EndpointList, RealisedRow
from fairlead.schema.health import HEALTH, Health
from fairlead.schema.identity import PUT_WORKLOAD, REGISTER_NODE
from fairlead.schema.ipam import LEASES, Leases
from fairlead.schema.owned import OWNED_APPLY, OWNED_DELETE, OWNED_REPLACE, ReplacePolicies
from fairlead.schema.policy import (
    APPLY,
    DELETE,
    FORCE_APPLY,
    POLICIES,
    POLICY_PUBLISHED,
    POLICY_ROWS,
    ApplyPolicy,
    DeletePolicy,
    PolicyObject,
    PolicyReference,
    PolicyRow,
)
from services.policy.__main__ import compose
from services.policy.owned import OwnedPolicies
from services.policy.settings import PolicySettings
from tests.contract.test_credentials import MACHINE, N1, N2, facts
from tests.support.fleet import Fleet, new_fleet, refused, until

pytestmark = pytest.mark.connected

DOCKER, CI, COMPOSE = NodeName("docker"), NodeName("ci"), NodeName("compose")
KIND = "CiliumClusterwideNetworkPolicy"


def document(name: str) -> PolicyObject:
    return PolicyObject(
        apiVersion="cilium.io/v2", kind=KIND, metadata={"name": name}, spec={"endpointSelector": {}, "ingress": [{}]}
    )


def named(name: str) -> PolicyReference:
    return PolicyReference(kind=KIND, name=name)


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Fleet]:
    """A fleet with a policy service that knows that credentials are on."""
    issued = (("system", "ci", "--may", "policies=ci"), ("system", "cmdb", "--may", "policies"))
    async with new_fleet(tmp_path, *issued) as made:
        bus = await made.at_hub("policy-1")
        settings = PolicySettings(node="p1", nats_credentials="policy-1.nk")
        service, work = compose(settings, MemoryKv(), bus, SYSTEM, lambda *_: None)
        tasks = [asyncio.ensure_future(run()) for run in work.values()]
        await bus.serve("policy", (*service.routes(), *OwnedPolicies(service).routes()))
        operator = await made.at_hub("operator")
        await until(lambda: operator.request(POLICIES, Empty(), timeout_s=1))
        yield made
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def stored(bus: NatsBus) -> dict[str, str]:
    return {one.policy.name: one.owner for one in (await bus.request(POLICIES, Empty())).policies}


async def test_the_plugin_states_shorthand_and_speaks_with_its_nodes_services(fleet: Fleet) -> None:
    async def endpoints(_ask: Empty) -> EndpointList:
        return EndpointList(node=N1, endpoints=())

    async def leases(_ask: Empty) -> Leases:
        return Leases(node=N1, prefixes=(), leases=(), free=0)

    async def health(_ask: Empty) -> Health:
        return Health(service="docker", node="n1", version="1", since=SYSTEM.now(), pid=1, rss_bytes=1)

    await (await fleet.at_node("n1", "datapath")).serve("datapath", [route(ENDPOINTS, endpoints, N1)])
    await (await fleet.at_node("n1", "ipam")).serve("ipam", [route(LEASES, leases, N1)])
    plugin, operator = await fleet.at_node("n1", "docker"), await fleet.at_hub("operator")
    await plugin.serve("docker", [route(HEALTH, health)], shared=False)
    assert (await plugin.request(ENDPOINTS, Empty(), node=N1)).node == N1
    assert (await plugin.request(LEASES, Empty(), node=N1)).node == N1
    async with asyncio.timeout(15):
        while not [one for one in await operator.gather(HEALTH, Empty()) if one.service == "docker"]:
            await asyncio.sleep(0.05)

    ask = ApplyPolicy(document=document("docker-1"), owner="docker")
    await until(lambda: plugin.request(OWNED_APPLY, ask, node=DOCKER, timeout_s=1))
    assert await stored(operator) == {"docker-1": "docker"}
    again = await fleet.at_node("n2", "docker")
    assert not (await again.request(OWNED_APPLY, ask, node=DOCKER)).changed
    gone = DeletePolicy(policy=named("docker-1"), owner="docker")
    assert (await plugin.request(OWNED_DELETE, gone, node=DOCKER)).changed


async def test_each_forbidden_publish_of_the_plugin_is_refused(fleet: Fleet) -> None:
    plugin, operator = await fleet.at_node("n1", "docker"), await fleet.at_hub("operator")
    own = ApplyPolicy(document=document("docker-1"), owner="docker")
    await until(lambda: plugin.request(OWNED_APPLY, own, node=DOCKER, timeout_s=1))
    other = document("other")
    replacing = ReplacePolicies(owner="docker", documents=(document("docker-2"),))
    row = PolicyRow(identity=IdentityId(300), revision=1, entries=())
    tries: dict[str, Awaitable[object]] = {
        "a policy of nobody": plugin.request(APPLY, ApplyPolicy(document=other), timeout_s=1),
        "an owner that is claimed": plugin.request(APPLY, own, timeout_s=1),
        "another's name": plugin.request(
            OWNED_APPLY, ApplyPolicy(document=other, owner="compose/shop"), node=COMPOSE, timeout_s=1
        ),
        "another's name on its own subject": plugin.request(
            OWNED_APPLY, ApplyPolicy(document=other, owner="compose/shop"), node=DOCKER, timeout_s=1
        ),
        "a document that is not called so": plugin.request(
            OWNED_APPLY, ApplyPolicy(document=other, owner="docker"), node=DOCKER, timeout_s=1
        ),
        "all documents at once": plugin.request(OWNED_REPLACE, replacing, node=DOCKER, timeout_s=1),
        "force": plugin.request(FORCE_APPLY, ApplyPolicy(document=other), timeout_s=1),
        "a removal as nobody": plugin.request(DELETE, DeletePolicy(policy=named("docker-1")), timeout_s=1),
        "an event": plugin.publish(POLICY_PUBLISHED, other),
        "a workload": plugin.request(PUT_WORKLOAD, MACHINE, timeout_s=1),
        "a node": plugin.request(REGISTER_NODE, facts(N1), node=N1, timeout_s=1),
        "another node": plugin.request(ENDPOINTS, Empty(), node=N2, timeout_s=1),
        "rows of policy": plugin.bucket(POLICY_ROWS).put("300", row),
        "a row of its node": plugin.bucket(REALISED).put("n1", RealisedRow(node=N1, rows={})),
    }
    assert [what for what, work in tries.items() if not await refused(work)] == []
    assert await stored(operator) == {"docker-1": "docker"}
    assert await operator.bucket(REALISED).rows() == {}


async def test_others_state_policies_in_their_own_name_only(fleet: Fleet) -> None:
    ci, cmdb = await fleet.at_hub("ci"), await fleet.at_hub("cmdb")
    operator, client = await fleet.at_hub("operator"), await fleet.at_node("n1", "client")
    datapath = await fleet.at_node("n1", "datapath")
    mine = ReplacePolicies(owner="ci", documents=(document("one"),))
    assert (await ci.request(OWNED_REPLACE, mine, node=CI)).stored[0].changed
    assert (await cmdb.request(APPLY, ApplyPolicy(document=document("free")))).changed
    shop = ReplacePolicies(owner="compose/shop", documents=(document("shop"),))
    assert (await operator.request(OWNED_REPLACE, shop, node=COMPOSE)).stored[0].changed
    one, changed = document("two"), replace(document("one"), specs=[{"endpointSelector": {}, "egress": [{}]}])
    as_docker = ApplyPolicy(document=document("docker-1"), owner="docker")
    tries: dict[str, Awaitable[Any]] = {
        "without its name": ci.request(APPLY, ApplyPolicy(document=one), timeout_s=1),
        "the plugin's name": ci.request(OWNED_APPLY, as_docker, node=DOCKER, timeout_s=1),
        "a name that is claimed": cmdb.request(APPLY, ApplyPolicy(document=one, owner="ci"), timeout_s=1),
        "another's document": cmdb.request(APPLY, ApplyPolicy(document=changed), timeout_s=1),
        "another's name": cmdb.request(OWNED_APPLY, ApplyPolicy(document=one, owner="ci"), node=CI, timeout_s=1),
        "an operator as the plugin": operator.request(OWNED_APPLY, as_docker, node=DOCKER, timeout_s=1),
        "the datapath as the plugin": datapath.request(OWNED_APPLY, as_docker, node=DOCKER, timeout_s=1),
        "the node's client as the plugin": client.request(OWNED_APPLY, as_docker, node=DOCKER, timeout_s=1),
    }
    assert [what for what, work in tries.items() if not await refused(work)] == []
    assert await stored(operator) == {"one": "ci", "free": "", "shop": "compose/shop"}
