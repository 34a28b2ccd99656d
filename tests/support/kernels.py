"""A kernel to try things on: the one in dicts, or this machine's in namespaces of its own. Both answer the same questions."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, cast

import pytest

from fairlead.address import Address, Family
from services.datapath.kernel import glass, netlink
from services.datapath.kernel.fake import FakeKernel
from services.datapath.kernel.fake_world import FakeWorld
from services.datapath.kernel.linux import LinuxKernel
from services.datapath.kernel.testrun import SHOT, TestRun
from services.datapath.kernel.twin.cases import Action, Met, Origin, Tunnel
from services.datapath.operations import Kernel
from services.datapath.overlay import Overlay
from services.datapath.reports import EventKind
from tests.support.roads import add_uplink, carried, way_of
from tests.support.tunnelled import Tunnelled

TCP = 6
_COUNTER = itertools.count()
_CONNECT_S = 0.4
_PROGRAMS = {
    Origin.POD: "from_pod",
    Origin.NETWORK: "from_network",
    Origin.HOST: "from_host",
    Origin.UPLINK: "to_uplink",
}


class Bench(Protocol):
    """One node's kernel and the namespaces of its workloads."""

    kernel: Kernel
    taken: Tunnel | None
    """By which tunnel the last frame that was met left; known of nodes with tunnels."""
    left: bytes
    """That frame, as it left."""

    def namespace(self, name: str) -> str:
        """Return the path of a namespace, made on first use."""

    def forget_namespace(self, name: str) -> None:
        """Have the namespace end, with whatever is in it."""

    def connects(self, source: tuple[str, Address], destination: tuple[str, Address], port: int) -> bool:
        """Tell whether a new TCP connection from one endpoint reaches the other."""

    def meet(
        self,
        frame: bytes,
        endpoint: int = 0,
        *,
        door: Origin = Origin.NETWORK,
        came_by: int = 0,
        tunnel: Tunnel | None = None,
        turned: bool = False,
    ) -> tuple[Action, int]:
        """Say what becomes of a frame that the endpoint sends (0: it comes by the door), and the reason if it is dropped.

        `came_by`: the device by which the stack received what it sends on; 0: it says so itself. `turned`: by the one by which it leaves.
        """

    def break_glass(self, rows: dict[int, int]) -> None:
        """Do what a person's command does: until when (ns) by endpoint."""

    def again(self) -> Kernel:
        """Return a second process's hold on the same kernel; the first one has died."""


class FakeBench:
    """The kernel in dicts."""

    def __init__(self) -> None:
        self.kernel: Kernel = FakeKernel(FakeWorld(namespaces=set()))
        self.taken: Tunnel | None = None
        self.left = b""

    def namespace(self, name: str) -> str:
        path = f"/run/netns/{name}"
        world = cast("FakeKernel", self.kernel).world
        assert world.namespaces is not None
        world.namespaces.add(path)
        return path

    def forget_namespace(self, name: str) -> None:
        world = cast("FakeKernel", self.kernel).world
        assert world.namespaces is not None
        world.namespaces.discard(f"/run/netns/{name}")

    def connects(self, source: tuple[str, Address], destination: tuple[str, Address], port: int) -> bool:
        return cast("FakeKernel", self.kernel).send(source[1], destination[1], TCP, port).passes

    def meet(
        self,
        frame: bytes,
        endpoint: int = 0,
        *,
        door: Origin = Origin.NETWORK,
        came_by: int = 0,
        tunnel: Tunnel | None = None,
        turned: bool = False,
    ) -> tuple[Action, int]:
        kernel, met = cast("FakeKernel", self.kernel), Met(door, int(turned), came_by or int(turned), tunnel=tunnel)
        if endpoint:
            met = Met(Origin.POD, kernel.plugged()[endpoint].ifindex)
        fate = kernel.meet(frame, met)
        self.taken, self.left = fate.tunnel, fate.frame
        return fate[:2]

    def break_glass(self, rows: dict[int, int]) -> None:
        cast("FakeKernel", self.kernel).world.glass.update(rows)

    def again(self) -> Kernel:
        self.kernel = FakeKernel(cast("FakeKernel", self.kernel).world)
        return self.kernel


class _Threaded:
    """Has every call made by one thread, as the service does."""

    def __init__(self, target: object, run: Callable[..., Any]) -> None:
        self._target = target
        self._run = run

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._target, name)
        return lambda *args, **kwargs: self._run(method, *args, **kwargs)


