"""Endpoints that the plugin makes ahead, with an engine: containers get them, and a kill of the plugin loses and doubles none."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.docker.host import Host, until

pytestmark = [pytest.mark.docker, pytest.mark.timeout(300)]


def _stock(host: Host) -> dict[str, Any]:
    """Return the addresses of the spares that the plugin has, by their files; of a full stock only."""
    found = [json.loads(path.read_text()) for path in (host.plugin_state / "spares").glob("*.json")]
    return {one["id"]: one["addresses"] for one in found} if len(found) == host.spares else {}


def test_containers_get_what_was_made_ahead_also_after_the_plugin_was_killed(host: Host) -> None:
    before = until(lambda: _stock(host), what="the stock")
    address = host.serve("web")
    assert address in {addresses[0] for addresses in before.values()}
    host.plugin.kill()
    host.plugin.start()
    left = until(lambda: _stock(host), what="the stock after the kill")
    assert len(left.keys() & before.keys()) == host.spares - 1
    client = host.container("client")
    assert client in {addresses[0] for addresses in left.values()}
    ready = host.ready(2)
    assert {len(one.addresses) for one in ready} == {2}
    assert host.fetch("client", address) == "web"
    more = [host.container(f"burst-{number}") for number in range(host.spares + 2)]
    assert len({address, client, *more}) == host.spares + 4
    host.ready(host.spares + 4)


def test_the_stock_stands_in_the_way_of_nobody_who_names_an_address(host: Host) -> None:
    host.engine.run("network", "create", "-d", "fairlead", "--ipam-driver", "fairlead", "--subnet", _pool(host), "own")
    try:
        stock = until(lambda: _stock(host), what="the stock")
        wanted = next(iter(stock.values()))[0]
        for name in ("first", "second"):
            assert host.container(name, "--ip", wanted, network="own") == wanted
            host.ready(1)
            host.engine.run("rm", "-f", name)
    finally:
        host.engine.run("rm", "-f", "first", "second", check=False)
        host.engine.run("network", "rm", "own")


def _pool(host: Host) -> str:
    return host.engine.said("network", "inspect", "-f", "{{(index .IPAM.Config 0).Subnet}}", "fl")
