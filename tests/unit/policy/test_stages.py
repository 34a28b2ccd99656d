"""Documents that are audited, staged or temporary: what they do, what they say, and how that ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from fairlead.errors import InvalidInput
from fairlead.schema.base import Empty
from fairlead.schema.policy import APPLY, POLICIES, ApplyPolicy, PolicyObject
from services.policy import offline
from services.policy.model import Model, reserved_identities
from services.policy.parse import parse
from services.policy.resolve import Enforcement
from services.policy.rules import Stage, Translation
from services.policy.settings import PolicySettings
from services.policy.simulate import Simulation, rehearsed, simulate
from tests.unit.policy.stack import DATABASE, EMPLOYEE, INTERN, World, by_number, clusterwide, seed
from tests.unit.policy.test_properties import RELAXED, TRAFFIC, all_rows
from tests.unit.policy.worlds import LABELS, documents, workload

FUTURE = "2100-01-01T00:00:00Z"
AUDIT = {"fairlead.dev/audit": "true", "fairlead.dev/audit-until": FUTURE}
STAGED = {"fairlead.dev/staged": "true"}


def noted(document: PolicyObject, annotations: dict[str, str]) -> PolicyObject:
    return replace(document, metadata={**document.metadata, "annotations": annotations})


def rows_of(*given_documents: PolicyObject) -> offline.World:
    world = offline.World(enforcement=PolicySettings(node="p1").enforcement())
    for number, name in ((EMPLOYEE, "employee"), (DATABASE, "protected-db"), (INTERN, "intern")):
        world.put_workload(number, [f"container:app={name}"])
    for document in given_documents:
        world.put_document(document)
    return world


def test_an_audited_document_allows_and_denies_nothing() -> None:
    world = rows_of(noted(seed(), AUDIT), noted(clusterwide("deny", egressDeny=[{"toEntities": ["all"]}]), AUDIT))
    assert world.simulate(INTERN, DATABASE, 6, 22).allowed
    row = world.rows()[DATABASE]
    assert (row.ingress_default_deny, row.egress_default_deny) == ((), ())
    would = {number: rehearsed(row) for number, row in world.rows().items()}
    said = simulate(would, EMPLOYEE, DATABASE, 6, 6379)
    assert (said.ingress.allowed, said.egress.allowed) == (True, False)
    assert said.egress.origins == ("CiliumClusterwideNetworkPolicy deny egressDeny[0]",)
    closed = clusterwide("closed", ingress=[{}])
    assert rows_of(closed, noted(seed(), AUDIT)).simulate(EMPLOYEE, DATABASE, 6, 6379).allowed
    assert not rows_of(closed, noted(seed(), STAGED)).simulate(EMPLOYEE, DATABASE, 6, 6379).allowed


def test_an_audited_document_denies_nothing_for_want_of_a_proxy() -> None:
    http = {"toPorts": [{"ports": [{"port": "80", "protocol": "TCP"}], "rules": {"http": [{"method": "GET"}]}}]}
    world = rows_of(noted(clusterwide("l7", ingress=[http]), AUDIT))
    assert world.simulate(INTERN, DATABASE, 6, 80).allowed
    assert not simulate({DATABASE: rehearsed(world.rows()[DATABASE])}, INTERN, DATABASE, 6, 80).allowed


def test_rows_without_such_documents_carry_nothing_more() -> None:
    selected = noted(seed(), STAGED)
    assert {number for number, row in rows_of(selected).rows().items() if row.staged} == {DATABASE}
    assert rehearsed(rows_of(selected).rows()[INTERN]) == rows_of(selected).rows()[INTERN]


@RELAXED
@given(st.lists(LABELS, min_size=2, max_size=3), st.lists(documents(), min_size=2, max_size=4), st.sampled_from(Stage))
def test_stages_against_the_same_documents_enforced(
    labels: list[dict[str, str]], given_documents: list[PolicyObject], stage: Stage
) -> None:
    policies = [parse(document, Translation()) for document in given_documents]

    def model(first: list[Stage]) -> Model:
        found = Model(Enforcement())
        for identity in [*(workload(number, own) for number, own in enumerate(labels, 256)), *reserved_identities()]:
            found.put_identity(identity)
        for number, policy in enumerate([*(policies[0].at(each) for each in first), *policies[1:]]):
            found.put_policy(str(number), policy)
        return found

    staged, enforced, without = (all_rows(model(first)) for first in ([stage], [Stage.LIVE], []))
    for number, row in staged.items():
        for peer in staged:
            for ends in ((number, peer), (peer, number)):
                for traffic in TRAFFIC:
                    would, should, now, before = (
                        simulate({number: one}, *ends, *traffic)
                        for one in (rehearsed(row), enforced[number], row, without[number])
                    )
                    assert (would.allowed, said(would)) == (should.allowed, said(should))
                    if stage is Stage.STAGED:
                        assert now.allowed == before.allowed
                    if stage is Stage.AUDIT:
                        assert now.allowed >= before.allowed


def said(decisions: Simulation) -> tuple[set[str], set[str]]:
    return set(decisions.egress.origins), set(decisions.ingress.origins)


@pytest.mark.parametrize(
    ("annotations", "problem"),
    [
        ({"fairlead.dev/audit": "true"}, "an audit that never ends is forgotten"),
        ({"fairlead.dev/audit": "yes"}, "neither"),
        ({"fairlead.dev/audit-until": FUTURE}, "no effect without"),
        ({**AUDIT, **STAGED}, "not both"),
        ({"fairlead.dev/audit": "true", "fairlead.dev/audit-until": "tomorrow"}, "no time"),
        ({"fairlead.dev/expires": "2030-01-01"}, "no time"),
        ({"fairlead.dev/expire": FUTURE}, "not one of"),
        ({"fairlead.dev/staged": 1}, "names with texts"),
        ("x", "names with texts"),
    ],
)
def test_annotations_that_cannot_be_read_name_themselves(annotations: dict[str, str], problem: str) -> None:
    with pytest.raises(InvalidInput, match=rf"`metadata.annotations.*{problem}"):
        parse(noted(seed(), annotations), Translation())


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    await world.identity(EMPLOYEE, "container:app=employee;")
    await world.identity(DATABASE, "container:app=protected-db;")
    await world.identity(INTERN, "container:app=intern;")
    await world.start()
    yield world
    await world.stop()


def soon(seconds: float = 1.2) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


async def test_an_audit_is_told_and_ends_in_enforcement(world: World) -> None:
    document = noted(seed(), {"fairlead.dev/audit": "true", "fairlead.dev/audit-until": soon()})
    answer = await world.bus.request(APPLY, ApplyPolicy(document=document, wait_s=1))
    assert "denies nothing" in answer.warnings[-1]
    assert world.conditions["audit"][0] is False
    assert "clustermesh-ingress-l4-policy until" in world.conditions["audit"][1]
    rows = await world.rows()
    assert rows[str(DATABASE)].staged is not None
    assert simulate(by_number(rows), INTERN, DATABASE, 6, 22).allowed
    assert (await world.bus.request(POLICIES, Empty())).policies[0].stage == "audit"
    before = rows[str(DATABASE)].revision
    rows = await world.until(lambda rows: bool(rows[str(DATABASE)].ingress_default_deny))
    assert (rows[str(DATABASE)].staged, rows[str(DATABASE)].revision > before) == (None, True)
    assert not simulate(by_number(rows), INTERN, DATABASE, 6, 22).allowed
    assert world.conditions["audit"] == (True, "")
    assert (await world.bus.request(POLICIES, Empty())).policies[0].stage == "live"


async def test_a_document_whose_time_is_over_goes(world: World) -> None:
    await world.bus.request(APPLY, ApplyPolicy(document=noted(seed(), {"fairlead.dev/expires": soon()}), wait_s=1))
    assert (await world.rows())[str(DATABASE)].ingress_default_deny
    await world.until(lambda rows: not rows[str(DATABASE)].ingress_default_deny)
    async with asyncio.timeout(5):
        while (await world.bus.request(POLICIES, Empty())).policies:
            await asyncio.sleep(0.01)