class LinuxBench:
    """This machine's kernel, seen from a network namespace that stands for a node."""

    def __init__(self, tunnels: Overlay | None = None, uplink: Mapping[str, str] | None = None) -> None:
        self.taken: Tunnel | None = None
        self.left = b""
        self._overlay, self._tunnelled = tunnels, cast("Tunnelled | None", None)
        self._prefix = f"fk{os.getpid()}-{next(_COUNTER)}"
        self._pins = Path("/sys/fs/bpf") / self._prefix
        self._names: dict[str, str] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="node")
        node = self.namespace("node")
        subprocess.run(["nsenter", f"--net={node}", "ip", "link", "set", "lo", "up"], check=True)
        if uplink:
            add_uplink(node, uplink)
        self._uplinks = ("up0",) if uplink else ()
        self._entered = contextlib.ExitStack()
        self._run(self._enter, node)
        self.kernel: Kernel = self._make()

    def _run(self, function: Callable[..., Any], *args: object, **kwargs: object) -> Any:
        return self._thread.submit(function, *args, **kwargs).result()

    def _enter(self, node: str) -> None:
        self._entered.enter_context(netlink.inside(node))

    def _make(self) -> Kernel:
        self._linux = LinuxKernel(self._pins, self._uplinks, None, self._overlay)
        return cast("Kernel", _Threaded(self._linux, self._run))

    def namespace(self, name: str) -> str:
        if name not in self._names:
            subprocess.run(["ip", "netns", "add", f"{self._prefix}-{name}"], check=True)
            self._names[name] = f"/run/netns/{self._prefix}-{name}"
        return self._names[name]

    def forget_namespace(self, name: str) -> None:
        subprocess.run(["ip", "netns", "delete", Path(self._names.pop(name)).name], check=True)

    def connects(self, source: tuple[str, Address], destination: tuple[str, Address], port: int) -> bool:
        for end in (source, destination):
            carried(Path(end[0]).name)
        with self._socket(destination) as server:
            server.bind((str(destination[1]), port))
            server.listen(1)
            with self._socket(source) as client:
                client.settimeout(_CONNECT_S)
                client.bind((str(source[1]), 0))
                try:
                    client.connect((str(destination[1]), port))
                except OSError:
                    return False
                return True

    def _socket(self, end: tuple[str, Address]) -> socket.socket:
        """Return a socket that lives in the endpoint's namespace, made by a thread that goes there."""
        made: list[socket.socket] = []

        def make() -> None:
            with netlink.inside(end[0]):
                family = socket.AF_INET if end[1].family is Family.IPV4 else socket.AF_INET6
                made.append(socket.socket(family, socket.SOCK_STREAM))

        thread = threading.Thread(target=make)
        thread.start()
        thread.join()
        made[0].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return made[0]

    def meet(
        self,
        frame: bytes,
        endpoint: int = 0,
        *,
        door: Origin = Origin.NETWORK,
        came_by: int = 0,
        tunnel: Tunnel | None = None,
        turned: bool = False,
    ) -> tuple[Action, int]:
        host = self._linux._door.ifindex if turned else 0
        met = Met(Origin.POD if endpoint else door, endpoint or host, came_by or host, tunnel=tunnel)
        return cast("tuple[Action, int]", self._run(self._meet, frame, met))

    def _run_program(self, frame: bytes, met: Met) -> tuple[int, bytes]:
        """Run the one that stands where the frame is met; on a node with tunnels one that tells of them."""
        if self._overlay is None:
            program = TestRun(self._pins, _PROGRAMS[met.origin])
            outcome = program.run(frame, met.ifindex, ingress_ifindex=met.ingress_ifindex)
            program.close()
            return outcome.action, outcome.packet
        self._tunnelled = self._tunnelled or Tunnelled(self._pins)
        action, packet, self.taken = self._tunnelled.run(frame, met)
        return action, packet

    def _meet(self, frame: bytes, met: Met) -> tuple[Action, int]:
        plugged = self._linux.plugged()
        self._linux.events(0)
        if met.origin is Origin.POD:
            met = met._replace(ifindex=plugged[met.ifindex].ifindex)
        action, packet = self._run_program(frame, met)
        self.left = packet
        reason = next((event.reason for event in self._linux.events(0) if event.kind is EventKind.DROP), 0)
        if action == SHOT or reason:
            return Action.DROPPED if action == SHOT else Action.REFUSED, reason
        if self.taken is not None:
            return Action.TUNNEL, 0
        return way_of(frame, action, packet, [link.pod_mac + link.host_mac for link in plugged.values()]), 0

    def break_glass(self, rows: dict[int, int]) -> None:
        with glass.pinned(self._pins) as table:
            table.put(rows)

    def again(self) -> Kernel:
        self._run(self._linux.stop)
        self.kernel = self._make()
        return self.kernel

    def close(self) -> None:
        """Leave nothing behind."""
        if self._tunnelled is not None:
            self._tunnelled.close()
        self._run(self._linux.destroy)
        self._run(self._entered.close)
        self._thread.shutdown()
        for path in self._names.values():
            subprocess.run(["ip", "netns", "delete", Path(path).name], check=True)


def missing() -> str:
    """Return why the real kernel cannot be tried here; empty when it can."""
    if os.geteuid() != 0:
        return "needs root"
    return "" if importlib.util.find_spec("bcc") else "needs python3-bpfcc"


KINDS = ("fake", pytest.param("linux", marks=pytest.mark.kernel))


def bench(kind: str, tunnels: Overlay | None = None, uplink: Mapping[str, str] | None = None) -> Iterator[Bench]:
    """Yield a bench of that kind; the body of a fixture. Its node may have tunnels to others, and an uplink (address to gateway)."""
    if kind == "fake":
        yield FakeBench()
        return
    if reason := missing():
        pytest.skip(f"real kernel: {reason}")
    made = LinuxBench(tunnels, uplink)
    try:
        yield made
    finally:
        made.close()
