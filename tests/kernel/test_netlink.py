"""Route netlink against the real kernel, told apart from what others keep in the same namespace."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from fairlead.address import Address, Prefix
from services.datapath.kernel import devices, links, netlink, routes
from services.datapath.kernel.door import Door
from services.datapath.kernel.netlink import Netlink
from services.datapath.operations import KernelError, Link
from tests.kernel.rig import run, why_not

pytestmark = pytest.mark.kernel

NEAR, FAR = bytes.fromhex("02666c000011"), bytes.fromhex("02666c000012")


@pytest.fixture
def spaces() -> Iterator[tuple[str, str]]:
    """Two namespaces with nothing in them; the test stands in the first."""
    if reason := why_not():
        pytest.skip(f"KERNEL TESTS DO NOT RUN: {reason}")
    name = f"fk{os.getpid()}{os.urandom(2).hex()}"
    with ExitStack() as stack:
        for which in ("a", "b"):
            run("ip", "netns", "add", name + which)
            stack.callback(run, "ip", "netns", "del", name + which)
        stack.enter_context(netlink.inside(f"/run/netns/{name}a"))
        yield name + "a", name + "b"


@pytest.fixture
def wire(spaces: tuple[str, str]) -> Iterator[Netlink]:
    with closing(Netlink()) as made:
        yield made


def shown(space: str, *words: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(run("ip", "-n", space, "-j", "-d", *words) or "[]")
    return found


def make_pair(wire: Netlink, space: str) -> None:
    with netlink.namespace(f"/run/netns/{space}") as fd:
        wire.send([links.add_veth("near0", NEAR, 1400, links.veth_peer("far0", FAR, 1300, fd))])


def test_a_pair_is_as_asked_and_read_back_as_it_is(wire: Netlink, spaces: tuple[str, str]) -> None:
    make_pair(wire, spaces[1])
    near, far = shown(spaces[0], "link", "show", "near0")[0], shown(spaces[1], "link", "show", "far0")[0]
    assert (near["address"], near["mtu"], near["linkinfo"]["info_kind"]) == (NEAR.hex(":"), 1400, "veth")
    assert (far["address"], far["mtu"]) == (FAR.hex(":"), 1300)
    device = devices.Device("near0", near["ifindex"], NEAR, 1400, far["ifindex"], 1)
    assert devices.find_device(wire, "near0") == device
    assert device in devices.all_devices(wire)
    assert devices.find_device(wire, "far0") is None
    with pytest.raises(KernelError, match="create near0: File exists"):
        make_pair(wire, spaces[1])


def test_a_socket_stays_in_the_namespace_where_it_was_made(wire: Netlink, spaces: tuple[str, str]) -> None:
    make_pair(wire, spaces[1])
    with netlink.inside(f"/run/netns/{spaces[1]}"):
        there = Netlink()
    with closing(there):
        assert {device.name for device in devices.all_devices(there)} == {"lo", "far0"}
    assert {device.name for device in devices.all_devices(wire)} == {"lo", "near0"}


def test_a_device_that_is_not_ethernet_is_read_and_is_no_uplink(wire: Netlink, spaces: tuple[str, str]) -> None:
    assert [(device.name, device.mac) for device in devices.all_devices(wire)] == [("lo", b"")]
    with pytest.raises(KernelError, match="lo is not an Ethernet device"):
        links.find_uplink(wire, "lo")


def test_the_first_refusal_is_named_and_the_rest_still_runs(wire: Netlink, spaces: tuple[str, str]) -> None:
    """More requests than fit into one go, and the refused ones are not at its edges."""
    make_pair(wire, spaces[1])
    device = devices.find_device(wire, "near0")
    assert device is not None
    run("ip", "-n", spaces[0], "link", "set", "near0", "up")
    wanted = [Prefix(f"10.{number}.0.0/16") for number in range(200)]
    requests = [routes._add_route(prefix, Door(device.ifindex)) for prefix in wanted]
    requests[70] = routes._add_route(Prefix("10.70.0.0/16"), Door(4_000))
    requests[150] = routes._add_route(Prefix("10.150.0.0/16"), Door(4_000))
    with pytest.raises(KernelError, match=r"add route to 10\.70\.0\.0/16: No such device"):
        wire.send(requests)
    assert routes.routes(wire).keys() == set(wanted) - {wanted[70], wanted[150]}


def test_routes_of_others_are_neither_read_nor_removed(wire: Netlink, spaces: tuple[str, str]) -> None:
    make_pair(wire, spaces[1])
    device = devices.find_device(wire, "near0")
    assert device is not None
    assert routes.routes(wire) == {}  # the table is not even there
    run("ip", "-n", spaces[0], "link", "set", "near0", "up")
    for table in ("main", "2046", "2047"):
        run("ip", "-n", spaces[0], "route", "add", "10.99.0.0/16", "dev", "near0", "table", table)
        run("ip", "-n", spaces[0], "route", "add", "fd99::/64", "dev", "near0", "table", table)
    everywhere = {Prefix("0.0.0.0/0"), Prefix("::/0")}
    wanted = everywhere | {Prefix("10.7.0.0/24"), Prefix("fd07::/64")}
    routes.set_routes(wire, wanted, Door(device.ifindex))
    routes.set_routes(wire, wanted, Door(device.ifindex, 1400))
    assert routes.routes(wire) == dict.fromkeys(wanted, 1400), "one MTU takes the place of another"
    routes.set_routes(wire, everywhere, Door(device.ifindex))
    assert routes.routes(wire) == dict.fromkeys(everywhere, 0)
    routes.remove_all(wire)
    assert routes.routes(wire) == {}
    for family in ("-4", "-6"):
        left = [route for route in shown(spaces[0], family, "route", "show", "table", "all") if "99" in route["dst"]]
        assert sorted(str(route.get("table", "main")) for route in left) == ["2046", "2047", "main"]
        assert not [rule for rule in shown(spaces[0], family, "rule") if str(rule.get("table")) == "2047"]


def test_addresses_are_those_of_the_one_device(wire: Netlink, spaces: tuple[str, str]) -> None:
    make_pair(wire, spaces[1])
    device = devices.find_device(wire, "near0")
    assert device is not None
    run("ip", "-n", spaces[0], "link", "set", "lo", "up")
    link = Link(1, "", "near0", (Address("10.7.0.1"), Address("fd07::1")), 0)
    wire.send(links.pod_side(link, device.ifindex, set(), 1400))
    assert devices.addresses_of(wire, device.ifindex) == set(link.addresses)
    flags = {entry["local"]: entry for entry in shown(spaces[0], "addr", "show", "dev", "near0")[0]["addr_info"]}
    assert set(flags) == set(link.addresses)  # no link-local one either
    assert all(entry["noprefixroute"] for entry in flags.values())
    assert flags["fd07::1"]["nodad"]
    moved = Link(1, "", "near0", (Address("10.7.0.9"),), 0)
    wire.send(links.pod_side(moved, device.ifindex, devices.addresses_of(wire, device.ifindex), 1400))
    assert devices.addresses_of(wire, device.ifindex) == {Address("10.7.0.9")}
    run("ip", "-n", spaces[0], "addr", "add", "10.8.0.1", "peer", "10.8.0.2", "dev", "near0")
    assert devices.addresses_of(wire, device.ifindex) == {Address("10.7.0.9"), Address("10.8.0.1")}


def test_the_gateway_is_a_neighbour_for_ever_and_the_default_route(wire: Netlink, spaces: tuple[str, str]) -> None:
    make_pair(wire, spaces[1])
    device = devices.find_device(wire, "near0")
    assert device is not None
    link = Link(1, "", "near0", (Address("10.7.0.1"), Address("fd07::1")), 0)
    wire.send(links.pod_side(link, device.ifindex, set(), 1400))
    for family, gateway in (("-4", "169.254.1.1"), ("-6", "fe80::1")):
        neighbour = shown(spaces[0], family, "neigh", "show", "dev", "near0")[0]
        assert (neighbour["dst"], neighbour["state"]) == (gateway, ["PERMANENT"])
        route = shown(spaces[0], family, "route", "show", "default")[0]
        assert (route["gateway"], route["dev"], route["protocol"]) == (gateway, "near0", "static")
        assert "onlink" in route["flags"]


def test_filters_of_others_are_seen_and_not_taken_for_ours(wire: Netlink, spaces: tuple[str, str]) -> None:
    make_pair(wire, spaces[1])
    device = devices.find_device(wire, "near0")
    assert device is not None
    assert not links.has_filters(wire, device.ifindex)
    tc = ("ip", "netns", "exec", spaces[0], "tc")
    run(*tc, "qdisc", "add", "dev", "near0", "clsact")
    run(*tc, "filter", "add", "dev", "near0", "ingress", "pref", "2", "bpf", "bytecode", "1,6 0 0 0")
    assert links.has_filters(wire, device.ifindex)
    assert links.attached(wire, device.ifindex, links.INGRESS) is None
    wire.send([links.detach(device.ifindex, links.INGRESS), links.detach(device.ifindex, links.EGRESS)])
    assert links.has_filters(wire, device.ifindex)


def test_no_descriptor_is_left_and_a_closed_socket_says_so(spaces: tuple[str, str]) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        with closing(Netlink()) as wire:
            devices.find_device(wire, "lo")
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    with pytest.raises(KernelError, match="netlink takes no request"):
        devices.find_device(wire, "lo")


def test_an_answer_that_never_comes_is_not_waited_for_for_ever(wire: Netlink) -> None:
    wire._wire.socket.settimeout(0.05)
    with pytest.raises(KernelError, match="netlink does not answer"):
        next(iter(wire._read()))
