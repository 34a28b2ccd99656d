"""One node for real, alone: a datapath service as a process, a kernel in namespaces, NATS, and the least of a control plane beside it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from fairlead.address import Address
from fairlead.bus_memory import Hub
from fairlead.bus_nats import NatsBus
from fairlead.errors import FairleadError
from fairlead.schema import datapath as topics
from fairlead.schema.base import Empty, Message, Topic
from fairlead.schema.datapath import AttachEndpoint, EndpointStatus
from services.datapath.kernel import netlink
from services.datapath.kernel.linux import LinuxKernel
from tests.kernel.rig import _wire_network, run
from tests.support.nats import NatsServer
from tests.support.services import ServiceProcess
from tests.unit.datapath.world import NODE, Control


class Node:
    """The parts. The thread that made it stands in the node's network namespace until the end."""

    def __init__(self, stack: ExitStack, folder: Path, **options: str) -> None:
        self.name = f"fk{os.getpid()}{os.urandom(2).hex()}"
        self._stack = stack
        for which in ("n", "w"):
            self.namespace(which)
        _wire_network(self.name)
        stack.enter_context(netlink.inside(f"/run/netns/{self.name}n"))
        self.pins = Path("/sys/fs/bpf") / self.name
        stack.callback(lambda: LinuxKernel(self.pins, ("up0",)).destroy())
        self.nats = NatsServer(folder).start()
        stack.callback(self.nats.kill)
        settings = {"NATS": self.nats.url, "PIN_DIRECTORY": str(self.pins), "UPLINKS": "up0", **options}
        self.service = ServiceProcess("datapath", NODE, folder, settings)
        stack.callback(self.service.kill)
        self.bus = NatsBus(self.nats.url, name="test")
        self.control = Control(Hub(), self.bus)

    def namespace(self, which: str) -> str:
        """Make a network namespace; return its path."""
        run("ip", "netns", "add", self.name + which)
        self._stack.callback(run, "ip", "netns", "del", self.name + which)
        return f"/run/netns/{self.name}{which}"

    def netns(self, which: str) -> str:
        """Return the path of a namespace that was made."""
        return f"/run/netns/{self.name}{which}"

    async def begin(self) -> None:
        """Connect, and have the control plane answer."""
        self.bus.start()
        async with asyncio.timeout(15):
            while not self.bus.connected:
                await asyncio.sleep(0.02)
        await self.control.start()
        await self.control.claim("10.7.0.0/16", "fd07::/64")

    async def serving(self) -> None:
        """Wait until the service answers: on a loaded machine its start takes longer than a request waits for somebody to serve it."""
        async with asyncio.timeout(30):
            while True:
                with contextlib.suppress(FairleadError):
                    await self.ask(topics.ENDPOINTS, Empty(), 1.0)
                    return
                await asyncio.sleep(0.05)

    async def ask(self, topic: Topic[Any, Any], message: Message, timeout_s: float = 30.0) -> Any:
        """Return the service's answer."""
        return await self.bus.request(topic, message, node=NODE, timeout_s=timeout_s)

    async def attach(self, name: str, addresses: tuple[str, ...], label: str, wait_s: float = 60) -> EndpointStatus:
        """Connect the namespace of that name."""
        wish = AttachEndpoint(
            name=name,
            netns=self.netns(name),
            addresses=tuple(map(Address, addresses)),
            labels=(label,),
            wait_s=wait_s,
        )
        status: EndpointStatus = await self.ask(topics.ATTACH, wish)
        return status

    async def endpoints(self) -> tuple[EndpointStatus, ...]:
        """Return what the service says of its endpoints; nothing while it does not answer."""
        with contextlib.suppress(FairleadError):
            answer: topics.EndpointList = await self.ask(topics.ENDPOINTS, Empty(), 1.0)
            return answer.endpoints
        return ()


@contextmanager
def parts(**options: str) -> Iterator[Node]:
    """Build a node and leave nothing of it; the service is not started."""
    folder = Path(tempfile.mkdtemp(prefix="fairlead-node-"))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        yield Node(stack, folder, **options)


@asynccontextmanager
async def node(**options: str) -> AsyncIterator[Node]:
    """Build a node, start its service, and leave nothing."""
    with parts(**options) as made:
        await made.begin()
        made.service.start()
        await made.serving()
        try:
            yield made
        finally:
            await made.bus.close()
