"""Fairlead itself from compose.yaml, in containers of the engine whose network it is; and the example stacks on it."""

from __future__ import annotations

import ipaddress
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from services.datapath.kernel import netlink
from tests.docker import images
from tests.docker.composed import SERVICES, SYSLOG, Composed, composed
from tests.docker.machine import NETWORK_OPTIONS, skip_unless_possible, until
from tests.docker.router import router
from tests.docker.test_endurance import lost, traffic
from tests.docker.unit import PluginUnit
from tests.kernel.rig import run

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1800)]
STACKS = ("shop", "blog")


@pytest.fixture(scope="module")
def machine() -> Iterator[Composed]:
    skip_unless_possible(images.why_not())
    with composed(images.images()) as made:
        yield made


@pytest.fixture(autouse=True)
def clean() -> None:
    """Nothing to be cleaned between these tests: one story on one machine."""


@pytest.fixture(scope="module")
def stacks(machine: Composed) -> Composed:
    for stack in STACKS:
        machine.example(stack, "up", "-d", "--no-build")
    machine.engine.run("network", "create", "--ipv6", *NETWORK_OPTIONS, "fl")
    return machine


@contextmanager
def visits(machine: Composed, port: int) -> Iterator[list[str]]:
    """Have a machine on the network ask a stack again and again; afterwards what failed is in the list."""
    failures: list[str] = []
    ended, made = threading.Event(), 0

    def ask() -> None:
        nonlocal made
        while not ended.wait(0.2):
            made += 1
            if "stack" not in (answer := machine.visit(port)):
                failures.append(f"visit {made} while {machine.crashed} was away: {answer}")

    visitor = threading.Thread(target=ask)
    visitor.start()
    try:
        yield failures
    finally:
        ended.set()
        visitor.join()
    assert made > 10


def test_compose_brings_all_of_fairlead_up(machine: Composed) -> None:
    assert not machine.ill()


def test_every_service_logs_to_a_machine_on_the_network(machine: Composed) -> None:
    with netlink.inside(f"/run/netns/{machine.name}w"):
        receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with receiver:
        receiver.bind(("192.0.2.2", SYSLOG))
        receiver.settimeout(60)
        machine.fairlead("restart", "-t", "5", "identity", "policy", "ipam", "datapath", "docker", "bgp")
        wanted = {f"fairlead-{name}" for name in ("identity", "policy", "ipam", "datapath", "docker", "bgp")}
        while wanted:
            priority, _, host, name, *_ = receiver.recv(4096).decode().split(" ")
            assert (priority[-2:], host) == (">1", "n1")
            wanted.discard(name)
    machine.well()


def test_a_router_learns_the_machines_prefixes_and_keeps_them_over_a_crash(machine: Composed) -> None:
    claimed = set(machine.prefixes())
    with router(f"/run/netns/{machine.name}w") as met:
        until(lambda: set(met.routes()) == claimed, 90, what=f"{claimed} at the router", tell=met.routes)
        for service in ("bird", "bgp"):
            machine.crash(service)
            assert set(met.routes()) == claimed, service
        machine.well()
        until(
            lambda: "stale" not in str(met.routes()) and set(met.routes()) == claimed,
            60,
            what="fresh routes",
            tell=met.routes,
        )


def test_a_stack_works_by_its_policy_and_its_names(stacks: Composed) -> None:
    stacks.ready(8, 60)
    stacks.opens(8081, "shop")
    assert stacks.connects("shop/api", "redis", 6379)
    assert stacks.connects("shop/api", "postgres", 5432)
    # by address and by name: what the labels do not name is refused
    assert not stacks.connects("shop/api", "web", 80)
    assert not stacks.connects("shop/api", "redis", 6380)


def test_stacks_do_not_reach_each_other(stacks: Composed) -> None:
    for name, port in (("redis", 6379), ("postgres", 5432)):
        other = stacks.address(stacks.engine.member(f"shop/{name}"), "shop_default")
        assert stacks.connects("shop/api", other, port)
        assert not stacks.connects("blog/api", other, port)


def test_stacks_have_ipv6_by_the_same_rules(stacks: Composed) -> None:
    found = {name: stacks.resolves("shop/api", name) for name in ("redis", "postgres", "web")}
    prefix = ipaddress.ip_network(next(one for one in stacks.prefixes() if ":" in one))
    assert all(ipaddress.ip_address(address) in prefix for address in found.values())
    for name, port in (("redis", 6379), ("postgres", 5432)):
        assert stacks.connects("shop/api", found[name], port)
        assert not stacks.connects("blog/api", found[name], port)
    assert not stacks.connects("shop/api", found["web"], 80), "no label names it"
    assert ":" in stacks.resolves("blog/api", "redis")
    # what published ports need that come by IPv6 from elsewhere (clients/docker/README.md)
    run("nsenter", f"--net=/run/netns/{stacks.name}n", "sysctl", "-qw", "net.ipv6.conf.all.forwarding=1")
    node = "[2001:db8::1]"
    until(lambda: stacks.visit(8081, at=node).get("stack") == "shop", 30, what="the shop", tell=stacks.tell)
    assert "timed out" in stacks.visit(8082, at=node)["error"]


