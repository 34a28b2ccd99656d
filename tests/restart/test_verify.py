"""`fairlead datapath verify` against a node whose kernel somebody has damaged: each kind is found by name, and repaired in time."""

from __future__ import annotations

import asyncio
import contextlib
import os
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from fairlead.address import Address, Prefix
from fairlead.errors import Unavailable
from fairlead.schema import datapath as topics
from fairlead.schema.base import Empty, IdentityId
from fairlead.schema.datapath import EndpointState
from fairlead.schema.identity import ADDRESSES, AddressEntry, AddressGroup
from services.datapath.kernel import abi, devices, links, syscalls
from services.datapath.kernel.maps import create_map
from services.datapath.kernel.netlink import Netlink
from services.datapath.kernel.tables import Tables
from services.datapath.operations import PolicyKey, PolicyValue
from tests.bench.datapath_control import tables_of
from tests.kernel.rig import run
from tests.support import kernels
from tests.support.node import Node, node
from tests.unit.datapath.world import NODE, entry

pytestmark = [pytest.mark.kernel, pytest.mark.connected, pytest.mark.timeout(300)]
PEER = Prefix("10.200.0.5/32")
PORTS = entry(0, 5001, 17, 8000, end_port=8999)
RECONCILE_S = 0.6
WEB, DB = ("10.7.1.1", "fd07::1:1"), ("10.7.1.2", "fd07::1:2")


@dataclass(frozen=True)
class Damage:
    """One thing that a person with root can do, and the words by which it is found."""

    problem: str
    do: Callable[[Node], None]


def _tables(change: Callable[[Tables], object]) -> Callable[[Node], None]:
    def do(made: Node) -> None:
        with tables_of(made) as tables:
            change(tables)

    return do


def _state(**fields: object) -> Callable[[Node], None]:
    """Return the damage of an endpoint's entry; endpoint 1 is web."""
    return _tables(lambda tables: tables._write_state(1, tables.state(1)._replace(**fields)))  # type: ignore[arg-type] # merged


def _ip(*words: str, pod: str = "") -> Callable[[Node], None]:
    """Return the damage that `ip` does, in the node's namespace or a pod's."""

    def do(made: Node) -> None:
        inside = ("nsenter", f"--net={made.netns(pod)}") if pod else ()
        run(*inside, "ip", *words)

    return do


def _unpin(name: str) -> Callable[[Node], None]:
    return lambda made: (made.pins / name).unlink()


def _tc(hook: int, device: str) -> Callable[[Node], None]:
    """Return the damage of a filter that somebody deleted."""

    def do(_made: Node) -> None:
        with closing(Netlink()) as wire:
            found = devices.find_device(wire, device)
            assert found is not None
            wire.send([links.detach(found.ifindex, hook)])

    return do


def _other_program(device: str) -> Callable[[Node], None]:
    """Return the damage of a filter that runs another of our programs."""

    def do(made: Node) -> None:
        fd = syscalls.object_get(str(made.pins / "fairlead_from_host"))
        with closing(Netlink()) as wire:
            found = devices.find_device(wire, device)
            assert found is not None
            wire.send(links.attach(found.ifindex, links.INGRESS, "from_pod", fd))
        os.close(fd)

    return do


def _forwarding_off(_made: Node) -> None:
    Path(f"/proc/sys/net/ipv4/conf/{links.HOST_DEVICE}/forwarding").write_text("0")


def _blind(array: str) -> Callable[[Node], None]:
    """Return the damage that takes endpoint 1's map out of the programs' sight."""

    def do(made: Node) -> None:
        slots = syscalls.object_get(str(made.pins / f"fairlead_{array}"))
        syscalls.map_delete(slots, struct.pack("=I", 1))
        os.close(slots)

    return do


def _other_map(made: Node) -> None:
    """Put another map of the same shape under the name of the flow table."""
    pin, spec = made.pins / "fairlead_conntrack", abi.map_specs(64, 64)["conntrack"]
    pin.unlink()
    create_map(pin, "conntrack", spec).close()


def _wrong_host(tables: Tables) -> None:
    packed = tables.maps["settings"].get(struct.pack("=I", 0)) or b""
    fields = list(abi.SETTINGS.unpack(packed))
    fields[1] = 4321
    tables.maps["settings"].put(struct.pack("=I", 0), abi.SETTINGS.pack(*fields))


