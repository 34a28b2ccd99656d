"""`fairlead compose` with the real policy service: a stack is stored as one whole, becomes another, is compared, and goes."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from clients.cli.__main__ import parser
from clients.cli.output import Answer, Exit
from clients.cli.session import Session
from fairlead.errors import Denied, InvalidInput
from fairlead.schema.base import Empty
from fairlead.schema.policy import APPLY, FORCE_APPLY, POLICIES, ApplyPolicy
from tests.support.etcd import EtcdServer
from tests.support.nats import NatsServer
from tests.support.services import ServiceProcess
from tests.unit.cli.stacks import SHOP, Folder
from tests.unit.policy.stack import World, clusterwide

OWNER = "compose/shop"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    return Folder(tmp_path, monkeypatch)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    await world.host("n1")
    await world.start()
    yield world
    await world.stop()


async def run(world: World, *words: str) -> Answer:
    options = parser().parse_args(["compose", *words])
    answer: Answer = await options.run(Session(world.bus, options))
    return answer


async def stored(world: World, owner: str = OWNER) -> dict[str, str]:
    found = (await world.bus.request(POLICIES, Empty())).policies
    return {one.policy.name: one.policy.kind for one in found if one.owner == owner}


async def test_a_stack_is_stored_as_one_whole_and_what_left_the_file_goes(world: World, folder: Folder) -> None:
    folder.write(SHOP)
    first = await run(world, "apply", "--wait")
    assert first.status is Exit.OK
    assert await stored(world) == {
        "db": "CiliumNetworkPolicy",
        "service-web": "CiliumNetworkPolicy",
        "compose": "PolicyTests",
    }
    assert "CiliumNetworkPolicy shop/db stored at revision" in first.text
    assert "unchanged" in (await run(world, "apply")).text

    folder.write(SHOP.replace("- name: db", "- name: database").replace("      - world -> web:81\n", ""))
    again = await run(world, "apply")
    assert "CiliumNetworkPolicy shop/db removed" in again.text
    assert sorted(await stored(world)) == ["compose", "database", "service-web"]

    gone = await run(world, "delete", "-p", "shop")
    assert gone.text.count("removed") == 3
    assert await stored(world) == {}
    assert (await run(world, "delete")).text == "shop: nothing is stored of it"


async def test_files_without_policies_remove_nothing(world: World, folder: Folder) -> None:
    folder.write(SHOP)
    await run(world, "apply")
    folder.write("services: {web: {image: web}}\nnetworks: {default: {driver: fairlead}}\n")
    with pytest.raises(InvalidInput, match="`fairlead compose delete -p shop` removes what is stored"):
        await run(world, "apply")
    assert len(await stored(world)) == 3


async def test_nothing_is_stored_while_a_test_fails(world: World, folder: Folder) -> None:
    folder.write(SHOP.replace('port: "5432"', 'port: "5433"'))
    answer = await run(world, "apply")
    assert answer.status is Exit.NO
    assert "6 passed, 1 failed" in answer.text
    assert await stored(world) == {}


async def test_what_others_have_stored_counts_too(world: World, folder: Folder) -> None:
    denying = clusterwide(
        "no-api", ingressDeny=[{"fromEndpoints": [{"matchLabels": {"com.docker.compose.service": "api"}}]}]
    )
    await world.bus.request(APPLY, ApplyPolicy(document=denying))
    folder.write(SHOP)
    live = await run(world, "check", "--live")
    assert live.status is Exit.NO
    assert "denied by CiliumClusterwideNetworkPolicy no-api" in live.text
    assert (await run(world, "apply", "--dry-run")).status is Exit.NO
    with pytest.raises(
        InvalidInput, match=r"PolicyTests shop/compose \(compose.yaml: x-fairlead.tests.allow\[0\]: api -> db"
    ):
        await run(world, "apply")
    assert await stored(world) == {}


async def test_stored_tests_keep_others_from_breaking_the_stack(world: World, folder: Folder) -> None:
    folder.write(SHOP)
    await run(world, "apply")
    with pytest.raises(InvalidInput, match="PolicyTests shop/compose"):
        await world.bus.request(APPLY, ApplyPolicy(document=clusterwide("open", ingress=[{"fromEntities": ["all"]}])))


async def test_a_dry_run_says_what_would_change_and_changes_nothing(world: World, folder: Folder) -> None:
    folder.write(SHOP)
    first = await run(world, "apply", "--dry-run")
    assert [line.split()[0] for line in first.text.splitlines()[:3]] == ["store", "store", "store"]
    assert await stored(world) == {}
    await run(world, "apply")
    folder.write(
        SHOP.replace("{service: api}]", "{service: api}, {service: db}]").replace(
            ', x-fairlead: {ingress: ["world:80"], egress: ["api:8080", dns]}', ""
        )
    )
    again = await run(world, "apply", "--dry-run")
    assert again.status is Exit.NO, "two of the tests fail without the rules of web"
    folder.write(SHOP.replace("{service: api}]", "{service: api}, {service: db}]"))
    lines = (await run(world, "apply", "--dry-run")).text.splitlines()
    assert lines[:3] == [
        "change    CiliumNetworkPolicy shop/db",
        "unchanged CiliumNetworkPolicy shop/service-web",
        "unchanged PolicyTests shop/compose",
    ]


async def test_tests_that_need_the_plugins_policies_are_checked_and_not_stored(world: World, folder: Folder) -> None:
    folder.write(SHOP.replace("  db: {image: db}\n", "  db: {image: db}\n  cache: {image: db, labels: {fairlead.ingress.from: 'api:6379'}}\n").replace("    deny:\n", "    deny:\n      - db -> cache:6379\n"))  # fmt: skip
    assert (await run(world, "check", "--live")).status is Exit.OK
    answer = await run(world, "apply")
    assert (
        "db -> cache:6379: fulfilled by labels or networks of containers, so it is not stored as a test"
        in answer.warnings[0]
    )
    found = (await world.bus.request(POLICIES, Empty())).policies
    assert [len(one.document.tests or ()) for one in found if one.policy.kind == "PolicyTests"] == [7]


async def test_stacks_of_one_file_are_kept_apart_by_their_projects(world: World, folder: Folder) -> None:
    folder.write(SHOP)
    for project in ("shop", "my_shop-2"):
        await run(world, "apply", "-p", project)
    await run(world, "delete", "-p", "shop")
    assert await stored(world) == {}
    assert len(await stored(world, "compose/my_shop-2")) == 3
    found = (await world.bus.request(POLICIES, Empty())).policies
    assert {one.policy.namespace for one in found} == {"my_shop-2"}


async def test_another_owners_document_is_named_by_its_place(world: World, folder: Folder) -> None:
    whole = "x-fairlead: {policies: [{name: all, kind: CiliumClusterwideNetworkPolicy, spec: {endpointSelector: {service: web}, ingress: [{}]}}]}\n"
    folder.write(f"{whole}services: {{web: {{image: web}}}}\nnetworks: {{default: {{driver: fairlead}}}}\n")
    await run(world, "apply")
    with pytest.raises(Denied, match="CiliumClusterwideNetworkPolicy all belongs to compose/shop"):
        await run(world, "apply", "-p", "my_shop-2")
    assert (await run(world, "apply", "-p", "my_shop-2", "--force")).status is Exit.OK
    assert len(await stored(world, "compose/my_shop-2")) == 1
    assert await stored(world) == {}
    with pytest.raises(Denied, match="belongs to compose/my_shop-2"):
        await run(world, "apply")
    await world.bus.request(FORCE_APPLY, ApplyPolicy(document=clusterwide("all", ingress=[{}]), owner="team"))
    assert await stored(world) == {}


@pytest.mark.connected
async def test_the_program_on_a_real_bus_and_a_real_store(folder: Folder, tmp_path: Path) -> None:
    etcd, nats = EtcdServer(tmp_path / "etcd"), NatsServer(tmp_path)
    etcd.start()
    nats.start()
    policy = ServiceProcess("policy", "p1", tmp_path, {"NATS": nats.url, "ETCD": etcd.url})
    try:
        policy.start()
        etcd.ctl(
            "put",
            "cilium/state/identities/v1/id/1001",
            "container:com.docker.compose.project=shop;container:com.docker.compose.service=db;",
        )
        folder.write(SHOP)
        status, out, error = await until_answered(folder, nats.url, "apply")
        assert (status, error) == (0, "")
        assert "CiliumNetworkPolicy shop/db stored at revision" in out
        assert (await program(folder, nats.url, "check", "--live"))[0] == 0
        folder.write(SHOP.replace("- name: db", "- name: database"))
        status, out, _ = await program(folder, nats.url, "apply")
        assert (status, "CiliumNetworkPolicy shop/db removed" in out) == (0, True)
        status, out, _ = await program(folder, nats.url, "delete", "-p", "shop")
        assert (status, out.count("removed")) == (0, 3)
    finally:
        for one in (policy, nats, etcd):
            one.kill()


async def program(folder: Folder, url: str, *words: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "clients.cli", "compose", *words),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=folder.path,
        env={
            **os.environ,
            "FAIRLEAD_NATS": url,
            "FAIRLEAD_NATS_DOMAIN": "",
            "PYTHONPATH": os.fspath(Path(__file__).parents[3]),
        },
    )
    out, error = await process.communicate()
    return process.returncode or 0, out.decode(), error.decode()


async def until_answered(folder: Folder, url: str, *words: str) -> tuple[int, str, str]:
    """Return the first answer of a service that has read its store."""
    async with asyncio.timeout(30):
        while True:
            found = await program(folder, url, *words)
            if found[0] != Exit.LATE:
                return found
