"""Policies in an owner's name: who may, and all of an owner's documents at once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from msgspec.structs import replace

from fairlead.errors import Denied, InvalidInput
from fairlead.schema.base import Empty, NodeName
from fairlead.schema.owned import (
    FORCE_REPLACE,
    OWNED_APPLY,
    OWNED_DELETE,
    OWNED_REPLACE,
    OWNED_ROLLBACK,
    PoliciesReplaced,
    ReplacePolicies,
    speaker,
)
from fairlead.schema.policy import (
    APPLY,
    DELETE,
    FORCE_APPLY,
    POLICIES,
    ROLLBACK,
    ApplyPolicy,
    DeletePolicy,
    PolicyObject,
    PolicyReference,
    RollBackPolicy,
)
from tests.unit.policy.stack import DATABASE, World, clusterwide, seed

SHOP, DOCKER = "compose/shop", NodeName("docker")


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    await world.identity(DATABASE, "container:app=protected-db;container:com.docker.compose.project=shop;")
    await world.host("n1")
    await world.start(nats_credentials="policy-1.nk")
    yield world
    await world.stop()


def document(name: str, port: str = "5432", tests: list[dict[str, Any]] | None = None) -> PolicyObject:
    return replace(seed(port), metadata={"name": name, "namespace": "shop"}, tests=tests)


def expecting(verdict: str, port: str) -> list[dict[str, Any]]:
    ends = {"from": {"labels": {"app": "employee"}}, "to": {"labels": {"app": "protected-db"}}}
    return [{**ends, "port": port, "expect": verdict}]


async def state(world: World, *documents: PolicyObject, owner: str = SHOP) -> PoliciesReplaced:
    ask = ReplacePolicies(owner=owner, documents=documents, author="ci", wait_s=5)
    return await world.bus.request(OWNED_REPLACE, ask, node=speaker(owner))


async def names(world: World) -> set[tuple[str, str]]:
    found = (await world.bus.request(POLICIES, Empty())).policies
    return {(one.policy.name, one.owner) for one in found}


async def test_an_owner_is_what_the_subject_says_and_not_what_a_message_claims(world: World) -> None:
    reference = PolicyReference(kind="CiliumNetworkPolicy", name="db", namespace="shop")
    claims: tuple[tuple[Any, Any], ...] = (
        (APPLY, ApplyPolicy(document=document("db"), owner=SHOP)),
        (DELETE, DeletePolicy(policy=reference, owner=SHOP)),
        (ROLLBACK, RollBackPolicy(policy=reference, owner=SHOP)),
    )
    for topic, ask in claims:
        with pytest.raises(Denied, match="--may policies=compose"):
            await world.bus.request(topic, ask)
    with pytest.raises(Denied, match="compose/shop stated on the subject of docker"):
        await world.bus.request(OWNED_APPLY, ApplyPolicy(document=document("db"), owner=SHOP), node=DOCKER)
    assert await names(world) == set()


async def test_an_owner_changes_what_is_its_own(world: World) -> None:
    compose = speaker(SHOP)
    reference = PolicyReference(kind="CiliumNetworkPolicy", name="db", namespace="shop")
    for port in ("1", "2"):
        await world.bus.request(OWNED_APPLY, ApplyPolicy(document=document("db", port), owner=SHOP), node=compose)
    with pytest.raises(Denied, match="belongs to compose/shop"):
        await world.bus.request(APPLY, ApplyPolicy(document=document("db", "3")))
    with pytest.raises(Denied, match="belongs to compose/shop"):
        await world.bus.request(OWNED_DELETE, DeletePolicy(policy=reference, owner="compose/blog"), node=compose)
    back = RollBackPolicy(policy=reference, owner=SHOP)
    assert (await world.bus.request(OWNED_ROLLBACK, back, node=compose)).changed
    assert (await world.bus.request(OWNED_DELETE, DeletePolicy(policy=reference, owner=SHOP), node=compose)).changed
    assert await names(world) == set()


async def test_the_plugin_for_docker_states_its_own_documents_only(world: World) -> None:
    shorthand = clusterwide("docker-0123", ingress=[{}])
    assert (await world.bus.request(OWNED_APPLY, ApplyPolicy(document=shorthand, owner="docker"), node=DOCKER)).changed
    for other in (document("db"), clusterwide("everything", ingress=[{}])):
        with pytest.raises(Denied, match="documents of docker are called CiliumClusterwideNetworkPolicy/_/docker-"):
            await world.bus.request(OWNED_APPLY, ApplyPolicy(document=other, owner="docker"), node=DOCKER)
    with pytest.raises(Denied, match="belongs to docker"):
        await world.bus.request(APPLY, ApplyPolicy(document=clusterwide("docker-4567", ingress=[{}])))
    assert await names(world) == {("docker-0123", "docker")}


async def test_all_of_an_owners_documents_are_replaced(world: World) -> None:
    await world.bus.request(APPLY, ApplyPolicy(document=document("others")))
    first = await state(world, document("a"), document("b"))
    assert [one.changed for one in first.stored] == [True, True]
    assert all(one.resolved for one in first.stored)
    second = await state(world, document("a"), document("c"))
    assert [one.changed for one in second.stored] == [False, True]
    assert [one.policy.name for one in second.removed] == ["b"]
    assert await names(world) == {("a", SHOP), ("c", SHOP), ("others", "")}
    assert not (await state(world, owner="compose/blog")).removed
    assert len((await state(world)).removed) == 2
    assert await names(world) == {("others", "")}


async def test_documents_are_judged_together(world: World) -> None:
    await state(world, document("a", "1"), document("tests", "9", expecting("allow", "1/TCP")))
    await state(world, document("a", "2"), document("tests", "9", expecting("allow", "2/TCP")))
    with pytest.raises(
        InvalidInput, match=r"tests\[0\] of CiliumNetworkPolicy shop/tests .* expects deny and gets allow"
    ):
        await state(world, document("a", "3"), document("tests", "9", expecting("deny", "3/TCP")))
    with pytest.raises(InvalidInput, match="expects allow and gets deny"):
        await state(world, document("tests", "9", expecting("allow", "2/TCP")))
    assert await names(world) == {("a", SHOP), ("tests", SHOP)}


async def test_the_tests_of_every_document_count(world: World) -> None:
    unrelated = replace(
        clusterwide("free", ingress=[{}]), spec={"endpointSelector": {"matchLabels": {"app": "x"}}, "ingress": [{}]}
    )
    with pytest.raises(InvalidInput, match=r"CiliumNetworkPolicy shop/a .* expects deny and gets allow"):
        await state(world, unrelated, document("a", "1", expecting("deny", "1/TCP")))
    assert await names(world) == set()


async def test_groups_stand_before_who_denies_by_them(world: World) -> None:
    group = PolicyObject(
        apiVersion="cilium.io/v2",
        kind="CiliumCIDRGroup",
        metadata={"name": "bad"},
        spec={"externalCIDRs": ["192.0.2.0/24"]},
    )
    denying = clusterwide("no-bad", ingressDeny=[{"fromCIDRSet": [{"cidrGroupRef": "bad"}]}])
    with pytest.raises(InvalidInput, match=r"`documents\[1\]`|no CiliumCIDRGroup bad"):
        await state(world, denying)
    both = await state(world, denying, group)
    assert [one.policy.kind for one in both.stored] == ["CiliumCIDRGroup", "CiliumClusterwideNetworkPolicy"]
    with pytest.raises(InvalidInput, match=r"would no longer deny anything|no CiliumCIDRGroup bad"):
        await state(world, denying)
    assert len((await state(world)).removed) == 2


@pytest.mark.parametrize(
    ("documents", "told"),
    [
        ((document("a"), document("a", "1")), r"`documents\[1\]`: CiliumNetworkPolicy shop/a stands twice"),
        ((document("a"), document("b", "70000")), r"`documents\[1\]`: `spec.ingress\[0\]"),
    ],
)
async def test_what_makes_no_sense_is_named(world: World, documents: tuple[PolicyObject, ...], told: str) -> None:
    with pytest.raises(InvalidInput, match=told):
        await state(world, *documents)
    assert await names(world) == set()


async def test_a_set_whose_tests_fail_is_stored_by_force_and_says_so(world: World) -> None:
    failing = document("a", tests=expecting("allow", "6379"))
    with pytest.raises(InvalidInput, match="6379"):
        await state(world, failing)
    done = await world.bus.request(FORCE_REPLACE, ReplacePolicies(owner=SHOP, documents=(failing,), wait_s=5))
    assert done.stored[0].warnings[0].startswith("forced: ")
    assert await names(world) == {("a", SHOP)}


async def test_another_owners_document_is_not_taken_although_it_is_the_same(world: World) -> None:
    await state(world, document("a"))
    with pytest.raises(Denied, match="belongs to compose/shop"):
        await state(world, document("a"), owner="compose/blog")
    taken = ReplacePolicies(owner="compose/blog", documents=(document("a"),), author="root", wait_s=5)
    await world.bus.request(FORCE_REPLACE, taken)
    assert await names(world) == {("a", "compose/blog")}
    assert (await world.bus.request(POLICIES, Empty())).policies[0].forced
    await world.bus.request(FORCE_REPLACE, replace(taken, documents=()))
    assert await names(world) == set()
    await state(world, document("a"))
    forced = ApplyPolicy(document=document("a", "2"), owner="compose/blog")
    await world.bus.request(FORCE_APPLY, forced)
    assert await names(world) == {("a", "compose/blog")}