def test_a_published_port_is_for_whom_the_policy_names(stacks: Composed) -> None:
    stacks.opens(8082, "blog")
    assert "timed out" in stacks.visit(8082)["error"]
    assert "blog" in stacks.fetch_from("n", "127.0.0.1", 8082), "a machine may reach its own workloads"
    assert stacks.visit(8081)["stack"] == "shop"


def test_every_container_of_fairlead_dies_under_traffic_and_nothing_fails(stacks: Composed) -> None:
    address = stacks.serve("echo", "--label", "app=echo")
    stacks.container("client", "--label", "app=client")
    stacks.ready(10)
    with traffic(stacks, "client", address) as said, visits(stacks, 8081) as failures:
        for service in SERVICES:
            stacks.crash(service)
            assert stacks.fetch("client", address) == "echo", service
            assert not stacks.connects("blog/api", address, 81), service
        stacks.well()
    assert lost(said) == 0
    assert failures == []
    # and what is new works too
    stacks.container("later", "--label", "app=later")
    stacks.ready(11)
    assert "timed out" in stacks.visit(8082)["error"]


def test_glass_is_broken_with_every_container_of_fairlead_stopped_and_ends_by_itself(stacks: Composed) -> None:
    redis = stacks.address(stacks.engine.member("shop/redis"), "shop_default")
    stacks.fairlead("stop", "-t", "5")
    assert not stacks.connects("blog/api", redis, 6379)
    asked = ("break-glass", "node", "--for", "20s", "--reason", "drill")
    said = stacks.fairlead("run", "--rm", "--no-deps", "--entrypoint", "fairlead", "datapath", *asked)
    assert "what policy denies passes until" in said
    assert stacks.connects("blog/api", redis, 6379)
    until(lambda: not stacks.connects("blog/api", redis, 6379), 60, what="the end of broken glass")
    book = stacks.folder / "state" / "datapath" / "break-glass.log"
    assert '"reason":"drill"' in book.read_text()
    stacks.up()
    assert stacks.visit(8081)["stack"] == "shop"


def test_an_upgrade_of_all_of_fairlead_loses_no_packet(stacks: Composed) -> None:
    with traffic(stacks, "client", stacks.address("echo")) as said, visits(stacks, 8081) as failures:
        stacks.fairlead("up", "-d", "--no-build", "--force-recreate", "-t", "5")
        stacks.well()
    assert lost(said) == 0
    assert failures == []


def test_the_plugin_finds_an_engine_that_was_started_again(stacks: Composed) -> None:
    stacks.engine.kill()
    stacks.engine.start()
    stacks.well()
    stacks.container("after", "--label", "app=after")
    stacks.ready(12)
    assert stacks.visit(8081)["stack"] == "shop"


def test_a_boot_with_the_plugin_beside_the_engine_brings_every_stack_back(stacks: Composed) -> None:
    unit = PluginUnit(stacks)
    unit.install()
    stacks.configure({"node": stacks.node})
    stacks.environ["FAIRLEAD_DOCKER_SCALE"] = "0"
    stacks.fairlead("rm", "-f", "-s", "docker")
    unit.start()
    try:
        stacks.opens(8081, "shop")
        stacks.cut_power()
        unit.kill()
        assert stacks.visit(8081)["error"]
        unit.start()
        stacks.engine.start()
        stacks.well()
        # the engine tries everything once and at once, also what needs a datapath that is not there yet
        stacks.ready(8, 120)
        stacks.opens(8081, "shop")
        stacks.opens(8082, "blog")
    finally:
        del stacks.environ["FAIRLEAD_DOCKER_SCALE"]
        unit.kill()
        stacks.up()


def test_down_leaves_nothing(stacks: Composed) -> None:
    stacks.end_workloads()
    stacks.engine.run("network", "rm", "fl")
    for stack in STACKS:
        stacks.example(stack, "down", "-v", "-t", "0")
    stacks.settled_empty()
    stacks.remove()
    assert stacks.engine.said("ps", "-aq") == ""
    assert stacks.engine.said("volume", "ls", "-q") == ""
    devices = {line.split()[0].split("@")[0] for line in run("ip", "-br", "link").splitlines()}
    assert devices == {"lo", "up0", "docker0"}
    assert "proto 88" not in run("ip", "rule")
    assert run("tc", "filter", "show", "dev", "up0", "ingress") == ""
    assert stacks.pins() == []
