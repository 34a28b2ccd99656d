"""`fairlead policy`: forcing, audits, and which revision stands where."""

from __future__ import annotations

from pathlib import Path

import pytest

from clients.cli.output import Exit
from fairlead.errors import InvalidInput
from fairlead.schema.datapath import REALISED, RealisedRow
from fairlead.schema.health import Condition
from fairlead.schema.policy import POLICY_ROWS, PolicyRow
from tests.unit.cli.test_commands import POLICY
from tests.unit.cli.world import DB, EMPLOYEE, N1, N2, RULE, World


@pytest.fixture
async def world() -> World:
    return await World().start()


async def test_force_goes_by_its_own_subject(world: World, tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(POLICY)
    assert (await world.run("policy", "apply", "-f", str(path))).warnings == ()
    forced = await world.run("policy", "apply", "-f", str(path), "--force")
    assert any("forced: a test fails" in warning for warning in forced.warnings)
    del world.hub.routes["fairlead.cmd.policy.document.delete.v1"]
    await world.run("policy", "delete", "-f", str(path), "--force")
    assert world.policies.stored == {}


async def test_who_names_an_owner_speaks_on_its_subject(world: World, tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(POLICY)
    for subject in ("apply", "delete", "rollback"):
        del world.hub.routes[f"fairlead.cmd.policy.document.{subject}.v1"]
    await world.run("policy", "apply", "-f", str(path), "--owner", "shop-ci")
    await world.run("policy", "apply", "-f", str(path), "--owner", "shop-ci")
    name = next(iter(world.policies.stored))
    await world.run("policy", "rollback", name, "--to", "1", "--owner", "shop-ci")
    await world.run("policy", "delete", name, "--owner", "shop-ci")
    assert world.policies.stored == {}
    with pytest.raises(InvalidInput, match="an owner begins with a-z"):
        await world.run("policy", "apply", "-f", str(path), "--owner", "Shop CI")


async def test_an_audit_is_a_document_with_an_end(world: World) -> None:
    await world.run("policy", "audit", "app=web", "tier=front", "--for", "2h", "--direction", "ingress")
    document = world.policies.stored["app-web-tier-front"].document
    assert document.spec == {
        "endpointSelector": {"matchLabels": {"app": "web", "tier": "front"}},
        "until": "2026-01-01T02:00:00+00:00",
        "ingress": True,
        "egress": False,
    }
    await world.run("policy", "audit", "--all", "--nodes", "--name", "edge")
    assert (world.policies.stored["edge"].document.spec or {})["nodeSelector"] == {"matchLabels": {}}
    await world.run("policy", "audit", "--end", "app-web-tier-front")
    assert "app-web-tier-front" not in world.policies.stored


@pytest.mark.parametrize("wrong", [("web",), ("app=web", "--all")])
async def test_audits_of_nobody_in_particular_are_refused(world: World, wrong: tuple[str, ...]) -> None:
    with pytest.raises(InvalidInput):
        await world.run("policy", "audit", *wrong)


async def test_status_shows_audits_above_everything(world: World) -> None:
    detail = "denying nothing: WorkloadAudit db until 2100-01-01T00:00:00+00:00"
    audited = (Condition(name="audit", ok=False, detail=detail),)
    for number in (0, 2):
        one = world.health[number]
        await world.bus.serve(one.service, [world.show(one, audited)], shared=False)
    found = await world.run("status")
    assert found.text.splitlines()[0] == f"!!! POLICY IS AUDITED, NOT ENFORCED: {detail}"
    assert found.text.count("!!!") == 1
    assert found.status == Exit.NO


async def test_realised_names_the_node_that_is_behind(world: World) -> None:
    for number, revision, origins in ((DB, 9, (RULE,)), (EMPLOYEE, 4, ())):
        row = PolicyRow(identity=number, entries=(), origins=origins, revision=revision)
        await world.bus.bucket(POLICY_ROWS).put(str(number), row)
    rows = {N1: {str(DB): 9, str(EMPLOYEE): 3}, N2: {str(DB): 9}}
    for node, own in rows.items():
        await world.bus.bucket(REALISED).put(node, RealisedRow(node=node, rows=own))
    found = await world.run("policy", "realised")
    assert found.status == Exit.LATE
    assert [line.split()[:4] for line in found.text.splitlines()[1:]] == [["n1", "2", "1", "9"], ["n2", "1", "0", "9"]]
    assert f"row {EMPLOYEE}: at 3, wanted 4" in found.text