def _foreign_address(tables: Tables) -> None:
    tables.ipcache.change({Prefix("203.0.113.9/32"): 7}, ())


ALLOW_80 = PolicyKey(5001, 80, 6, 0)
DAMAGES = {
    "filter deleted": Damage("filter missing", _tc(links.INGRESS, "fl00001")),
    "filter runs another program": Damage("filter: wrong program", _other_program("fl00001")),
    "uplink filter deleted": Damage("uplink filter missing", _tc(links.INGRESS, "up0")),
    "uplink filter runs another program": Damage("uplink filter: wrong program", _other_program("up0")),
    "host filter deleted": Damage("host filter missing", _tc(links.EGRESS, links.HOST_DEVICE)),
    "program pin missing": Damage("pin missing", _unpin("fairlead_from_pod")),
    "uplink program's pin missing": Damage("pin missing", _unpin("fairlead_from_network")),
    "map pin missing": Damage("pin missing", _unpin("fairlead_metrics")),
    "flow table's pin missing": Damage("pin missing", _unpin("fairlead_conntrack")),
    "array of maps without a pin": Damage("pin missing", _unpin("fairlead_policies")),
    "pin of what no program uses missing": Damage("pin missing", _unpin("fairlead_abi")),
    "pin of another map": Damage("pin stands for another map than programs use", _other_map),
    "policy map's pin missing": Damage("pin of policy map missing", _unpin("cilium_policy_00001")),
    "policy map out of sight": Damage("programs see another policy map than the pinned one", _blind("policies")),
    "port ranges' pin missing": Damage("pin of map of port ranges missing", _unpin("fairlead_ranges_00001")),
    "port ranges out of sight": Damage(
        "programs see another map of port ranges than the pinned one", _blind("policy_ranges")
    ),
    "policy entry missing": Damage("policy entry missing", _tables(lambda t: t.policies.change(1, {}, [ALLOW_80]))),
    "policy entry changed": Damage(
        "policy entry changed", _tables(lambda t: t.policies.change(1, {ALLOW_80: PolicyValue(deny=True)}, ()))
    ),
    "policy entry foreign": Damage(
        "policy entry foreign", _tables(lambda t: t.policies.change(1, {PolicyKey(0, 0, 0, 0): PolicyValue()}, ()))
    ),
    "wrong identity": Damage("endpoint entry: wrong identity", _state(identity=77)),
    "wrong ifindex": Damage("endpoint entry: wrong ifindex", _state(ifindex=7777)),
    "wrong pod MAC": Damage("endpoint entry: wrong pod mac", _state(pod_mac=b"\x02wrong")),
    "wrong host MAC": Damage("endpoint entry: wrong host mac", _state(host_mac=b"\x02wrong")),
    "held": Damage("endpoint entry: wrong held", _state(flags=3)),
    "default deny forgotten": Damage("endpoint entry: wrong ingress default deny", _state(ingress_default_deny=0)),
    "endpoint entry missing": Damage("endpoint entry missing", _state(flags=0)),
    "endpoint's address missing": Damage(
        "endpoint entry: wrong addresses",
        _tables(lambda t: t.maps["endpoints"].delete(abi.pack_address(Address(WEB[0])))),
    ),
    "address missing": Damage("address missing", _tables(lambda t: t.ipcache.change({}, [PEER]))),
    "address wrong": Damage("address changed", _tables(lambda t: t.ipcache.change({PEER: 7}, ()))),
    "address foreign": Damage("address foreign", _tables(_foreign_address)),
    "route missing": Damage("route missing", _ip("route", "del", "10.7.0.0/16", "table", "2047")),
    "route foreign": Damage(
        "route foreign", _ip("route", "add", "10.99.0.0/16", "dev", "fairlead_host", "table", "2047", "proto", "88")
    ),
    "rule missing": Damage("rule missing", _ip("-6", "rule", "del", "priority", "1000")),
    "host device missing": Damage("device missing", _ip("link", "del", "fairlead_host")),
    "host device down": Damage("device down", _ip("link", "set", "fairlead_host", "down")),
    "forwarding off": Damage("forwarding is off", _forwarding_off),
    "programs know another host device": Damage("programs look for the host at another device", _tables(_wrong_host)),
    "veth down": Damage("host device down", _ip("link", "set", "fl00001", "down")),
    "veth missing": Damage("host device missing", _ip("link", "del", "fl00001")),
    "veth with another MAC": Damage(
        "host device has another MAC", _ip("link", "set", "fl00001", "address", "02:00:00:00:00:99")
    ),
    "pod interface down": Damage("pod interface down", _ip("link", "set", "eth0", "down", pod="web")),
    "pod address missing": Damage("pod address missing", _ip("addr", "del", f"{WEB[0]}/32", "dev", "eth0", pod="web")),
    "pod address foreign": Damage("pod address foreign", _ip("addr", "add", "10.7.1.9/32", "dev", "eth0", pod="web")),
    "pod route missing": Damage("pod default route missing", _ip("route", "del", "default", pod="web")),
    "pod gateway unknown": Damage(
        "pod gateway's MAC missing or wrong", _ip("neigh", "del", "169.254.1.1", "dev", "eth0", pod="web")
    ),
}


