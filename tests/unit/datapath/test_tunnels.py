"""Which tunnels a node wants, from what other nodes say of themselves; and that they come, change and go in the kernel."""

from __future__ import annotations

from pathlib import Path

import pytest

from fairlead.address import Address, Prefix
from fairlead.bus_memory import Hub
from fairlead.errors import InvalidInput
from fairlead.schema.base import Empty, NodeName
from fairlead.schema.identity import NODES, NodeRow
from services.datapath.overlay import Overlay, trouble, tunnels_of
from services.datapath.settings import DatapathSettings, overlay_of
from services.datapath.tunnels import Tunnels
from tests.unit.datapath.world import HOST_ADDRESS, Control, TestNode, until

BOTH = (Address("192.0.2.1"), Address("2001:db8::1"))
OURS = Overlay("vxlan", BOTH)


def row(name: str, addresses: str, prefixes: str = "", revision: int = 1) -> NodeRow:
    return NodeRow(
        node=NodeName(name),
        addresses=tuple(map(Address, addresses.split())),
        prefixes=tuple(map(Prefix, prefixes.split())),
        revision=revision,
    )


def test_pods_and_the_node_itself_are_behind_its_tunnel() -> None:
    found = tunnels_of([row("n2", "2001:db8::2 192.0.2.2", "10.8.0.0/24 fd08::/64")], OURS)
    far = Address("192.0.2.2")
    wanted = ("10.8.0.0/24", "fd08::/64", "192.0.2.2/32", "2001:db8::2/128")
    assert found == dict.fromkeys(map(Prefix, wanted), far)


def test_the_first_address_of_this_node_says_which_family_is_preferred() -> None:
    far = row("n2", "192.0.2.2 192.0.2.22 2001:db8::2", "10.8.0.0/24")
    assert set(tunnels_of([far], Overlay("vxlan", BOTH[::-1])).values()) == {Address("2001:db8::2")}
    assert set(tunnels_of([row("n2", "2001:db8::2", "10.8.0.0/24")], OURS).values()) == {Address("2001:db8::2")}
    assert tunnels_of([far], Overlay("vxlan", BOTH[1:]))[Prefix("10.8.0.0/24")] == Address("2001:db8::2")
    assert tunnels_of([row("n2", "192.0.2.2", "10.8.0.0/24")], Overlay("vxlan", BOTH[1:])) == {}


def test_who_said_it_last_has_the_prefix() -> None:
    old, new = row("n2", "192.0.2.2", "10.8.0.0/24", 5), row("n3", "192.0.2.3", "10.8.0.0/24", 6)
    for order in ([old, new], [new, old]):
        assert tunnels_of(order, OURS)[Prefix("10.8.0.0/24")] == Address("192.0.2.3")


def test_what_carries_the_tunnels_is_led_into_none() -> None:
    for inside in ("192.0.2.0/24", "2001:db8::/64"):
        far = row("n2", "192.0.2.2", inside)
        assert Prefix(inside) not in tunnels_of([far], OURS)
        assert "holds addresses of nodes" in trouble(far, OURS)
    assert HOST_ADDRESS.prefix not in tunnels_of([row("n2", "192.0.2.2 192.0.2.1")], OURS)


def test_troubles_have_words() -> None:
    assert trouble(row("n2", "192.0.2.2", "10.8.0.0/24"), OURS) == ""
    assert "no address of one family" in trouble(row("n2", "192.0.2.2"), Overlay("vxlan", BOTH[1:]))
    assert "not what the MTU was made for" in trouble(row("n2", "2001:db8::2"), OURS)


def test_overhead_is_that_of_the_preferred_family() -> None:
    assert [Overlay("vxlan", order).overhead_bytes for order in (BOTH, BOTH[::-1])] == [50, 70]
    assert [Overlay(kind, BOTH).udp_port for kind in ("vxlan", "geneve")] == [8472, 6081]
    assert Overlay("geneve", BOTH, 4000).udp_port == 4000


def test_an_option_that_cannot_be_met_is_refused() -> None:
    assert overlay_of(DatapathSettings(node="n1"), BOTH) is None
    assert overlay_of(DatapathSettings(node="n1", routing="geneve", overlay_port=7), BOTH) == Overlay("geneve", BOTH, 7)
    with pytest.raises(InvalidInput, match="node_addresses"):
        overlay_of(DatapathSettings(node="n1", routing="vxlan"), ())


