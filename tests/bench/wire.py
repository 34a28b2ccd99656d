"""The paths that are compared, each between two namespaces of its own, and the measurements that run over them."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from fairlead.address import Prefix
from services.datapath.kernel import devices, links, netlink
from services.datapath.kernel.netlink import Netlink
from services.datapath.kernel.tuning import Tuning
from tests.bench.contents import PEER_IDENTITY, policy
from tests.bench.programs import Programs
from tests.kernel.rig import FAR, new_rig, pod_address, run

SOURCE = Path(__file__).parent / "path.c"
UDP_COUNT, RR_COUNT, CONNECTIONS, BULK_COUNT = 10_000, 5000, 500, 2000
BULK_BYTES = 65_536
MACS = {1: "02:00:00:00:00:01", 2: "02:00:00:00:00:02"}


@dataclass(frozen=True)
class Way:
    """A way from a client's namespace to a server's address in another."""

    name: str
    client: str
    server: str
    address: str


@contextmanager
def library() -> Iterator[ctypes.CDLL]:
    """Compile the sender and receiver, and load them."""
    if shutil.which("cc") is None:
        sys.exit("bench-datapath: the whole-path part needs a C compiler (Debian: apt-get install gcc libc6-dev)")
    with tempfile.TemporaryDirectory() as folder:
        shared = Path(folder) / "path.so"
        subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", str(shared), str(SOURCE)], check=True)
        loaded = ctypes.CDLL(str(shared))
        for name in ("one_way", "request_response", "connections", "bulk"):
            getattr(loaded, name).restype = ctypes.c_long
        yield loaded


def in_thread(work: Callable[[], float]) -> float:
    """Run the work in a thread of its own, which may change its namespace; return what it returns, raise what it raises."""
    found: list[float] = []
    raised: list[BaseException] = []

    def body() -> None:
        try:
            found.append(work())
        except BaseException as error:  # noqa: BLE001 - raised again below
            raised.append(error)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    if raised:
        raise raised[0]
    return found[0]


def checked(nanoseconds: int) -> int:
    """Return what a function of the library returned, if it is a time."""
    if nanoseconds < 0:
        raise OSError(-nanoseconds, os.strerror(-nanoseconds))
    return nanoseconds


def _socket(netns: str, kind: int) -> socket.socket:
    with netlink.inside(netns):
        return socket.socket(socket.AF_INET, kind)


@contextmanager
def _tcp(path: Way) -> Iterator[tuple[socket.socket, socket.socket]]:
    with _socket(path.server, socket.SOCK_STREAM) as listener, _socket(path.client, socket.SOCK_STREAM) as client:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((path.address, 7100))
        listener.listen(8)
        client.settimeout(3)
        client.connect((path.address, 7100))
        server, _ = listener.accept()
        client.setblocking(True)
        for end in (client, server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with server:
            yield client, server


def udp_ns(native: ctypes.CDLL, path: Way) -> float:
    """Return nanoseconds per packet of 64 bytes, one way."""
    with _socket(path.server, socket.SOCK_DGRAM) as server, _socket(path.client, socket.SOCK_DGRAM) as client:
        server.bind((path.address, 7200))
        client.connect((path.address, 7200))
        checked(native.one_way(client.fileno(), server.fileno(), UDP_COUNT // 10))
        return checked(native.one_way(client.fileno(), server.fileno(), UDP_COUNT)) / UDP_COUNT


def rr_ns(native: ctypes.CDLL, path: Way) -> float:
    """Return nanoseconds per TCP request and response of one byte each."""
    with _tcp(path) as (client, server):
        checked(native.request_response(client.fileno(), server.fileno(), RR_COUNT // 10))
        return checked(native.request_response(client.fileno(), server.fileno(), RR_COUNT)) / RR_COUNT


def connection_us(native: ctypes.CDLL, path: Way) -> float:
    """Return microseconds per connection with one byte each way."""
    address = struct_sockaddr(path.address, 7300)
    with _socket(path.server, socket.SOCK_STREAM) as listener, netlink.namespace(path.client) as netns:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((path.address, 7300))
        listener.listen(64)

        def work(count: int) -> float:
            return checked(native.connections(netns, address, len(address), listener.fileno(), ctypes.c_long(count)))

        in_thread(lambda: work(CONNECTIONS // 10))
        return in_thread(lambda: work(CONNECTIONS)) / CONNECTIONS / 1000


def struct_sockaddr(address: str, port: int) -> bytes:
    """Return a `struct sockaddr_in`."""
    family = int(socket.AF_INET).to_bytes(2, sys.byteorder)
    return family + port.to_bytes(2, "big") + socket.inet_aton(address) + bytes(8)


def bulk_gbit(native: ctypes.CDLL, path: Way) -> float:
    """Return Gbit/s of a TCP stream, sender and receiver on one processor."""
    with _tcp(path) as (client, server):
        checked(native.bulk(client.fileno(), server.fileno(), BULK_COUNT // 10))
        return BULK_COUNT * BULK_BYTES * 8 / checked(native.bulk(client.fileno(), server.fileno(), BULK_COUNT))


MEASUREMENTS: dict[str, Callable[[ctypes.CDLL, Way], float]] = {
    "udp": udp_ns,
    "rr": rr_ns,
    "connection": connection_us,
    "bulk": bulk_gbit,
}


class Ground:
    """Namespaces for the baselines; all are gone at the end."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._name = f"fk{os.getpid()}{os.urandom(2).hex()}"

    def namespace(self, which: str) -> str:
        """Make a namespace; return its name."""
        name = self._name + which
        run("ip", "netns", "add", name)
        self._stack.callback(run, "ip", "netns", "del", name)
        run("ip", "-n", name, "link", "set", "lo", "up")
        return name

    def pair(self, a: tuple[str, str, str], b: tuple[str, str, str]) -> None:
        """Make a veth pair; each end is namespace, device, MAC."""
        run(
            *("ip", "-n", a[0], "link", "add", a[1], "address", a[2], "type", "veth"),
            *("peer", "name", b[1], "address", b[2], "netns", b[0]),
        )
        for netns, device, _ in (a, b):
            run("ip", "-n", netns, "link", "set", device, "up")