@pytest.fixture(autouse=True)
def _possible() -> None:
    if reason := kernels.missing():
        pytest.skip(f"real kernel: {reason}")


@contextlib.asynccontextmanager
async def whole(reconcile_s: float) -> AsyncIterator[Node]:
    """Give a node with two endpoints under a policy, and an address of somebody else; nothing differs on it."""
    async with node(RECONCILE_S=str(reconcile_s), LOG_LEVEL="WARNING") as made:
        for name, addresses in (("web", WEB), ("db", DB)):
            made.namespace(name)
            number = await made.control.identity((f"container:app={name}",))
            await made.control.policy(
                number, [entry(1), entry(0, 5001, 6, 80), PORTS], origins=(f"test/{name}",), ingress_default_deny=(0,)
            )
            status = await made.attach(name, addresses, f"app={name}", wait_s=30)
            assert status.state is EndpointState.READY, status
        row = AddressEntry(prefix=PEER, identity=IdentityId(5001))
        await made.bus.bucket(ADDRESSES).put("far", AddressGroup(group="far", entries=(row,), revision=500))
        await until_clean(made)
        yield made


async def verify(made: Node) -> topics.Verification:
    answer: topics.Verification = await made.ask(topics.VERIFY, Empty())
    return answer


async def until_clean(made: Node, within_s: float = 10.0) -> None:
    async with asyncio.timeout(within_s):
        while True:
            with contextlib.suppress(Unavailable):  # it may still be starting
                answer = await verify(made)
                if not answer.found and answer.compared.get("addresses"):
                    return
            await asyncio.sleep(0.1)


async def find(made: Node, damage: Damage) -> topics.Verification:
    """Do the damage and look; again when the periodic comparison was faster than we."""
    for _ in range(8):
        damage.do(made)
        answer = await verify(made)
        if damage.problem in {one.problem for one in answer.differences}:
            return answer
        await until_clean(made)
    raise AssertionError(f"{damage.problem}: never found; last answer {answer}")


async def test_each_damage_is_found_by_name_and_repaired() -> None:
    troubles = []
    async with whole(RECONCILE_S) as made:
        for what, damage in DAMAGES.items():
            try:
                await find(made, damage)
                await until_clean(made)
            except (AssertionError, OSError) as error:
                troubles.append(f"{what}: {error or await verify(made)}")
    assert troubles == []


async def test_command_tells_and_exits_with_one() -> None:
    async with whole(3600) as made:
        assert await _command(made) == (0, f"{NODE}: as it should be")
        DAMAGES["filter deleted"].do(made)
        status, text = await _command(made)
        assert status == 1
        assert "endpoint 1" in text
        assert "filter missing" in text


async def _command(made: Node) -> tuple[int, str]:
    command = [sys.executable, "-m", "clients.cli", "--nats", made.nats.url, "datapath", "verify", "--node", NODE]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False, timeout=20)
    return done.returncode, done.stdout.split(" (")[0] if done.returncode == 0 else done.stdout + done.stderr
