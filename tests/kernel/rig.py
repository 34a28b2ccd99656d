"""A node for tests: its namespace, two pods, a network behind an uplink, and a LinuxKernel that is really there."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from fairlead.address import Address, Prefix
from services.datapath.kernel import maps, netlink
from services.datapath.kernel.linux import LinuxKernel
from services.datapath.kernel.testrun import TestRun
from services.datapath.kernel.tuning import Tuning
from services.datapath.operations import EndpointEntry, KernelError, Link, Plugged, PolicyKey, PolicyValue
from services.datapath.overlay import Overlay
from services.datapath.reports import Event

SMALL = Tuning(flows=4096, addresses=4096)
ALLOW_IN, ALLOW_OUT = PolicyKey(0, 0, 0, 0), PolicyKey(0, 0, 0, 1)
IDENTITY = {1: 1001, 2: 1002}


def why_not() -> str:
    """Return why kernel tests cannot run here, or nothing."""
    if os.geteuid() != 0:
        return "not root"
    try:
        import bcc  # noqa: F401, PLC0415 - only asks whether it is there
    except ImportError:
        return "python3-bpfcc is not installed, or the virtual environment does not see it"
    try:
        probe = Path("/sys/fs/bpf") / f"fkprobe{os.getpid()}"
        maps.ensure_pin_directory(probe)
        probe.rmdir()
    except (KernelError, OSError) as error:
        return f"no bpffs: {error}"
    return ""


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


def pod_address(endpoint: int, family: int) -> str:
    return f"10.7.0.{endpoint}" if family == 4 else f"fd07::{endpoint}"


FAR = {4: "192.0.2.2", 6: "2001:db8::2"}
NODE = {4: "192.0.2.1", 6: "2001:db8::1"}


@dataclass
class Rig:
    name: str
    kernel: LinuxKernel
    pins: Path
    plugged: dict[int, Plugged] = field(default_factory=dict)

    def netns(self, which: str) -> str:
        return f"/run/netns/{self.name}{which}"

    def link(self, endpoint: int, netns: str = "") -> Link:
        addresses = tuple(Address(pod_address(endpoint, family)) for family in (4, 6))
        return Link(endpoint, netns or self.netns(str(endpoint)), "eth0", addresses, 0)

    def entry(self, endpoint: int, **more: object) -> EndpointEntry:
        plugged, link = self.plugged[endpoint], self.link(endpoint)
        fields: dict[str, object] = {
            "identity": IDENTITY[endpoint],
            "held": False,
            "ingress_default_deny": 40,
            "egress_default_deny": 41,
        }
        fields |= more
        return EndpointEntry(
            endpoint=endpoint,
            ifindex=plugged.ifindex,
            host_mac=plugged.host_mac,
            pod_mac=plugged.pod_mac,
            addresses=link.addresses,
            **fields,  # type: ignore[arg-type]
        )

    def policy(self, endpoint: int, rows: dict[PolicyKey, PolicyValue]) -> None:
        """Make the endpoint's policy be just these rows."""
        gone = self.kernel.policy(endpoint).keys() - rows.keys()
        self.kernel.apply_policy(endpoint, rows, gone)

    def allow_all(self) -> None:
        for endpoint in (1, 2):
            self.policy(endpoint, {ALLOW_IN: PolicyValue(), ALLOW_OUT: PolicyValue()})

    def reset(self) -> None:
        """Both endpoints released, everything allowed, no flows, no old reports."""
        for endpoint in (1, 2):
            self.kernel.put_endpoint(self.entry(endpoint))
        self.allow_all()
        have = self.kernel.addresses()
        wanted = {Prefix(address): 1 for address in NODE.values()}
        self.kernel.apply_addresses(wanted, have.keys() - wanted.keys())
        for name in ("conntrack", "fragments", "event_budget"):
            table = self.kernel._tables.maps[name]
            if table.spec.kind == "lru_hash":
                table.delete_all(table.items())
        self.take_events()

    def take_events(self) -> list[Event]:
        found: list[Event] = []
        while more := self.kernel.events(0):
            found += more
        return found

    def flows(self) -> dict[bytes, bytes]:
        return self.kernel._tables.maps["conntrack"].items()

    def program(self, name: str) -> TestRun:
        return TestRun(self.pins, name)

    def socket_in(self, which: str, kind: int = socket.SOCK_STREAM, family: int = 4) -> socket.socket:
        with netlink.inside(self.netns(which)):
            made = socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6, kind)
        made.settimeout(3)
        return made

    def listen(self, which: str, port: int, family: int = 4) -> socket.socket:
        made = self.socket_in(which, family=family)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(("", port))
        made.listen(64)
        return made

    def connects(self, which: str, address: str, port: int, wait_s: float = 0.3) -> bool:
        with self.socket_in(which, family=Address(address).family) as client:
            client.settimeout(wait_s)
            try:
                client.connect((address, port))
            except TimeoutError:
                return False
            return True

    def ping(self, which: str, address: str) -> bool:
        command = ("nsenter", f"--net={self.netns(which)}", "ping", "-c1", "-W1", "-q", address)
        return subprocess.run(command, capture_output=True, check=False, timeout=10).returncode == 0


