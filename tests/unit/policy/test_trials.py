"""Tests that documents carry: read, judged, and what they keep from being published."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from msgspec.structs import replace

from fairlead.errors import InvalidInput
from fairlead.schema.base import Empty
from fairlead.schema.policy import (
    APPLY,
    DELETE,
    FORCE_APPLY,
    FORCE_DELETE,
    POLICIES,
    POLICY_PUBLISHED,
    ApplyPolicy,
    DeletePolicy,
    PolicyObject,
    PolicyReference,
)
from services.policy.parse import parse
from services.policy.rules import Translation
from services.policy.settings import PolicySettings
from services.policy.trials import Court
from tests.unit.policy.stack import DATABASE, World, clusterwide, seed

HERE = Translation()
EMPLOYEES = {"name": "employees", "from": {"labels": {"app": "employee"}}, "to": {"labels": {"app": "protected-db"}}}
NO_INTERNS = {"from": {"labels": {"app": "intern"}}, "to": {"labels": {"app": "protected-db"}}}
TESTS = [{**EMPLOYEES, "port": "6379/TCP", "expect": "allow"}, {**NO_INTERNS, "port": "6379/TCP", "expect": "deny"}]
REFERENCE = PolicyReference(kind="CiliumNetworkPolicy", name="clustermesh-ingress-l4-policy")


def promising(*tests: dict[str, Any], port: str = "6379") -> PolicyObject:
    return replace(seed(port), tests=list(tests))


def failures(document: PolicyObject, *others: PolicyObject) -> list[str]:
    policies = [parse(each, HERE) for each in (document, *others)]
    court = Court(policies, PolicySettings(node="p1").enforcement())
    return [text for trial in policies[0].trials if (text := court.failure(trial))]


def test_tests_pass_and_fail_with_the_reason() -> None:
    assert failures(promising(*TESTS)) == []
    (failing,) = failures(promising(*TESTS, port="6380"))
    assert failing == (
        "tests[0] of CiliumNetworkPolicy default/clustermesh-ingress-l4-policy (employees: app=employee -> "
        "app=protected-db 6379/TCP) expects allow and gets deny: no entry allows it, closed by CiliumNetworkPolicy "
        "default/clustermesh-ingress-l4-policy ingress[0]"
    )
    opened = clusterwide("open", ingress=[{"fromEntities": ["all"]}])
    (failing,) = failures(promising(*TESTS), opened)
    assert failing.endswith("expects deny and gets allow: every end that is asked allows it")
    denied = clusterwide("deny", ingressDeny=[{"fromEndpoints": [{"matchLabels": {"app": "employee"}}]}])
    (failing,) = failures(promising(*TESTS), denied)
    assert failing.endswith("gets deny: denied by CiliumClusterwideNetworkPolicy deny ingressDeny[0]")


DATABASE_END = {"labels": {"app": "protected-db"}}


@pytest.mark.parametrize(
    ("test", "passes"),
    [
        ({"from": {"entity": "host"}, "to": DATABASE_END, "port": "22/TCP", "expect": "allow"}, True),
        ({"from": {"entity": "world"}, "to": DATABASE_END, "port": "22/TCP", "expect": "deny"}, True),
        ({"from": DATABASE_END, "to": {"address": "10.1.2.3"}, "port": "443", "expect": "allow"}, True),
        ({"from": DATABASE_END, "to": {"address": "10.2.2.3"}, "port": "443", "expect": "allow"}, False),
        ({"from": DATABASE_END, "to": {"address": "fd00:1::7"}, "port": "443/TCP", "expect": "allow"}, True),
        ({"from": DATABASE_END, "to": {"address": "192.0.2.1"}, "port": "443/TCP", "expect": "deny"}, True),
        ({"from": DATABASE_END, "to": DATABASE_END, "port": "1/TCP", "expect": "allow", "direction": "ingress"}, False),
        ({"from": DATABASE_END, "to": DATABASE_END, "port": "7/ICMP", "expect": "deny", "direction": "egress"}, True),
        ({"from": {"labels": {"app": "employee", "com.docker.compose.project": "x"}}, "to": DATABASE_END, "port": "6379/TCP", "expect": "deny"}, True),
    ],
)  # fmt: skip
def test_every_kind_of_end(test: dict[str, Any], passes: bool) -> None:
    out = [{"toCIDRSet": [{"cidr": "10.0.0.0/8", "except": ["10.2.0.0/16"]}]}, {"toCIDR": ["fd00::/8"]}]
    assert (failures(promising(test), clusterwide("out", egress=out)) == []) is passes


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"port": "x"}, r"`tests\[0\].port`: 'x' is no port"),
        ({"port": "65536/TCP"}, r"`tests\[0\].port`"),
        ({"port": "300/ICMP"}, r"`tests\[0\].port`"),
        ({"expect": "maybe"}, r"`tests\[0\].expect`"),
        ({"from": {}}, r"`tests\[0\].from`: exactly one of"),
        ({"to": {"entity": "mars"}}, r"`tests\[0\].to.entity`: 'mars' is not one of"),
        ({"to": {"address": "nowhere"}}, r"`tests\[0\].to.address`"),
        ({"to": {"labels": {"a;b": "c"}}}, r"`tests\[0\].to.labels`"),
        ({"until": "tomorrow"}, "unknown field `until`"),
    ],
)
def test_a_test_that_cannot_be_read_names_its_field(change: dict[str, Any], problem: str) -> None:
    with pytest.raises(InvalidInput, match=problem):
        parse(promising({**TESTS[0], **change}), HERE)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    await world.identity(DATABASE, "container:app=protected-db;")
    await world.start()
    yield world
    await world.stop()


async def test_a_document_whose_tests_fail_is_not_published(world: World) -> None:
    with pytest.raises(InvalidInput, match=r"tests\[0\] of CiliumNetworkPolicy default/clustermesh.*expects allow"):
        await world.bus.request(APPLY, ApplyPolicy(document=promising(*TESTS, port="6380")))
    await world.bus.publish(POLICY_PUBLISHED, promising(*TESTS, port="6380"))
    assert "tests[0]" in world.hub.dead[0][1]
    assert (await world.kv.list("fairlead/policies/")).items == ()


async def test_nobody_breaks_the_tests_of_another_document_unless_forced(world: World) -> None:
    await world.bus.request(APPLY, ApplyPolicy(document=promising(*TESTS)))
    opened = clusterwide("open", ingress=[{"fromEntities": ["all"]}])
    with pytest.raises(InvalidInput, match=r"tests\[1\] of CiliumNetworkPolicy default/clustermesh"):
        await world.bus.request(APPLY, ApplyPolicy(document=opened))
    unconcerned = clusterwide("else", endpointSelector={"matchLabels": {"app": "web"}}, ingress=[{}])
    assert (await world.bus.request(APPLY, ApplyPolicy(document=unconcerned))).changed
    answer = await world.bus.request(FORCE_APPLY, ApplyPolicy(document=opened))
    assert answer.warnings[0].startswith("forced: tests[1] of CiliumNetworkPolicy")
    stored = {one.policy.name: one.forced for one in (await world.bus.request(POLICIES, Empty())).policies}
    assert stored == {REFERENCE.name: False, "open": True, "else": False}
    # what fails already is nobody's new fault, and the forced document may be repeated
    assert not (await world.bus.request(APPLY, ApplyPolicy(document=opened))).changed
    other = clusterwide("other", ingress=[{"fromEntities": ["host"]}])
    assert (await world.bus.request(APPLY, ApplyPolicy(document=other))).changed


async def test_a_document_that_others_rely_on_is_not_removed_unless_forced(world: World) -> None:
    await world.bus.request(APPLY, ApplyPolicy(document=seed()))
    relying = clusterwide("promise", endpointSelector={"matchLabels": {"app": "web"}}, ingress=[{}])
    await world.bus.request(APPLY, ApplyPolicy(document=replace(relying, tests=TESTS[1:])))
    with pytest.raises(InvalidInput, match=r"tests\[0\] of CiliumClusterwideNetworkPolicy promise"):
        await world.bus.request(DELETE, DeletePolicy(policy=REFERENCE))
    answer = await world.bus.request(FORCE_DELETE, DeletePolicy(policy=REFERENCE))
    assert answer.changed
    assert answer.warnings[0].startswith("forced: tests[0]")


def test_a_host_policy_decides_no_test_of_workloads() -> None:
    document = clusterwide("host", ingress=[{"fromEntities": ["host"]}])
    assert document.spec is not None
    del document.spec["endpointSelector"]
    document.spec["nodeSelector"] = {}
    open_anyway = {"from": {"labels": {"app": "a"}}, "to": {"labels": {"app": "b"}}, "port": "80/TCP"}
    assert failures(replace(document, tests=[{**open_anyway, "expect": "allow"}])) == []


def only_tests(*tests: dict[str, Any], **more: Any) -> PolicyObject:
    metadata = {"name": "compose", "namespace": "my_shop", **more}
    return PolicyObject(apiVersion="fairlead.dev/v1", kind="PolicyTests", metadata=metadata, spec={}, tests=list(tests))


def test_tests_may_stand_alone_and_are_called_by_their_names() -> None:
    named = {**EMPLOYEES, "name": "allow employee -> db", "port": "6380/TCP", "expect": "allow"}
    open_to_employees = replace(seed(), metadata={"name": "db", "namespace": "my_shop"})
    (failing,) = failures(only_tests(named), open_to_employees)
    assert failing.startswith(
        "tests[0] of PolicyTests my_shop/compose (allow employee -> db) expects allow and gets deny"
    )
    assert failures(only_tests({**named, "port": "6379/TCP"}), open_to_employees) == []


@pytest.mark.parametrize(
    ("document", "told"),
    [
        (only_tests(), "`tests`"),
        (only_tests(TESTS[0], annotations={"fairlead.dev/staged": "true"}), "`metadata.annotations`"),
        (replace(only_tests(TESTS[0]), spec={"ingress": []}), "`spec.*ingress"),
        (replace(only_tests(TESTS[0]), apiVersion="cilium.io/v2"), "`apiVersion`"),
        (only_tests(TESTS[0], namespace="_shop"), "`metadata.namespace`"),
    ],
)
def test_documents_of_tests_that_make_no_sense_are_refused(document: PolicyObject, told: str) -> None:
    with pytest.raises(InvalidInput, match=told):
        parse(document, HERE)


async def test_tests_that_stand_alone_keep_others_from_breaking_them(world: World) -> None:
    await world.bus.request(APPLY, ApplyPolicy(document=seed()))
    await world.bus.request(APPLY, ApplyPolicy(document=replace(only_tests(*TESTS), metadata={"name": "db"})))
    with pytest.raises(InvalidInput, match="PolicyTests default/db"):
        await world.bus.request(APPLY, ApplyPolicy(document=seed("6380")))
    gone = PolicyReference(kind="PolicyTests", name="db")
    assert (await world.bus.request(DELETE, DeletePolicy(policy=gone))).changed
    await world.bus.request(APPLY, ApplyPolicy(document=seed("6380")))
