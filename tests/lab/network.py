"""Makes the lab's namespaces, cables, addresses and routes, and removes them. Standard library and iproute2 only."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from pathlib import Path

from tests.lab.topology import Namespace, Route, Topology

NETNS = Path("/run/netns")
_QUIET = (
    "net.ipv4.conf.all.rp_filter=0",  # replies may come back over the other uplink
    "net.ipv4.conf.default.rp_filter=0",
    "net.ipv6.conf.default.accept_dad=0",  # addresses are usable at once
    "net.ipv6.conf.default.accept_ra=0",
    "net.ipv4.fib_multipath_hash_policy=1",  # by flow, as routers do
    "net.ipv6.fib_multipath_hash_policy=1",
)
_FORWARDING = ("net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1", "net.ipv6.conf.default.forwarding=1")


class LabError(Exception):
    """The lab cannot do what was asked; the message says why."""


def run(command: list[str], text: str = "") -> str:
    """Run a command to its end, and return what it printed. Raises LabError with its complaint."""
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise LabError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def inside(path: str, *command: str) -> list[str]:
    """Return the command that runs `command` in the namespace. Not `ip netns exec`: that hides bpffs and the cgroups."""
    return ["nsenter", f"--net={path}", "--", *command]


def standing(prefix: str) -> list[str]:
    """Return the namespaces of a lab with this prefix that exist now."""
    return sorted(path.name for path in NETNS.glob(f"{prefix}-*")) if NETNS.is_dir() else []


def build(topology: Topology) -> None:
    """Make everything. Raises LabError; what was made until then stays for `remove`."""
    names = [topology.full(space.name) for space in topology.namespaces]
    run(["ip", "-batch", "-"], "".join(f"netns add {name}\n" for name in names))
    for space in topology.namespaces:
        _prepare(topology, space)
    run(["ip", "-batch", "-"], "".join(_cables(topology)))
    for space in topology.namespaces:
        _ip(topology, space, _interfaces(space))
    for space in topology.namespaces:
        _ip(topology, space, (_route(route) for route in space.routes))


def add_namespace(topology: Topology, name: str) -> str:
    """Make an empty namespace for a workload, and return its path."""
    run(["ip", "netns", "add", topology.full(name)])
    run(inside(topology.path(name), "ip", "link", "set", "lo", "up"))
    return topology.path(name)


def remove_namespace(topology: Topology, name: str) -> None:
    """Remove one namespace; one that does not exist counts as removed."""
    if (NETNS / topology.full(name)).exists():
        run(["ip", "netns", "delete", topology.full(name)])


def main_routes(topology: Topology, name: str) -> list[str]:
    """Return the main routing tables of both families, a line per route and per next hop."""
    both = (run(inside(topology.path(name), "ip", family, "route", "show", "table", "main")) for family in ("-4", "-6"))
    return sorted(line for text in both for line in text.splitlines() if line.strip())


def remove(prefix: str) -> list[str]:
    """Remove every namespace of the lab, with all that is in it, and return their names."""
    names = standing(prefix)
    run(["ip", "-batch", "-"], "".join(f"netns delete {name}\n" for name in names))
    return names


def _prepare(topology: Topology, space: Namespace) -> None:
    # Before there are interfaces: they start with the defaults of their namespace.
    settings = (*_QUIET, *(_FORWARDING if space.forwards else ()))
    run(inside(topology.path(space.name), "sysctl", "-q", "-w", *settings))


def _cables(topology: Topology) -> Iterable[str]:
    for cable in topology.cables:
        (a, a_port), (b, b_port) = cable.a, cable.b
        yield (f"link add {a_port} netns {topology.full(a)} type veth peer name {b_port} netns {topology.full(b)}\n")


def _interfaces(space: Namespace) -> Iterable[str]:
    yield "link set lo up\n"
    for bridge in space.bridges:
        yield f"link add {bridge} type bridge forward_delay 0\n"
        yield f"link set {bridge} up\n"
    for port in space.ports:
        yield from (f"address add {address} dev {port.name}\n" for address in port.addresses)
        yield f"link set {port.name} {f'master {port.bridge} ' if port.bridge else ''}up\n"


def _route(route: Route) -> str:
    return f"route add {route.destination} {' '.join(f'nexthop via {gateway}' for gateway in route.gateways)}\n"


def _ip(topology: Topology, space: Namespace, lines: Iterable[str]) -> None:
    run(inside(topology.path(space.name), "ip", "-batch", "-"), "".join(lines))
