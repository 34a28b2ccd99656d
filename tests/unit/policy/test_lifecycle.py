"""Versions, rollback, compare-and-swap and ownership of documents."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

import pytest
from msgspec.structs import replace

from fairlead.clock import SYSTEM
from fairlead.errors import Conflict, Denied, InvalidInput
from fairlead.kv import Put
from fairlead.schema.base import Empty
from fairlead.schema.policy import (
    APPLY,
    DELETE,
    FORCE_APPLY,
    FORCE_DELETE,
    HISTORY,
    POLICIES,
    POLICY_PUBLISHED,
    ROLLBACK,
    ApplyPolicy,
    DeletePolicy,
    PolicyHistoryQuery,
    PolicyObject,
    PolicyReference,
    PolicyVersion,
    RollBackPolicy,
)
from services.policy.editing import Editor
from services.policy.history import StoredVersion, decode_version, encode_version
from services.policy.store import PolicyStore
from tests.unit.policy.stack import DATABASE, EMPLOYEE, World, clusterwide, seed

SEED = PolicyReference(kind="CiliumNetworkPolicy", name="clustermesh-ingress-l4-policy")


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    await world.identity(EMPLOYEE, "container:app=employee;")
    await world.identity(DATABASE, "container:app=protected-db;")
    await world.start(keep_versions=3, owners=("CiliumNetworkPolicy/shop/=shop-ci",))
    yield world
    await world.stop()


async def versions(world: World, version: int = 0) -> tuple[PolicyVersion, ...]:
    return (await world.bus.request(HISTORY, PolicyHistoryQuery(policy=SEED, version=version))).versions


async def opened_port(world: World) -> set[int]:
    await asyncio.sleep(0)
    (stored,) = (await world.bus.request(POLICIES, Empty())).policies
    spec = stored.document.spec or {}
    return {int(port["port"]) for port in spec["ingress"][0]["toPorts"][0]["ports"]}


async def test_every_change_is_a_version_with_its_author(world: World) -> None:
    first = await world.bus.request(APPLY, ApplyPolicy(document=seed("1"), author="ann", owner="db-team"))
    await world.bus.request(APPLY, ApplyPolicy(document=seed("1"), author="bob", owner="db-team"))  # changes nothing
    second = await world.bus.request(APPLY, ApplyPolicy(document=seed("2"), author="cid", owner="db-team"))
    found = await versions(world)
    assert [(one.version, one.revision, one.action, one.author, one.owner) for one in found] == [
        (1, first.revision, "stored", "ann", "db-team"),
        (2, second.revision, "stored", "cid", "db-team"),
    ]
    assert all(one.document is None for one in found)
    (one,) = await versions(world, 1)
    assert one.document == seed("1")
    stored = (await world.bus.request(POLICIES, Empty())).policies[0]
    assert (stored.version, stored.owner, stored.author, stored.at) == (2, "db-team", "cid", found[1].at)


async def test_only_the_newest_versions_are_kept_and_numbers_never_come_back(world: World) -> None:
    for port in "12345":
        await world.bus.request(APPLY, ApplyPolicy(document=seed(port)))
    assert [one.version for one in await versions(world)] == [3, 4, 5]
    await world.bus.request(DELETE, DeletePolicy(policy=SEED, author="ann"))
    await world.bus.request(APPLY, ApplyPolicy(document=seed("9")))
    found = [(one.version, one.action) for one in await versions(world)]
    assert found == [(5, "stored"), (6, "deleted"), (7, "stored")]


async def test_rolling_back(world: World) -> None:
    for port in "123":
        await world.bus.request(APPLY, ApplyPolicy(document=seed(port)))
    await world.bus.request(ROLLBACK, RollBackPolicy(policy=SEED, author="ann"))
    assert await opened_port(world) == {2}
    await world.bus.request(ROLLBACK, RollBackPolicy(policy=SEED, version=3))
    assert await opened_port(world) == {3}
    assert [(one.version, one.action, one.author) for one in await versions(world)][1:] == [
        (4, "rolled back to 2", "ann"),
        (5, "rolled back to 3", ""),
    ]
    with pytest.raises(InvalidInput, match=r"there is no version 1; kept are \[3, 4, 5\]"):
        await world.bus.request(ROLLBACK, RollBackPolicy(policy=SEED, version=1))


async def test_a_deleted_document_comes_back(world: World) -> None:
    await world.bus.request(APPLY, ApplyPolicy(document=seed("1")))
    await world.bus.request(DELETE, DeletePolicy(policy=SEED))
    with pytest.raises(InvalidInput, match="version 2 holds no document"):
        await world.bus.request(ROLLBACK, RollBackPolicy(policy=SEED, version=2))
    await world.bus.request(ROLLBACK, RollBackPolicy(policy=SEED))
    assert await opened_port(world) == {1}
    nothing = PolicyReference(kind="NetworkPolicy", name="nothing")
    with pytest.raises(InvalidInput, match="no earlier version"):
        await world.bus.request(ROLLBACK, RollBackPolicy(policy=nothing))


async def test_a_rollback_is_held_to_tests_like_every_change(world: World) -> None:
    await world.bus.request(APPLY, ApplyPolicy(document=seed("1")))
    await world.bus.request(APPLY, ApplyPolicy(document=seed("2")))
    ends = {"from": {"labels": {"app": "employee"}}, "to": {"labels": {"app": "protected-db"}}}
    promise = replace(clusterwide("promise", egress=[{}]), tests=[{**ends, "port": "2/TCP", "expect": "allow", "direction": "ingress"}])  # fmt: skip
    await world.bus.request(APPLY, ApplyPolicy(document=promise))
    with pytest.raises(InvalidInput, match=r"tests\[0\] of CiliumClusterwideNetworkPolicy promise"):
        await world.bus.request(ROLLBACK, RollBackPolicy(policy=SEED))


async def test_an_editor_that_has_not_seen_the_newest_is_told(world: World) -> None:
    first = await world.bus.request(APPLY, ApplyPolicy(document=seed("1"), author="ann", expected_revision=0))
    with pytest.raises(Conflict, match=f"is at revision {first.revision} by ann, not at 0: read it again"):
        await world.bus.request(APPLY, ApplyPolicy(document=seed("2"), expected_revision=0))
    second = await world.bus.request(APPLY, ApplyPolicy(document=seed("2"), expected_revision=first.revision))
    with pytest.raises(Conflict):
        await world.bus.request(DELETE, DeletePolicy(policy=SEED, expected_revision=first.revision))
    with pytest.raises(Conflict):
        await world.bus.request(FORCE_APPLY, ApplyPolicy(document=seed("3"), expected_revision=first.revision))
    await world.bus.request(DELETE, DeletePolicy(policy=SEED, expected_revision=second.revision))
    with pytest.raises(Conflict, match="does not exist"):
        await world.bus.request(APPLY, ApplyPolicy(document=seed("4"), expected_revision=second.revision))


async def test_of_many_editors_at_once_one_wins_and_all_others_hear_of_it(world: World) -> None:
    first = await world.bus.request(APPLY, ApplyPolicy(document=seed("1")))
    asks = [ApplyPolicy(document=seed(str(port)), expected_revision=first.revision) for port in range(2, 22)]
    answers = await asyncio.gather(*(world.bus.request(APPLY, ask) for ask in asks), return_exceptions=True)
    assert sum(not isinstance(answer, BaseException) for answer in answers) == 1
    assert sum(isinstance(answer, Conflict) for answer in answers) == 19
    assert [one.version for one in await versions(world)] == [1, 2]


async def test_what_has_an_owner_is_changed_by_nobody_else(world: World) -> None:
    await world.bus.request(APPLY, ApplyPolicy(document=seed("1"), owner="db-team"))
    for ask in (ApplyPolicy(document=seed("2")), ApplyPolicy(document=seed("2"), owner="web-team")):
        with pytest.raises(Denied, match="belongs to db-team"):
            await world.bus.request(APPLY, ask)
    with pytest.raises(Denied):
        await world.bus.request(DELETE, DeletePolicy(policy=SEED, owner="web-team"))
    await world.bus.request(APPLY, ApplyPolicy(document=seed("2"), owner="db-team"))
    with pytest.raises(Denied):
        await world.bus.request(ROLLBACK, RollBackPolicy(policy=SEED, version=1, owner="web-team"))
    await world.bus.publish(POLICY_PUBLISHED, seed("3"))
    assert "belongs to db-team" in world.hub.dead[0][1]
    await world.bus.request(FORCE_APPLY, ApplyPolicy(document=seed("3"), author="root"))
    stored = (await world.bus.request(POLICIES, Empty())).policies[0]
    assert (stored.owner, stored.forced) == ("db-team", True)
    assert (await versions(world))[-1].forced
    assert (await world.bus.request(FORCE_DELETE, DeletePolicy(policy=SEED))).changed


async def test_names_belong_to_owners_by_their_beginning(world: World) -> None:
    document = replace(seed(), metadata={"name": "p", "namespace": "shop"})
    with pytest.raises(Denied, match="belongs to shop-ci"):
        await world.bus.request(APPLY, ApplyPolicy(document=document, owner="somebody"))
    assert (await world.bus.request(APPLY, ApplyPolicy(document=document, owner="shop-ci"))).changed
    elsewhere = replace(seed(), metadata={"name": "p", "namespace": "shopping"})
    assert (await world.bus.request(APPLY, ApplyPolicy(document=elsewhere))).changed


def test_owners_that_cannot_be_read_are_named() -> None:
    with pytest.raises(InvalidInput, match="'shop' is not PREFIX=OWNER"):
        Editor(PolicyStore(World().kv), SYSTEM, ("shop",))


async def test_records_of_somebody_else_are_skipped(world: World) -> None:
    await world.bus.request(APPLY, ApplyPolicy(document=seed("1")))
    prefix = "fairlead/policy-history/CiliumNetworkPolicy/default/clustermesh-ingress-l4-policy/"
    await world.kv.commit([], [Put(f"{prefix}0000000007", b"junk"), Put(f"{prefix}x", b"")])
    await world.bus.request(APPLY, ApplyPolicy(document=seed("2")))
    assert [one.version for one in await versions(world)][-1] == 8


def test_a_document_too_large_for_the_record_is_left_out_of_it() -> None:
    noise = random.Random(1).randbytes(400_000).hex()
    large = PolicyObject(apiVersion="v", kind="k", metadata={}, spec={"x": noise})
    record = StoredVersion(action="stored", at=SYSTEM.now(), author="ann", document=large)
    kept = decode_version(encode_version(record))
    assert (kept.document, kept.author, kept.action) == (None, "ann", "stored")
