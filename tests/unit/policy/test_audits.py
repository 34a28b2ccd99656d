"""Audits of workloads: policy is written as ever, and what it denies passes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from fairlead.errors import InvalidInput
from fairlead.kv import Put
from fairlead.schema.base import Empty
from fairlead.schema.policy import APPLY, DELETE, POLICIES, ApplyPolicy, DeletePolicy, PolicyObject, PolicyReference
from services.policy.parse import parse
from services.policy.rules import Translation
from services.policy.simulate import rehearsed, simulate
from tests.unit.policy.stack import DATABASE, EMPLOYEE, INTERN, World, by_number, seed

FUTURE = "2100-01-01T00:00:00Z"


def audit(name: str = "db", **spec: Any) -> PolicyObject:
    given = {"until": FUTURE, **spec}
    if "nodeSelector" not in given:
        given.setdefault("endpointSelector", {"matchLabels": {"app": "protected-db"}})
    return PolicyObject(apiVersion="fairlead.dev/v1", kind="WorkloadAudit", metadata={"name": name}, spec=given)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    await world.identity(EMPLOYEE, "container:app=employee;")
    await world.identity(DATABASE, "container:app=protected-db;")
    await world.identity(INTERN, "container:app=intern;")
    await world.start()
    await world.bus.request(APPLY, ApplyPolicy(document=seed(), wait_s=1))
    yield world
    await world.stop()


async def test_an_audited_workload_keeps_its_rules_and_denies_nothing(world: World) -> None:
    before = (await world.rows())[str(DATABASE)]
    answer = await world.bus.request(APPLY, ApplyPolicy(document=audit(), wait_s=1))
    assert answer.identities == (DATABASE,)
    rows = by_number(await world.rows())
    assert (rows[DATABASE].audit_ingress, rows[DATABASE].audit_egress) == (True, True)
    assert replace(rows[DATABASE], audit_ingress=False, audit_egress=False, revision=0, trace="") == replace(
        before, revision=0, trace=""
    )
    said = simulate(rows, INTERN, DATABASE, 6, 22).ingress
    assert (said.allowed, said.audited, said.origins) == (True, True, before.origins[:1])
    assert not simulate(rows, EMPLOYEE, DATABASE, 6, 6379).ingress.audited
    assert not simulate({DATABASE: rehearsed(rows[DATABASE])}, INTERN, DATABASE, 6, 22).ingress.allowed
    assert world.conditions["audit"][0] is False
    assert "WorkloadAudit db until 2100" in world.conditions["audit"][1]
    await world.bus.request(DELETE, DeletePolicy(policy=PolicyReference(kind="WorkloadAudit", name="db"), wait_s=1))
    assert not (await world.rows())[str(DATABASE)].audit_ingress
    assert world.conditions["audit"] == (True, "")


async def test_one_direction_and_only_the_workloads_that_are_meant(world: World) -> None:
    await world.bus.request(APPLY, ApplyPolicy(document=audit(egress=False), wait_s=1))
    rows = by_number(await world.rows())
    assert (rows[DATABASE].audit_ingress, rows[DATABASE].audit_egress) == (True, False)
    assert not rows[INTERN].audit_ingress
    await world.identity(1009, "container:app=protected-db;container:copy=2;")
    assert (await world.until(lambda rows: "1009" in rows))["1009"].audit_ingress


async def test_nodes_are_audited_by_their_labels(world: World) -> None:
    await world.kv.commit([], [Put("cilium/state/nodes/v1/default/n1", b'{"Name":"n1","Labels":{"role":"edge"}}')])
    await world.bus.request(
        APPLY, ApplyPolicy(document=audit(nodeSelector={"matchLabels": {"role": "edge"}}), wait_s=1)
    )
    rows = await world.until(lambda rows: "host-n1" in rows and rows["host-n1"].audit_ingress)
    assert not rows[str(DATABASE)].audit_ingress


async def test_an_audit_ends_by_itself_and_the_document_goes(world: World) -> None:
    soon = (datetime.now(UTC) + timedelta(seconds=1.2)).isoformat()
    await world.bus.request(APPLY, ApplyPolicy(document=audit(until=soon), wait_s=1))
    assert (await world.rows())[str(DATABASE)].audit_ingress
    await world.until(lambda rows: not rows[str(DATABASE)].audit_ingress)
    async with asyncio.timeout(5):
        while len((await world.bus.request(POLICIES, Empty())).policies) > 1:
            await asyncio.sleep(0.01)
    assert world.conditions["audit"] == (True, "")


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        (audit(nodeSelector={}, endpointSelector={}), "exactly one of"),
        (audit(ingress=False, egress=False), "one of `ingress` and `egress`"),
        (audit(until="tomorrow"), "`spec.until`.*no time"),
        (audit(till=FUTURE), "till"),
        (replace(audit(), metadata={"name": "x", "namespace": "shop"}), "metadata.namespace"),
        (replace(audit(), metadata={"name": "x", "annotations": {"fairlead.dev/staged": "true"}}), "annotations"),
    ],
)
def test_audits_that_cannot_be_read_name_the_field(document: PolicyObject, problem: str) -> None:
    with pytest.raises(InvalidInput, match=problem):
        parse(document, Translation())