def path_of(name: str, client: str, server: str, address: str) -> Way:
    """Return a path between two named namespaces."""
    return Way(name, f"/run/netns/{client}", f"/run/netns/{server}", address)


def direct(ground: Ground) -> Way:
    """Return two namespaces with a veth pair between them and no host: nothing can be faster."""
    a, b = ground.namespace("d1"), ground.namespace("d2")
    ground.pair((a, "eth0", MACS[1]), (b, "eth0", MACS[2]))
    run("ip", "-n", a, "addr", "add", "10.9.0.1/24", "dev", "eth0")
    run("ip", "-n", b, "addr", "add", "10.9.0.2/24", "dev", "eth0")
    return path_of("direct veth", a, b, "10.9.0.2")


def _pods(ground: Ground, prefix: str) -> tuple[str, str, str]:
    """Make a host namespace and two pods that route by it; return their names. Their addresses: 10.9.0.1 and .2."""
    host, pods = ground.namespace(f"{prefix}h"), (ground.namespace(f"{prefix}1"), ground.namespace(f"{prefix}2"))
    for number, pod in enumerate(pods, 1):
        gateway = f"02:00:00:00:01:0{number}"
        ground.pair((host, f"v{number}", gateway), (pod, "eth0", MACS[number]))
        run("ip", "-n", pod, "addr", "add", f"10.9.0.{number}/32", "dev", "eth0")
        run("ip", "-n", pod, "neigh", "add", "169.254.1.1", "lladdr", gateway, "dev", "eth0", "nud", "permanent")
        run("ip", "-n", pod, "route", "add", "default", "via", "169.254.1.1", "dev", "eth0", "onlink")
    return host, *pods


def limit(ground: Ground, programs: Programs) -> Way:
    """Return two pods whose packets are handed over by a program that does nothing else: the limit of this design."""
    host, a, b = _pods(ground, "l")
    with netlink.inside(f"/run/netns/{host}"), contextlib.closing(Netlink()) as wire:
        index = {number: device.ifindex for number in (1, 2) if (device := devices.find_device(wire, f"v{number}"))}
        for number, to in ((1, 2), (2, 1)):
            macs = bytes.fromhex(MACS[to].replace(":", "")) + bytes.fromhex(f"02000000010{to}")
            programs.hop(index[number], index[to], macs)
            wire.send(links.attach(index[number], links.INGRESS, "limit", programs.fds["limit"]))
    return path_of("redirect_peer alone", a, b, "10.9.0.2")


def routed(ground: Ground) -> Way:
    """Return two pods behind a host that routes, without any filter."""
    host, a, b = _pods(ground, "r")
    _forward(host)
    for number in (1, 2):
        _route_to_pod(host, number)
    return path_of("plain routing", a, b, "10.9.0.2")


def _forward(host: str) -> None:
    with netlink.inside(f"/run/netns/{host}"):
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")


def _route_to_pod(host: str, number: int) -> None:
    run("ip", "-n", host, "route", "add", f"10.9.0.{number}/32", "dev", f"v{number}")
    run(
        *("ip", "-n", host, "neigh", "add", f"10.9.0.{number}", "lladdr", MACS[number]),
        *("dev", f"v{number}", "nud", "permanent"),
    )


def routed_away(ground: Ground) -> Way:
    """Return a pod and a machine behind its host's uplink, plainly routed: the baseline between nodes."""
    host, pod, _ = _pods(ground, "a")
    far = ground.namespace("aw")
    ground.pair((host, "up0", "02:00:00:00:02:01"), (far, "eth0", "02:00:00:00:02:02"))
    run("ip", "-n", host, "addr", "add", "192.0.2.1/24", "dev", "up0")
    run("ip", "-n", far, "addr", "add", "192.0.2.2/24", "dev", "eth0")
    run("ip", "-n", far, "route", "add", "10.9.0.0/24", "via", "192.0.2.1")
    _forward(host)
    _route_to_pod(host, 1)
    return path_of("plain routing, off the node", pod, far, "192.0.2.2")


def ours(stack: ExitStack, entries: int) -> list[Way]:
    """Return the paths of a node of ours, same node and off the node, its pods under policies of that many entries."""
    rig = stack.enter_context(new_rig(Tuning(flows=131_072)))
    peers = {Prefix(FAR[4]): PEER_IDENTITY}
    rig.kernel.apply_addresses(peers, ())
    for endpoint, peer in ((1, 1002), (2, 1001)):
        rig.policy(endpoint, policy(peer, entries, (socket.IPPROTO_TCP, socket.IPPROTO_UDP)))
    return [
        Way(f"Fairlead, {entries} entries", rig.netns("1"), rig.netns("2"), pod_address(2, 4)),
        Way(f"Fairlead, {entries} entries, off the node", rig.netns("1"), rig.netns("w"), FAR[4]),
    ]
