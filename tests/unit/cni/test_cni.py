"""The CNI commands on the real ipam and a datapath on a kernel in dicts: repeated, reordered, at once, and senseless."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clients.cni import protocol
from clients.cni.__main__ import number_of, run
from clients.cni.plugin import CniPlugin
from fairlead.address import Prefix
from fairlead.bus_memory import Hub
from fairlead.clock import SYSTEM
from fairlead.errors import FairleadError
from services.ipam.service import Ipam
from services.ipam.store import StateFile
from tests.unit.datapath.world import NODE, Control, TestNode

CONFIG = {"cniVersion": "1.1.0", "name": "net", "type": "fairlead", "labels": {"app": "web"}}


class World:
    def __init__(self, node: TestNode, ipam: Ipam) -> None:
        self.node, self.ipam, self.plugin = node, ipam, CniPlugin(node.bus, NODE)

    async def call(self, command: str, container: str = "c1", **config: Any) -> Any:
        environ = {"CNI_CONTAINERID": container, "CNI_IFNAME": "eth0", "CNI_NETNS": f"/run/netns/{container}"}
        read = protocol.read_config(json.dumps(CONFIG | config).encode())
        return await self.plugin.answer(protocol.read_call(command, environ, read))

    async def refusal(self, command: str, container: str = "c1", **config: Any) -> tuple[int, str]:
        with pytest.raises(FairleadError) as caught:
            await self.call(command, container, **config)
        return number_of(caught.value), caught.value.message


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    hub = Hub()
    await Control(hub).start()
    node = TestNode(tmp_path / "datapath", hub)
    await node.start()
    await node.bus.serve("datapath", node.datapath.routes())
    ipam = Ipam(NODE, StateFile(tmp_path / "leases.json", NODE), lambda *_: None, SYSTEM)
    await ipam.take([Prefix("10.0.0.0/29"), Prefix("fd00::/80")])
    await node.bus.serve("ipam", ipam.routes())
    yield World(node, ipam)
    await node.stop()


async def test_an_attachments_life(world: World) -> None:
    added = await world.call("ADD")
    assert [ip["address"] for ip in added["ips"]] == ["10.0.0.2/32", "fd00::2/128"]
    assert [route["gw"] for route in added["routes"]] == ["169.254.1.1", "fe80::1"]
    assert added["interfaces"][1]["sandbox"] == "/run/netns/c1"
    assert world.node.status("cni/net/c1/eth0").labels == ("container:app=web",)
    assert await world.call("ADD") == added
    assert await world.call("CHECK", prevResult=added) is None
    number, message = await world.refusal("CHECK", prevResult=added | {"ips": [{"address": "10.9.9.9/32"}]})
    assert (number, "10.9.9.9" in message) == (999, True)
    for _ in range(3):
        assert await world.call("DEL") is None
    assert (await world.refusal("CHECK"))[0] == protocol.UNKNOWN_CONTAINER
    assert world.node.world.links == {}


async def test_many_at_once_get_what_is_theirs_and_the_rest_may_try_again(world: World) -> None:
    answers = await asyncio.gather(*(world.call("ADD", f"c{number}") for number in range(7)), return_exceptions=True)
    done = [answer for answer in answers if isinstance(answer, dict)]
    assert len({answer["ips"][0]["address"] for answer in done}) == len(done) == 5
    assert [number_of(one) for one in answers if isinstance(one, FairleadError)] == [protocol.TRY_AGAIN] * 2


async def test_gc_removes_what_the_runtime_does_not_name_and_no_other_networks(world: World) -> None:
    for container in ("c1", "c2"):
        await world.call("ADD", container)
    await world.call("ADD", "c3", name="other")
    assert await world.call("STATUS") is None
    assert (await world.refusal("GC"))[0] == protocol.INVALID_CONFIG
    valid: dict[str, Any] = {"cni.dev/valid-attachments": [{"containerID": "c1", "ifname": "eth0"}]}
    await world.call("GC", **valid)
    listed = {record.name for record in world.node.datapath.node.endpoints.live()}
    assert listed == {"cni/net/c1/eth0", "cni/other/c3/eth0"}


async def test_fixed_addresses_and_labels_of_the_workload(world: World) -> None:
    args = {"cni": {"labels": {"app": "db"}, "ips": ["10.0.0.5/24"]}}
    added = await world.call("ADD", args=args)
    assert added["ips"][0]["address"] == "10.0.0.5/32"
    assert world.node.status("cni/net/c1/eth0").labels == ("container:app=db",)
    assert (await world.refusal("ADD", "c2", args={"cni": {"ips": ["x"]}}))[0] == protocol.INVALID_CONFIG


async def test_without_the_services_the_runtime_hears_that_it_may_try_again(world: World) -> None:
    world.node.hub.up = False
    assert (await world.refusal("ADD"))[0] == protocol.TRY_AGAIN
    assert (await world.refusal("STATUS"))[0] == protocol.CANNOT_ADD


def test_version_needs_nothing() -> None:
    status, answer = run(b"", {"CNI_COMMAND": "VERSION"})
    assert (status, answer) == (0, {"cniVersion": "1.1.0", "supportedVersions": ["0.4.0", "1.0.0", "1.1.0"]})


@pytest.mark.parametrize(
    ("text", "environ", "number", "named"),
    [
        (b"{", {}, protocol.UNREADABLE, "configuration"),
        (b'{"cniVersion": "9.0.0"}', {}, protocol.INCOMPATIBLE, "`cniVersion`"),
        (b'{"cniVersion": "1.1.0", "name": "/"}', {}, protocol.INVALID_CONFIG, "`name`"),
        (b'{"cniVersion": "1.1.0", "name": "n"}', {}, protocol.INVALID_CONFIG, "`node`"),
        (b'{"cniVersion": "1.1.0", "name": "n", "node": "n1"}', {}, protocol.INVALID_ENVIRONMENT, "`CNI_CONTAINERID`"),
        (
            b'{"cniVersion": "1.1.0", "name": "n", "node": "n1"}',
            {"CNI_CONTAINERID": "c", "CNI_IFNAME": "a/b"},
            protocol.INVALID_ENVIRONMENT,
            "`CNI_IFNAME`",
        ),
        (
            b'{"cniVersion": "1.1.0", "name": "n", "node": "n1"}',
            {"CNI_CONTAINERID": "c", "CNI_IFNAME": "e"},
            protocol.INVALID_ENVIRONMENT,
            "`CNI_NETNS`",
        ),
    ],
)
def test_wrong_calls_are_named(text: bytes, environ: dict[str, str], number: int, named: str) -> None:
    status, answer = run(text, {"CNI_COMMAND": "ADD", **environ})
    assert answer is not None
    assert (status, answer["code"]) == (1, number)
    assert named in answer["msg"]


@given(st.binary(max_size=200), st.text(max_size=10))
def test_senseless_input_is_an_error_in_cnis_form(text: bytes, container: str) -> None:
    status, answer = run(text, {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": container})
    assert status == 1
    assert answer is not None
    assert {"cniVersion", "code", "msg"} == answer.keys()