def answer_ipv6_errors() -> None:
    """Have the stack of this namespace tell of IPv6 packets that cannot go on: before 6.17 it does so only where all is forwarded."""
    settings = Path("/proc/sys/net/ipv6/conf")
    if not (settings / "default/force_forwarding").exists():
        (settings / "all/forwarding").write_text("1")


def _wire_network(name: str) -> None:
    node, far = f"{name}n", f"{name}w"
    for which in (node, far):
        with netlink.inside(f"/run/netns/{which}"):
            # without a link-local address that is past its duplicate check the stack asks for no IPv6 neighbour
            Path("/proc/sys/net/ipv6/conf/default/accept_dad").write_text("0")
            if which == node:
                answer_ipv6_errors()
    run("ip", "-n", node, "link", "add", "up0", "type", "veth", "peer", "name", "eth0", "netns", far)
    for which, device, number in ((node, "up0", 1), (far, "eth0", 2)):
        run("ip", "-n", which, "addr", "add", f"192.0.2.{number}/24", "dev", device)
        run("ip", "-n", which, "addr", "add", f"2001:db8::{number}/64", "dev", device, "nodad")
        run("ip", "-n", which, "link", "set", device, "up")
        run("ip", "-n", which, "link", "set", "lo", "up")
    run("ip", "-n", far, "route", "add", "10.7.0.0/24", "via", "192.0.2.1")
    run("ip", "-n", far, "route", "add", "fd07::/64", "via", "2001:db8::1")
    run("ip", "-n", node, "route", "add", "default", "via", "192.0.2.2")
    run("ip", "-n", node, "route", "add", "default", "via", "2001:db8::2")


@contextmanager
def new_rig(tuning: Tuning = SMALL, tunnels: Overlay | None = None) -> Iterator[Rig]:
    """Build the node, stay in its namespace meanwhile, and leave nothing."""
    reason = why_not()
    if reason:
        pytest.skip(f"KERNEL TESTS DO NOT RUN: {reason}")
    name = f"fk{os.getpid()}{os.urandom(2).hex()}"
    with ExitStack() as stack:
        for which in ("n", "w", "1", "2"):
            run("ip", "netns", "add", name + which)
            stack.callback(run, "ip", "netns", "del", name + which)
        _wire_network(name)
        stack.enter_context(netlink.inside(f"/run/netns/{name}n"))
        pins = Path("/sys/fs/bpf") / name
        kernel = LinuxKernel(pins, ("up0",), tuning, tunnels)
        stack.callback(kernel.destroy)
        kernel.start()
        rig = Rig(name, kernel, pins)
        for endpoint in (1, 2):
            rig.plugged[endpoint] = kernel.plug(rig.link(endpoint))
        kernel.set_prefixes([Prefix("10.7.0.0/24"), Prefix("fd07::/64")])
        rig.reset()
        yield rig
