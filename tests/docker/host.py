"""One host for real: all services as processes, an engine of its own, the plugin beside it, and a network behind an uplink."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from fairlead import manifest
from fairlead.bus_nats import NatsBus
from fairlead.errors import FairleadError
from fairlead.schema import datapath as topics
from fairlead.schema.base import Empty, Message, NodeName, Topic
from fairlead.schema.datapath import EndpointState, EndpointStatus
from fairlead.schema.ipam import LEASES, Lease, Leases
from fairlead.schema.policy import APPLY, FORCE_DELETE, POLICIES, ApplyPolicy, DeletePolicy, PolicyApplied, PolicyList
from services.datapath.kernel import netlink
from services.datapath.kernel.linux import LinuxKernel
from tests.docker.dockerd import BUSYBOX, IMAGE, Dockerd
from tests.kernel.rig import _wire_network, run
from tests.support.etcd import EtcdServer
from tests.support.nats import NatsServer
from tests.support.services import ServiceProcess

NODE = NodeName("n1")
NETWORK_OPTIONS = ("-d", "fairlead", "--ipam-driver", "fairlead")


class Host:
    """The parts. The thread that made it stands in the host's network namespace until the end."""

    def __init__(self, stack: ExitStack, **options: str) -> None:
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
            **options,
        }
        self.services = {name: self._service(name) for name in ("ipam", "identity", "policy", "datapath")}
        self.plugin = self._service("docker", package="clients", inside=self.engine.inside)
        for one in (*self.services.values(), self.plugin):
            stack.callback(one.kill)

    def _service(self, name: str, **more: Any) -> ServiceProcess:
        cluster = name in ("identity", "policy")
        settings = {**self._settings, "NATS": (self.nats if cluster else self.leaf).url}
        return ServiceProcess(name, NODE, self.folder, settings, **more)

    def start(self) -> Host:
        """Start everything, the engine last."""
        for one in self.services.values():
            one.launch()
        for one in self.services.values():
            until(one.health, what=f"{one.service} to be healthy")
        until(self._kernel_is_up, 60, what="the kernel's side")
        self.plugin.start()
        self.engine.start()
        self.engine.import_busybox()
        return self

    def _kernel_is_up(self) -> bool:
        conditions: Any = self.services["datapath"].health().get("conditions", ())
        return any(one["name"] == "kernel" and one["ok"] for one in conditions)

    def apply(self, text: str) -> None:
        """Store policies, and return when every kernel has them."""
        for document in manifest.read(text, "test"):
            ask = ApplyPolicy(document=document, wait_s=20)
            done: PolicyApplied = self.request(APPLY, ask, per_node=False)
            assert done.resolved, done
            assert all(node.realised for node in done.nodes), done

    def forget_policies(self) -> None:
        """Remove every policy."""
        stored: PolicyList = self.request(POLICIES, Empty(), per_node=False)
        for one in stored.policies:
            self.request(FORCE_DELETE, DeletePolicy(policy=one.policy, wait_s=10), per_node=False)

    def settled_empty(self) -> None:
        """Wait until no endpoint, no lease and no file of a container is left."""
        until(lambda: not self.endpoints(), what="endpoints to go", tell=self.endpoints)
        until(lambda: not self.leases(), what="leases to go", tell=self.leases)
        left = list((self.plugin.state_dir / "docker" / "endpoints").iterdir())
        assert not left, left

    def leases(self) -> list[Lease]:
        """Return what containers hold."""
        answer: Leases = self.request(LEASES, Empty())
        return [one for one in answer.leases if one.owner.startswith("docker/") and one.state == "leased"]

    def ready(self, count: int, within_s: float = 30) -> list[EndpointStatus]:
        """Wait until so many endpoints of containers are there and ready, and return them."""

        def look() -> list[EndpointStatus]:
            found = self.endpoints()
            return found if len(found) == count and all(one.state is EndpointState.READY for one in found) else []

        until(look, within_s, what=f"{count} ready endpoints", tell=self.endpoints) if count else None
        return self.endpoints()

    def endpoints(self) -> list[EndpointStatus]:
        """Return the datapath's endpoints of containers."""
        answer: topics.EndpointList = self.request(topics.ENDPOINTS, Empty())
        return [one for one in answer.endpoints if one.name.startswith("docker/")]

    def request(self, topic: Topic[Any, Any], message: Message, *, per_node: bool = True) -> Any:
        """Ask over a connection of this moment; nothing while nobody answers for ten seconds."""

        async def ask() -> Any:
            bus = NatsBus(self.nats.url, name="test", domain="hub")
            bus.start()
            try:
                deadline = time.monotonic() + 10
                while True:
                    try:
                        return await bus.request(topic, message, node=NODE if per_node else None, timeout_s=10)
                    except FairleadError:
                        if time.monotonic() > deadline:
                            raise
                        await asyncio.sleep(0.1)
            finally:
                await bus.close()

        return asyncio.run(ask())

    def container(
        self, name: str, *options: str, network: str = "fl", command: tuple[str, ...] = ("sleep", "9999")
    ) -> str:
        """Start a container; return its IPv4 address."""
        self.engine.run("run", "-d", "--name", name, "--network", network, *options, IMAGE, *command)
        return self.address(name, network)

    def address(self, name: str, network: str = "fl") -> str:
        """Return a container's IPv4 address."""
        form = f'{{{{(index .NetworkSettings.Networks "{network}").IPAddress}}}}'
        return self.engine.said("inspect", "-f", form, name)

    def inside(self, container: str, *command: str, timeout_s: float = 20) -> subprocess.CompletedProcess[str]:
        """Run a command in a container."""
        return self.engine.run("exec", container, *command, check=False, timeout_s=timeout_s)

    def serve(self, name: str, *options: str, network: str = "fl") -> str:
        """Start a container that answers on port 80 with its name; return its IPv4 address."""
        script = f"echo {name} > /www/index.html; exec httpd -f -h /www"
        return self.container(name, *options, network=network, command=("sh", "-c", script))

    def fetch(self, container: str, address: str, port: int = 80) -> str:
        """Return what a container gets from a web server; empty when it gets nothing in time."""
        return self.inside(
            container, "timeout", "2", "wget", "-q", "-O", "-", f"http://{address}:{port}"
        ).stdout.strip()

    def answers(self, *ports: int) -> None:
        """Wait until a machine on the network gets `web` from each published port."""
        for port in ports:
            self._answers(port)

    def _answers(self, port: int) -> None:
        until(lambda: self.fetch_from("w", "192.0.2.1", port) == "web", what=f"port {port}", tell=self.tell)

    def tell(self) -> str:
        """Return what is worth knowing about published ports when one does not answer."""
        look = "nft list table inet fairlead_docker; iptables -L FORWARD -nv; cat /proc/net/nf_conntrack; ip neigh; ss -tlnp"
        seen = subprocess.run(["sh", "-c", look], capture_output=True, text=True, check=False).stdout
        return f"{seen}\n{self.endpoints()}\n{self.plugin.log.read_text()[-2000:]}"

    def fetch_from(self, which: str, address: str, port: int) -> str:
        """The same from the host (n) or from a machine on its network (w)."""
        command = ["nsenter", f"--net=/run/netns/{self.name}{which}", BUSYBOX, "timeout", "3", BUSYBOX, "wget"]
        url = f"http://{address}:{port}"
        done = subprocess.run([*command, "-q", "-O", "-", url], capture_output=True, text=True, check=False, timeout=10)
        return done.stdout.strip()


def until(reached: Callable[[], Any], within_s: float = 30, *, what: str, tell: Callable[[], Any] | None = None) -> Any:
    """Poll until the answer is true, and return it."""
    deadline = time.monotonic() + within_s
    while not (answer := reached()):
        assert time.monotonic() < deadline, f"waited {within_s:g} s for {what}: {tell() if tell else ''}"
        time.sleep(0.02)
    return answer


@contextmanager
def new_host(**options: str) -> Iterator[Host]:
    """Build a host, start it, and leave nothing."""
    with ExitStack() as stack:
        yield Host(stack, **options).start()
