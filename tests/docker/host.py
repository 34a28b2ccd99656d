"""One host for real: all services as processes, an engine of its own, the plugin beside it, and a network behind an uplink."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from fairlead.schema.base import NodeName
from services.datapath.kernel import netlink
from services.datapath.kernel.linux import LinuxKernel
from tests.docker.dockerd import Dockerd
from tests.docker.machine import NETWORK_OPTIONS, Machine, until
from tests.kernel.rig import _wire_network, run
from tests.support.etcd import EtcdServer
from tests.support.nats import NatsServer
from tests.support.services import ServiceProcess

NODE = NodeName("n1")

__all__ = ["NETWORK_OPTIONS", "NODE", "Host", "new_host", "until"]


class Host(Machine):
    """The parts. The thread that made it stands in the host's network namespace until the end."""

    def __init__(self, stack: ExitStack, *, spares: int = 4, **options: str) -> None:
        self.spares = spares
        self.folder = Path(tempfile.mkdtemp(prefix="fairlead-host-"))
        stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
        self.name = f"fk{os.getpid()}{os.urandom(2).hex()}"
        for which in ("n", "w"):
            run("ip", "netns", "add", self.name + which)
            stack.callback(run, "ip", "netns", "del", self.name + which)
        _wire_network(self.name)
        stack.enter_context(netlink.inside(f"/run/netns/{self.name}n"))
        pins = Path("/sys/fs/bpf") / self.name
        stack.callback(lambda: LinuxKernel(pins, ("up0",)).destroy())
        self.etcd = EtcdServer(self.folder / "etcd")
        self.etcd.start()
        stack.callback(self.etcd.kill)
        self.nats = NatsServer(self.folder).start()
        stack.callback(self.nats.kill)
        self.leaf = NatsServer(self.folder, "leaf", self.nats).start()
        stack.callback(self.leaf.kill)
        self.engine = Dockerd(stack)
        self._settings = {
            "NATS_DOMAIN": "hub",
            "ETCD": self.etcd.url,
            "POOLS": "10.7.0.0/16,fd07::/64",
            "UPLINKS": "up0",
            "NODE_ADDRESSES": "192.0.2.1,2001:db8::1",
            "PIN_DIRECTORY": str(pins),
            "DOCKER_ENGINE": str(self.engine.socket),
            "DOCKER_RESYNC_S": "2",
            "DOCKER_ORPHAN_S": "3",
            "DOCKER_SPARES": str(spares),
            **options,
        }
        self.services = {name: self._service(name) for name in ("ipam", "identity", "policy", "datapath")}
        self.plugin = self._service("docker", package="clients", inside=self.engine.inside)
        self.node, self.bus_url, self.plugin_state = NODE, self.nats.url, self.plugin.state_dir / "docker"
        for one in (*self.services.values(), self.plugin):
            stack.callback(one.kill)

    def plugin_said(self) -> str:
        """Return the log of the network plugin."""
        return self.plugin.log.read_text()

    def _service(self, name: str, **more: Any) -> ServiceProcess:
        cluster = name in ("identity", "policy")
        settings = {**self._settings, "NATS": (self.nats if cluster else self.leaf).url}
        return ServiceProcess(name, NODE, self.folder, settings, **more)

    def start(self) -> Host:
        """Start everything, the engine last."""
        self.start_services()
        self.plugin.start()
        self.engine.start()
        self.engine.import_busybox()
        return self

    def start_services(self) -> None:
        """Start the services without the plugin and its engine."""
        for one in self.services.values():
            one.launch()
        for one in self.services.values():
            until(one.health, what=f"{one.service} to be healthy")
        until(self.kernel_is_up, 60, what="the kernel's side")

    def kernel_is_up(self) -> bool:
        """Tell whether the datapath serves."""
        conditions: Any = self.services["datapath"].health().get("conditions", ())
        return any(one["name"] == "kernel" and one["ok"] for one in conditions)


@contextmanager
def new_host(*, spares: int = 4, **options: str) -> Iterator[Host]:
    """Build a host, start it, and leave nothing."""
    with ExitStack() as stack:
        yield Host(stack, spares=spares, **options).start()
