"""Fairlead from compose.yaml with credentials switched on: everything works, shorthand too, and strangers are nobody."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from clients.cli.__main__ import main
from fairlead.bus_nats import NatsBus
from fairlead.errors import Denied, FairleadError, Unavailable
from fairlead.etcd_link import Tls
from fairlead.kv_etcd import EtcdKv
from fairlead.schema.base import Empty
from fairlead.schema.datapath import EndpointState
from fairlead.schema.health import HEALTH
from tests.docker import images
from tests.docker.composed import Composed, composed
from tests.docker.machine import NETWORK_OPTIONS, skip_unless_possible, until

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1800)]
FOLDER = "/etc/fairlead/credentials"
"""Where containers find what stands in the machine's own folder."""


STORE = "https://127.0.0.1:2379"


def folder_of(machine: Composed) -> tuple[str, str]:
    return "--dir", str(machine.folder / "config" / "credentials")


def prepare(machine: Composed) -> None:
    """Do what docs/credentials.md says for containers."""
    folder = machine.folder / "config" / "credentials"
    made = ("init", "--hub", "nats", "--hub", "127.0.0.1", "--tree", FOLDER, "--user", "5300"), ("issue", "node", "n1")
    for words in made:
        assert main(["credentials", words[0], "--dir", str(folder), *words[1:]]) == 0
    machine.configure({"nats-credentials": FOLDER})
    machine.seed = str(folder / "nodes" / "n1" / "n1.client.nk")


@pytest.fixture(scope="module")
def machine() -> Iterator[Composed]:
    skip_unless_possible(images.why_not())
    with composed(images.images(), prepare) as made:
        assert main(["credentials", "etcd", *folder_of(made), "--url", STORE]) == 0
        made.engine.run("network", "create", *NETWORK_OPTIONS, "-o", "fairlead.isolation=on", "fl")
        yield made


@pytest.fixture(autouse=True)
def clean() -> None:
    """Nothing to be cleaned between these tests: one story on one machine."""


def test_shorthand_and_isolation_need_nobody_elses_rights(machine: Composed) -> None:
    project = ("--label", "com.docker.compose.project=shop")
    service = "--label", "com.docker.compose.service=api"
    address = machine.serve("db", *project, "--label", "fairlead.ingress.from=api:80")
    machine.container("api", *project, *service)
    machine.container("other", *project)
    machine.ready(3, 60)
    assert [machine.fetch(name, address) for name in ("api", "other")] == ["db", ""]


def operator(machine: Composed, *words: str) -> int:
    """Run a command as an operator does, who speaks with the hub itself."""
    folder = machine.folder / "config" / "credentials"
    trust = ("--credentials", str(folder / "operator.nk"), "--authority", str(folder / "authority.crt"))
    return main(["--nats", "nats://127.0.0.1:4223", "--domain", "hub", *trust, *words])


def test_an_operator_sees_what_the_plugin_has_stated(machine: Composed, capsys: pytest.CaptureFixture[str]) -> None:
    assert operator(machine, "policy", "get") == 0
    listed = capsys.readouterr().out
    assert listed.count("docker on n1") == 2, "the shorthand's policy and the network's"


def test_strangers_are_nobody(machine: Composed) -> None:
    async def ask(seed: str) -> bool:
        bus = NatsBus(machine.bus_url, name="stranger", domain="hub", seed_file=seed)
        bus.start()
        try:
            return bool(await bus.gather(HEALTH, Empty(), wait_s=2))
        except FairleadError:
            return False
        finally:
            await bus.close()

    assert asyncio.run(ask(machine.seed))
    assert not asyncio.run(ask(""))


def test_a_compose_file_with_its_policies(machine: Composed, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(images.EXAMPLES / "desk.yaml")
    assert operator(machine, "compose", "apply", "-p", "desk", "-f", file, "--wait") == 0
    machine.example("desk", "up", "-d", "--no-build")
    until(lambda: machine.visit(8083).get("stack") == "desk", 90, what="the desk", tell=machine.tell)
    assert machine.connects("desk/api", "postgres", 5432)
    assert not machine.connects("desk/api", "web", 80)
    assert not machine.connects("desk/api", "redis", 6380)
    machine.example("desk", "down", "-v", "-t", "0")
    capsys.readouterr()
    assert operator(machine, "compose", "delete", "-p", "desk") == 0
    assert capsys.readouterr().out.count("removed") == 6


async def test_the_store_hears_nobody_without_a_certificate(machine: Composed) -> None:
    folder = machine.folder / "config" / "credentials"
    who = [folder / "nodes" / "n1" / f"n1.ipam.{kind}" for kind in ("crt", "key")]
    for tls, key, error in (
        (None, "fairlead/claims/", Unavailable),
        (Tls(folder / "authority.crt"), "fairlead/claims/", Unavailable),
        (Tls(folder / "authority.crt", *who), "fairlead/policies/", Denied),
    ):
        kv = EtcdKv(STORE.replace("https", "http" if tls is None else "https"), tls=tls)
        with pytest.raises(error):
            await kv.list(key)
        await kv.close()


def test_everything_comes_back_with_its_credential(machine: Composed) -> None:
    for service in ("leaf", "nats", "etcd", "policy", "docker"):
        machine.crash(service)
    machine.well()
    machine.container("later", "--label", "fairlead.egress.allow=dns")
    assert {one.state for one in machine.ready(4, 60)} == {EndpointState.READY}
    machine.engine.run("rm", "-f", "db", "api", "other", "later")
    machine.settled_empty()