def test_too_many_removals_at_once_are_held_until_they_are_let_go() -> None:
    tunnels = Tunnels(OURS)
    for number in range(2, 32):
        tunnels.hear(f"n{number}", row(f"n{number}", f"192.0.2.{number}"))
    tunnels.hear("n2", None)
    assert len(tunnels.table.desired()) == 29
    tunnels.hear("n3", row("n3", "2001:db8::3"))
    many = Tunnels(OURS)
    prefixes = " ".join(f"10.{number}.0.0/24" for number in range(30))
    many.hear("n2", row("n2", "192.0.2.2", prefixes))
    many.hear("n2", None)
    assert (len(many.table.desired()), len(many.held)) == (31, 31)
    many.release()
    assert (many.table.desired(), many.held) == ({}, set())


async def test_tunnels_stand_in_the_kernel_and_are_repaired(tmp_path: Path) -> None:
    hub = Hub()
    control = Control(hub)
    await control.start()
    nodes = control.bus.bucket(NODES)
    await nodes.put("n2", row("n2", "192.0.2.2", "10.8.0.0/24"))
    node = TestNode(tmp_path, hub, overlay=Overlay("vxlan", (HOST_ADDRESS,)), reconcile_s=0.1)
    node.world.tunnels[Prefix("10.99.0.0/24")] = Address("192.0.2.99")
    await node.start()
    far = Address("192.0.2.2")
    wanted = {Prefix("10.8.0.0/24"): far, far.prefix: far}
    await until(lambda: node.world.tunnels == wanted)
    node.world.tunnels.clear()
    await until(lambda: node.world.tunnels == wanted)
    await nodes.put("n2", row("n2", "192.0.2.3", "10.8.0.0/24", 2))
    await until(lambda: node.world.tunnels.get(Prefix("10.8.0.0/24")) == Address("192.0.2.3"))
    await nodes.delete("n2")
    await until(lambda: node.world.tunnels == {})
    await node.stop()
    assert node.conditions["overlay"] == (True, "")


async def test_a_node_that_routes_natively_removes_what_tunnels_left(tmp_path: Path) -> None:
    hub = Hub()
    control = Control(hub)
    await control.start()
    await control.bus.bucket(NODES).put("n2", row("n2", "192.0.2.2", "10.8.0.0/24"))
    node = TestNode(tmp_path, hub, reconcile_s=0.1)
    node.world.tunnels[Prefix("10.8.0.0/24")] = Address("192.0.2.2")
    await node.start()
    await until(lambda: node.world.tunnels == {})
    await node.stop()
    assert node.datapath.node.tunnels.table.desired() == {}


async def test_a_node_that_starts_again_states_its_prefixes_from_the_first(tmp_path: Path) -> None:
    """What it said without them would take its tunnels from every other node."""
    hub = Hub()
    control = Control(hub)
    await control.start()
    await control.claim("10.0.0.0/24")
    node = TestNode(tmp_path, hub)
    await node.start()
    await until(lambda: control.nodes and control.nodes[-1].prefixes)
    said = len(control.nodes)
    await node.restart()
    await until(lambda: len(control.nodes) > said)
    await node.stop()
    assert {one.prefixes for one in control.nodes[said:]} == {(Prefix("10.0.0.0/24"),)}


async def test_every_difference_of_tunnels_is_found_by_name(tmp_path: Path) -> None:
    hub = Hub()
    control = Control(hub)
    await control.start()
    await control.claim("10.0.0.0/24")
    await control.bus.bucket(NODES).put("n2", row("n2", "192.0.2.2", "10.8.0.0/24 fd08::/64"))
    node = TestNode(tmp_path, hub, overlay=Overlay("vxlan", (HOST_ADDRESS,)))
    await node.start()
    await until(lambda: len(node.world.tunnels) == 3)
    await until(lambda: node.datapath.node.tunnels.table.initialised)
    assert (await node.datapath.questions.verify(Empty())).differences == ()
    del node.world.tunnels[Prefix("10.8.0.0/24")]
    node.world.tunnels |= {Prefix("fd08::/64"): Address("192.0.2.9"), Prefix("10.9.0.0/24"): Address("192.0.2.9")}
    found = await node.datapath.questions.verify(Empty())
    await node.stop()
    assert {(one.subject, one.problem, one.detail) for one in found.differences} == {
        ("tunnel 10.8.0.0/24", "tunnel missing", ""),
        ("tunnel fd08::/64", "tunnel changed", "should be 192.0.2.2, is 192.0.2.9"),
        ("tunnel 10.9.0.0/24", "tunnel foreign", ""),
    }
