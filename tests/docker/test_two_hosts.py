"""Two machines with an engine each: one has the hub (compose.yaml), the other only node services (compose.node.yaml and plain files)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from services.datapath.kernel import netlink
from tests.docker import images
from tests.docker.composed import Composed
from tests.docker.machine import NETWORK_OPTIONS, ONLY_CLIENTS, skip_unless_possible, until
from tests.docker.test_endurance import lost, traffic
from tests.kernel.rig import run

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1800)]

_HUB, _FAR = "192.0.2.1", "192.0.2.2"
_COMMON = {"pools": "10.7.0.0/16,fd07::/64", "uplinks": "up0", "docker-resync-s": "2", "docker-orphan-s": "3"}


@dataclass(frozen=True)
class Pair:
    """Both machines; the thread stands in the network of the first."""

    hub: Composed
    far: Composed


@pytest.fixture(autouse=True)
def clean() -> None:
    """Nothing to be cleaned between these tests: one story on two machines."""


@pytest.fixture(scope="module", params=["native", "vxlan"])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    skip_unless_possible(images.why_not())
    file = images.images()
    with ExitStack() as stack:
        name = _wire(stack)
        stack.enter_context(netlink.inside(f"/run/netns/{name}1n"))
        common = {**_COMMON, "routing": request.param}
        environ = {"FAIRLEAD_NODE": "n1", "FAIRLEAD_HUB_LISTEN": _HUB}
        hub = Composed(stack, "n1", f"{name}1", {**common, "node-addresses": f"{_HUB},2001:db8::1"}, environ)
        there = {"node": "n2", "hub": _HUB, "etcd": f"http://{_HUB}:2379", "node-addresses": f"{_FAR},2001:db8::2"}
        far = Composed(stack, "n2", f"{name}2", {**common, **there}, {}, "compose.node.yaml")
        for machine in (hub, far):
            machine.start(file)
            machine.engine.run("network", "create", "--ipv6", *NETWORK_OPTIONS, "fl")
        if request.param == "native":
            _tell_each_other(hub, far)
        yield Pair(hub, far)


def _wire(stack: ExitStack) -> str:
    """Make two machines' networks with a cable between them; return what their names begin with."""
    name = f"fk{os.getpid()}{os.urandom(2).hex()}"
    for number in (1, 2):
        run("ip", "netns", "add", f"{name}{number}n")
        stack.callback(run, "ip", "netns", "del", f"{name}{number}n")
    run("ip", "-n", f"{name}1n", "link", "add", "up0", "type", "veth", "peer", "name", "up0", "netns", f"{name}2n")
    for number in (1, 2):
        run("ip", "-n", f"{name}{number}n", "addr", "add", f"192.0.2.{number}/24", "dev", "up0")
        run("ip", "-n", f"{name}{number}n", "addr", "add", f"2001:db8::{number}/64", "dev", "up0", "nodad")
        for device in ("lo", "up0"):
            run("ip", "-n", f"{name}{number}n", "link", "set", device, "up")
    return name


def _tell_each_other(hub: Composed, far: Composed) -> None:
    """Route each machine's prefixes to it, as a network without BGP does by hand."""
    for here, there, gateways in ((hub, far, (_FAR, "2001:db8::2")), (far, hub, (_HUB, "2001:db8::1"))):
        for prefix in there.prefixes():
            gateway = gateways[":" in prefix]
            run("ip", "-n", f"{here.name}n", "route", "add", prefix, "via", gateway)


def test_containers_on_two_machines_reach_each_other_as_policy_says(pair: Pair) -> None:
    address = pair.far.serve("web", "--label", "app=web")
    pair.hub.container("client", "--label", "app=client")
    pair.hub.container("other", "--label", "app=other")
    pair.far.ready(1, 60)
    pair.hub.ready(2, 60)
    for name in ("client", "other"):
        until(lambda name=name: pair.hub.fetch(name, address) == "web", what=f"{name} to reach web")  # type: ignore[misc] # bound now
    inner = pair.far.engine.said("inspect", "-f", "{{.NetworkSettings.Networks.fl.GlobalIPv6Address}}", "web")
    assert pair.hub.inside("client", "ping", "-6", "-c1", "-W2", inner).returncode == 0
    pair.hub.apply(ONLY_CLIENTS)
    assert [pair.hub.fetch(name, address) for name in ("client", "other")] == ["web", ""]
    assert pair.hub.inside("client", "ping", "-6", "-c1", "-W1", inner).returncode != 0, "only port 80 is allowed"


def test_an_upgrade_of_one_machine_changes_nothing_on_the_other_and_loses_no_packet(pair: Pair) -> None:
    address = pair.hub.serve("echo", "--label", "app=echo")
    pair.far.container("asks", "--label", "app=asks")
    pair.far.ready(2, 60)
    until(lambda: pair.far.fetch("asks", address) == "echo", what="the first answer")
    before = pair.hub.starts()
    with traffic(pair.far, "asks", address) as said:
        pair.far.fairlead("up", "-d", "--no-build", "--force-recreate", "-t", "5")
        pair.far.well()
    assert lost(said) == 0
    assert pair.hub.starts() == before


def test_the_other_machine_goes_on_while_the_hub_is_away(pair: Pair) -> None:
    address = pair.hub.address("echo")
    with traffic(pair.far, "asks", address) as said:
        pair.hub.fairlead("stop", "-t", "5", "nats", "etcd", "identity", "policy")
        assert pair.far.fetch("asks", address) == "echo"
        pair.far.container("known", "--label", "app=asks")
        until(lambda: pair.far.fetch("known", address) == "echo", what="a new container with known labels")
        assert not pair.far.ill()
        pair.hub.fairlead("start")
        pair.hub.well()
    assert lost(said) == 0
