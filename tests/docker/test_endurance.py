"""Deaths, restarts and repetitions: what runs goes on, what is the same stays the same, nothing is left."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.docker.dockerd import IMAGE
from tests.docker.host import NETWORK_OPTIONS, Host, until
from tests.docker.machine import Machine

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]

_RECREATIONS = int(os.environ.get("FAIRLEAD_RECREATIONS", "10"))


@contextmanager
def traffic(host: Machine, container: str, address: str) -> Iterator[list[str]]:
    """Have a container ping an address all the while; afterwards what ping said is in the list."""
    said: list[str] = []
    # into a file: what the engine carries out of a container ends with the engine
    host.engine.run("exec", "-d", container, "sh", "-c", f"exec ping -i 0.1 -w 600 {address} >/tmp/said 2>&1")
    try:
        yield said
    finally:
        host.inside(container, "sh", "-c", "kill -INT $(busybox pidof ping)")
        until(lambda: "transmitted" in host.inside(container, "cat", "/tmp/said").stdout, what="ping to end")
        said.append(host.inside(container, "cat", "/tmp/said").stdout)


def lost(said: list[str]) -> int:
    found = re.search(r"(\d+) packets transmitted, (\d+) packets received", said[0])
    assert found, said
    assert int(found[1]) > 5, said
    return int(found[1]) - int(found[2])


def test_a_recreated_container_keeps_its_fixed_address(host: Host) -> None:
    subnet = host.engine.said("network", "inspect", "-f", "{{(index .IPAM.Config 0).Subnet}}", "fl")
    host.engine.run("network", "create", *NETWORK_OPTIONS, "--subnet", subnet, "fixed")
    address = subnet.replace("0/24", "77")
    for _ in range(_RECREATIONS):
        assert host.container("again", "--ip", address, "--label", "app=again", network="fixed") == address
        assert [lease.address for lease in host.leases()] == [address]
        host.engine.run("rm", "-f", "again")
    host.container("first", "--ip", address, network="fixed")
    wanted = ("run", "-d", "--name", "second", "--ip", address, "--network", "fixed", IMAGE, "true")
    assert f"`--ip`: {address} is in use by endpoint" in host.engine.run(*wanted, check=False).stderr
    host.engine.run("restart", "-t", "0", "first")
    assert host.address("first", "fixed") == address
    host.ready(1)
    host.engine.run("rm", "-f", "first", "second")
    host.engine.run("network", "rm", "fixed")


def test_traffic_goes_on_while_everything_dies_in_turn(host: Host) -> None:
    address = host.serve("web", "--label", "app=web", "-p", "8080:80")
    host.container("client")
    host.ready(2)
    with traffic(host, "client", address) as said:
        for one in (host.plugin, *host.services.values()):
            one.kill()
            assert host.fetch("client", address) == "web", one.service
            one.launch()
            until(one.health, what=f"{one.service} to be back")
        host.leaf.kill()
        host.leaf.start()
        host.engine.kill()
        host.engine.start()
    assert lost(said) == 0
    assert host.fetch("client", address) == "web"
    assert [host.fetch_from("w", "192.0.2.1", 8080), host.fetch_from("n", "127.0.0.1", 8080)] == ["web", "web"]
    until(host.kernel_is_up, 60, what="the datapath to take orders")
    host.container("later")
    host.ready(3)


def test_containers_start_from_the_local_pool_while_hub_and_store_are_dead(host: Host) -> None:
    host.container("before", "--label", "app=known")
    host.ready(1)
    host.nats.kill()
    host.etcd.kill()
    try:
        began = time.monotonic()
        address = host.serve("during", "--label", "app=known")
        until(lambda: host.fetch("before", address) == "during", 15, what="an answer of the new container")
        host.container("unknown", "--label", "app=never-seen")
        assert time.monotonic() - began < 30
    finally:
        host.nats.start()
        host.etcd.start()
    host.ready(3, 60)


def test_the_engine_starts_while_the_plugin_is_dead(host: Host) -> None:
    host.container("stays")
    host.ready(1)
    host.plugin.kill()
    host.engine.kill()
    host.engine.start()
    assert host.engine.said("ps", "--format", "{{.Names}}") == "stays"
    host.plugin.launch()
    until(host.plugin.health, what="the plugin to be back")
    host.ready(1)


def test_what_the_engine_forgot_is_swept(host: Host) -> None:
    host.container("gone")
    host.ready(1)
    host.plugin.kill()  # so that it does not hear of the end
    removal = host.engine.begin("rm", "-f", "gone")
    removal.wait(90)
    assert host.endpoints()
    host.plugin.launch()
    until(lambda: not host.endpoints(), 30, what="the orphan to go", tell=host.endpoints)
