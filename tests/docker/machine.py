"""What tests ask of a machine with an engine on Fairlead's networks, however its services run there."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fairlead import manifest
from fairlead.address import Address
from fairlead.bus_nats import NatsBus
from fairlead.errors import FairleadError
from fairlead.schema import datapath as topics
from fairlead.schema.base import Empty, Message, NodeName, Topic
from fairlead.schema.datapath import EndpointState, EndpointStatus
from fairlead.schema.ipam import LEASES, Lease, Leases
from fairlead.schema.policy import APPLY, FORCE_DELETE, POLICIES, ApplyPolicy, DeletePolicy, PolicyApplied, PolicyList
from tests.docker.dockerd import BUSYBOX, IMAGE, Dockerd, why_not
from tests.kernel import rig

ONLY_CLIENTS = """
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: {name: web}
spec:
  endpointSelector: {matchLabels: {app: web}}
  ingress:
  - fromEndpoints: [{matchLabels: {app: client}}]
    toPorts: [{ports: [{port: "80", protocol: TCP}]}]
"""
"""Workloads `app=client` reach `app=web` on port 80, and nobody else does."""
NETWORK_OPTIONS = ("-d", "fairlead", "--ipam-driver", "fairlead")


class Machine:
    """One machine; those who build it set these."""

    node: NodeName
    name: str
    """Its network namespace is this with `n`, that of a machine on its network this with `w`."""
    engine: Dockerd
    bus_url: str
    plugin_state: Path
    seed = ""
    """With which credential tests ask; none: everybody may."""

    def plugin_said(self) -> str:
        """Return the log of the network plugin."""
        raise NotImplementedError

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
        # a plugin that could not ask in time clears up later
        until(lambda: not self._files(), what="files to go", tell=self._files)

    def _files(self) -> list[str]:
        return [path.name for path in (self.plugin_state / "endpoints").iterdir()]

    def leases(self) -> list[Lease]:
        """Return what containers hold."""
        answer: Leases = self.request(LEASES, Empty())
        spared = self._spared()
        return [
            one
            for one in answer.leases
            if one.owner.startswith("docker/") and one.state == "leased" and one.address not in spared
        ]

    def _spared(self) -> set[Address]:
        found: topics.EndpointList = self.request(topics.ENDPOINTS, Empty())
        return {address for one in found.endpoints if _is_spare(one) for address in one.addresses}

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
        return [one for one in answer.endpoints if one.name.startswith("docker/") and not _is_spare(one)]

    def request(self, topic: Topic[Any, Any], message: Message, *, per_node: bool = True) -> Any:
        """Ask over a connection of this moment; nothing while nobody answers for ten seconds."""

        async def ask() -> Any:
            bus = NatsBus(self.bus_url, name="test", domain="hub", seed_file=self.seed)
            bus.start()
            try:
                deadline = time.monotonic() + 10
                while True:
                    try:
                        return await bus.request(topic, message, node=self.node if per_node else None, timeout_s=10)
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
        return f"{seen}\n{self.endpoints()}\n{self.plugin_said()[-2000:]}"

    def fetch_from(self, which: str, address: str, port: int) -> str:
        """The same from the host (n) or from a machine on its network (w)."""
        command = ["nsenter", f"--net=/run/netns/{self.name}{which}", BUSYBOX, "timeout", "3", BUSYBOX, "wget"]
        url = f"http://{address}:{port}"
        done = subprocess.run([*command, "-q", "-O", "-", url], capture_output=True, text=True, check=False, timeout=10)
        return done.stdout.strip()


def _is_spare(endpoint: EndpointStatus) -> bool:
    """Tell whether the plugin has made the endpoint ahead, and nobody has it yet."""
    return endpoint.name.startswith("docker/spare-")


def until(reached: Callable[[], Any], within_s: float = 30, *, what: str, tell: Callable[[], Any] | None = None) -> Any:
    """Poll until the answer is true, and return it."""
    deadline = time.monotonic() + within_s
    while not (answer := reached()):
        assert time.monotonic() < deadline, f"waited {within_s:g} s for {what}: {tell() if tell else ''}"
        time.sleep(0.02)
    return answer


def skip_unless_possible(*more: str) -> None:
    """Skip, and say why, when no engine can be here or one of these other reasons is one."""
    reason = why_not() or rig.why_not() or "".join(more)
    if reason:
        pytest.skip(f"DOCKER TESTS DO NOT RUN: {reason}")
