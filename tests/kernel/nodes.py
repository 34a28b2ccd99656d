"""Two nodes and a stranger on one segment that knows no pod's prefix: endpoint 1 lives on node 1, endpoint 2 on node 2."""

from __future__ import annotations

import os
import select
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from fairlead.address import Address, Prefix
from services.datapath.kernel import netlink
from services.datapath.kernel.linux import LinuxKernel
from services.datapath.operations import PolicyValue
from services.datapath.overlay import Overlay
from tests.kernel.rig import ALLOW_IN, ALLOW_OUT, IDENTITY, SMALL, Rig, answer_ipv6_errors, pod_address, run, why_not

REMOTE_NODE = 6
PORTS = {"vxlan": 8472, "geneve": 6081}
PLACES = ("n1", "n2", "w")
PREFIXES = {1: ("10.7.0.0/31", "fd07::/127"), 2: ("10.7.0.2/31", "fd07::2/127")}


def outside(place: int, family: int) -> Address:
    """Return an address on the segment: of node 1, of node 2, or of the stranger, 3."""
    return Address(f"192.0.2.{place}" if family == 4 else f"2001:db8::{place}")


@dataclass
class Fleet:
    """Both nodes, by number; their namespaces are `n1` and `n2`."""

    name: str
    nodes: dict[int, Rig]
    underlay: int

    def overlay(self, number: int, kind: str = "vxlan", port: int = 0) -> Overlay:
        """Return how that node is to reach the other."""
        return Overlay(kind, tuple(outside(number, family) for family in (self.underlay, 10 - self.underlay)), port)

    def far(self, number: int) -> Address:
        """Return the other node's address."""
        return outside(3 - number, self.underlay)

    def tunnels(self, number: int) -> dict[Prefix, Address]:
        """Return what that node should know of the other."""
        far = self.far(number)
        theirs = [Prefix(text) for text in PREFIXES[3 - number]] + [outside(3 - number, f).prefix for f in (4, 6)]
        return dict.fromkeys(theirs, far)

    @contextmanager
    def on(self, number: int) -> Iterator[Rig]:
        """Stay in that node's namespace."""
        with netlink.inside(self.nodes[number].netns(f"n{number}")):
            yield self.nodes[number]

    def reset(self) -> None:
        """Everything allowed, everybody known, no flows, no old reports."""
        for number in self.nodes:
            with self.on(number) as node:
                node.kernel.put_endpoint(node.entry(number))
                node.policy(number, {ALLOW_IN: PolicyValue(), ALLOW_OUT: PolicyValue()})
                known: dict[Prefix, int] = {}
                for family in (4, 6):
                    known |= {outside(number, family).prefix: 1, outside(3 - number, family).prefix: REMOTE_NODE}
                    known[Prefix(pod_address(3 - number, family))] = IDENTITY[3 - number]
                node.kernel.apply_addresses(known, node.kernel.addresses().keys() - known.keys())
                have, wanted = node.kernel.tunnels(), self.tunnels(number)
                node.kernel.apply_tunnels(wanted, have.keys() - wanted.keys())
                node.kernel._tables.maps["conntrack"].delete_all(node.flows())
                node.take_events()


def _wire(name: str) -> None:
    with netlink.inside(f"/run/netns/{name}lan"):
        run("ip", "link", "add", "segment", "type", "bridge", "forward_delay", "0")
        run("ip", "link", "set", "segment", "up")
    for number, which in enumerate(PLACES, 1):
        space = f"{name}{which}"
        with netlink.inside(f"/run/netns/{space}"):
            Path("/proc/sys/net/ipv6/conf/default/accept_dad").write_text("0")
            if which != "w":
                answer_ipv6_errors()
        run("ip", "-n", space, "link", "add", "up0", "type", "veth", "peer", "name", f"p{which}", "netns", f"{name}lan")
        run("ip", "-n", f"{name}lan", "link", "set", f"p{which}", "master", "segment", "up")
        run("ip", "-n", space, "addr", "add", f"{outside(number, 4)}/24", "dev", "up0")
        run("ip", "-n", space, "addr", "add", f"{outside(number, 6)}/64", "dev", "up0", "nodad")
        run("ip", "-n", space, "link", "set", "up0", "up")
        run("ip", "-n", space, "link", "set", "lo", "up")


@contextmanager
def new_fleet(kind: str = "vxlan", underlay: int = 4) -> Iterator[Fleet]:
    """Build both nodes, and leave nothing."""
    reason = why_not()
    if reason:
        pytest.skip(f"KERNEL TESTS DO NOT RUN: {reason}")
    name = f"fo{os.getpid()}{os.urandom(2).hex()}"
    fleet = Fleet(name, {}, underlay)
    with ExitStack() as stack:
        for which in ("lan", "n1", "n2", "w", "1", "2"):
            run("ip", "netns", "add", name + which)
            stack.callback(run, "ip", "netns", "del", name + which)
        _wire(name)
        for number in (1, 2):
            pins = Path("/sys/fs/bpf") / f"{name}{number}"
            kernel = LinuxKernel(pins, ("up0",), SMALL, fleet.overlay(number, kind))
            fleet.nodes[number] = Rig(name, kernel, pins)
            stack.enter_context(_destroyed(fleet, number))
            with fleet.on(number) as node:
                kernel.start()
                node.plugged[number] = kernel.plug(node.link(number))
                kernel.set_prefixes([Prefix(text) for text in PREFIXES[number]])
        fleet.reset()
        yield fleet


@contextmanager
def _destroyed(fleet: Fleet, number: int) -> Iterator[None]:
    try:
        yield
    finally:
        with fleet.on(number) as node:
            node.kernel.destroy()


def kind_of(fleet: Fleet) -> str:
    return fleet.nodes[1].kernel._overlay.kind  # type: ignore[union-attr] # every fleet has one


@contextmanager
def listening_to_wire(fleet: Fleet) -> Iterator[socket.socket]:
    """Yield a socket that sees every frame of node 2's uplink."""
    with fleet.on(2):
        raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        raw.bind(("up0", 0))
    raw.settimeout(3)
    with raw:
        yield raw


def frames(raw: socket.socket) -> list[bytes]:
    found = []
    while select.select([raw], [], [], 0)[0]:
        found.append(raw.recv(1 << 16))
    return found


def opened(packet: bytes, port: int) -> tuple[int, bytes] | None:
    """Return the virtual network's number and the inner frame, if the frame is a tunnel's."""
    at = 14 + (20 if packet[12:14] == b"\x08\x00" else 40)
    if len(packet) < at + 16 or struct.unpack_from(">H", packet, at + 2)[0] != port:
        return None
    return int.from_bytes(packet[at + 12 : at + 15], "big"), packet[at + 16 :]


def tunnelled(kind: str, number: int, inner: bytes) -> bytes:
    """Return what stands behind the UDP header."""
    head = struct.pack(">II", 0x08000000, number << 8) if kind == "vxlan" else struct.pack(">II", 0x6558, number << 8)
    return head + inner
