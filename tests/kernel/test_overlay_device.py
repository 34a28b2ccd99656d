"""The tunnels' device: made, adopted, replaced when the option changes, repaired, removed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from fairlead.address import Address, Prefix
from services.datapath.kernel import devices, overlay
from services.datapath.kernel.linux import LinuxKernel
from services.datapath.kernel.netlink import Netlink
from services.datapath.kernel.survey import Surveyor
from services.datapath.operations import KernelError
from services.datapath.overlay import Overlay
from tests.kernel.rig import NODE, SMALL, Rig, new_rig, run

pytestmark = pytest.mark.kernel

DEVICE = "fairlead_vxlan"
FAR = Address("192.0.2.9")
WANTED = {Prefix("10.9.0.0/24"): FAR, Prefix("fd09::/64"): FAR, FAR.prefix: FAR}


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with new_rig() as made:
        yield made


def ways(*, port: int = 0) -> Overlay:
    return Overlay("vxlan", tuple(map(Address, NODE.values())), port)


class Process(LinuxKernel):
    """A process's hold on the kernel, closed at the end of a block."""

    def close(self) -> None:
        self.stop()


def started(rig: Rig, tunnels: Overlay | None) -> Process:
    """Return the kernel of a process that has just begun with these options."""
    kernel = Process(rig.pins, ("up0",), SMALL, tunnels)
    kernel.start()
    return kernel


def ifindex() -> int:
    with closing(Netlink()) as wire:
        device = devices.find_device(wire, DEVICE)
        return device.ifindex if device else 0


def problems(rig: Rig, tunnels: Overlay | None) -> set[str]:
    prefixes = [Prefix("10.7.0.0/24"), Prefix("fd07::/64")]
    return {one.problem for one in Surveyor(rig.pins, ("up0",), tunnels).node(prefixes)}


def test_it_is_there_while_it_is_asked_for(rig: Rig) -> None:
    with closing(started(rig, ways())) as kernel:
        first = ifindex()
        assert first
        assert kernel._mtu_bytes == 1450
        assert "dstport 8472" in run("ip", "-d", "link", "show", DEVICE)
        assert problems(rig, ways()) == set()
    with closing(started(rig, ways())):
        assert ifindex() == first, "adopted, not made anew"
    with closing(started(rig, ways(port=4789))):
        assert ifindex() not in {0, first}
        assert "dstport 4789" in run("ip", "-d", "link", "show", DEVICE)
    with closing(started(rig, None)) as kernel:
        assert ifindex() == 0
        assert kernel._mtu_bytes == 1500
        assert problems(rig, None) == set()


def test_every_damage_is_found_and_mended(rig: Rig) -> None:
    with closing(started(rig, ways())) as kernel:
        damages = {
            "device missing": ("ip", "link", "del", DEVICE),
            "tunnel filter missing": ("tc", "filter", "del", "dev", DEVICE, "ingress"),
            "device down": ("ip", "link", "set", DEVICE, "down"),
        }
        for problem, command in damages.items():
            run(*command)
            assert problem in problems(rig, ways())
            kernel.start()
            assert problems(rig, ways()) == set()
        run("ip", "link", "del", DEVICE)
        run("ip", "link", "add", DEVICE, "type", "vxlan", "external", "dstport", "4789")
        assert problems(rig, ways()) >= {
            "device has another port or mode",
            "tunnel filter missing",
            "programs look for tunnels at another device",
        }
        kernel.start()
        assert problems(rig, ways()) == set()
        assert "device foreign" in problems(rig, None)


def test_tunnels_are_rows_and_routes(rig: Rig) -> None:
    with closing(started(rig, ways())) as kernel:
        kernel.apply_tunnels(WANTED, ())
        assert kernel.tunnels() == WANTED
        shown = run("ip", "route", "show", "table", "2047")
        assert "10.9.0.0/24 dev fairlead_host proto 89 scope link src 192.0.2.1" in shown
        assert "192.0.2.9" not in shown, "what carries the tunnels must not be led into them"
        run("ip", "route", "del", "10.9.0.0/24", "table", "2047")
        assert Prefix("10.9.0.0/24") not in kernel.tunnels(), "without its route it does not stand"
        run("ip", "route", "add", "10.10.0.0/24", "dev", "fairlead_host", "table", "2047", "proto", "89")
        assert Prefix("10.10.0.0/24") in kernel.tunnels(), "a route that nobody asked for is shown"
        have = kernel.tunnels()
        kernel.apply_tunnels({k: v for k, v in WANTED.items() if have.get(k) != v}, have.keys() - WANTED.keys())
        assert kernel.tunnels() == WANTED
        assert problems(rig, ways()) == set(), "routes of pods here are another matter"
        kernel.apply_tunnels({}, WANTED)
        assert kernel.tunnels() == {}


def test_a_port_that_is_taken_is_told(rig: Rig) -> None:
    with closing(started(rig, None)):
        run("ip", "link", "add", "other", "type", "vxlan", "external", "dstport", "8472")
        run("ip", "link", "set", "other", "up")
        try:
            with pytest.raises(KernelError, match=r"UDP port 8472\? Set the option `overlay_port`"):
                started(rig, ways())
        finally:
            run("ip", "link", "del", "other")
            started(rig, None).close()


def test_a_kind_that_the_kernel_does_not_know_is_told() -> None:
    with closing(Netlink()) as wire:
        assert overlay.can_make(wire, "vxlan")
        assert not overlay.can_make(wire, "nosuchkind")
        assert devices.find_device(wire, "fairlead_probe") is None


def test_destroy_leaves_nothing() -> None:
    with new_rig() as rig:
        with closing(started(rig, ways())) as kernel:
            kernel.apply_tunnels(WANTED, ())
            kernel.destroy()
        assert ifindex() == 0
        assert "proto 89" not in run("ip", "route", "show", "table", "all")
        assert not Path(rig.pins).exists()
