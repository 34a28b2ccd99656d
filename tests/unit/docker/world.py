"""The plugin without an engine: the real ipam and a datapath on a kernel in dicts, over a bus in memory."""

from __future__ import annotations

import itertools
import json
import uuid
from pathlib import Path
from typing import Any

from clients.docker.addresses import AddressDriver
from clients.docker.driver import NetworkDriver
from clients.docker.node import NodeServices
from clients.docker.plugin import Plugin
from clients.docker.spares import Stock
from clients.docker.state import Endpoint, State
from fairlead.address import Prefix
from fairlead.clock import SYSTEM
from fairlead.errors import Conflict
from services.ipam.service import Ipam
from services.ipam.store import StateFile
from tests.unit.datapath.world import NODE, TestNode

NET = "a" * 64


class Ports:
    """Remembers which ports are published; one that is taken is refused, as by a host."""

    def __init__(self) -> None:
        self.published: dict[str, set[tuple[str, int]]] = {}

    async def publish(self, endpoint: Endpoint) -> None:
        wanted = {(port.protocol, port.host_port) for port in endpoint.ports}
        taken = set().union(*(ports for name, ports in self.published.items() if name != endpoint.id), set())
        if wanted & taken:
            raise Conflict("`-p`: taken")
        self.published[endpoint.id] = wanted

    async def withdraw(self, endpoint: str) -> None:
        self.published.pop(endpoint, None)


class World:
    """One node and its plugin."""

    def __init__(self, node: TestNode, folder: Path) -> None:
        self.node = node
        self.folder = folder
        self.ipam = Ipam(NODE, StateFile(folder / "leases.json", NODE), lambda *_: None, SYSTEM)
        self.ports = Ports()
        self.looks = 0
        self.again()

    async def start(self) -> None:
        await self.ipam.take([Prefix("10.0.0.0/24"), Prefix("fd00::/80")])
        await self.node.bus.serve("ipam", self.ipam.routes())

    def again(self) -> None:
        """Have the plugin's process begin anew with what is on disk."""
        self.state = State(self.folder / "docker")
        self.state.load()
        services, owners = NodeServices(self.node.bus, NODE), itertools.count()
        self.stock = Stock(services, self.state, 2, SYSTEM, lambda: uuid.uuid4().hex[:11], lambda _name: True)
        networks = NetworkDriver(services, self.state, self.ports, self.stock, SYSTEM.now, self._look)
        self.plugin = Plugin(
            networks, AddressDriver(services, self.state, self.stock, lambda: f"o{next(owners)}-{id(self.state)}")
        )

    def _look(self) -> None:
        self.looks += 1

    async def ask(self, path: str, **fields: Any) -> Any:
        """Return the answer to a request that must succeed."""
        status, body = await self.plugin.answer(path, json.dumps(fields).encode())
        assert status == 200, body
        return json.loads(body)

    async def refusal(self, path: str, **fields: Any) -> str:
        """Return the error of a request that must fail."""
        status, body = await self.plugin.answer(path, json.dumps(fields).encode())
        assert status in (404, 500), body
        answer = json.loads(body)
        assert answer["Err"] == answer["Error"]
        return str(answer["Err"])

    async def network(self, options: dict[str, str] | None = None, *, ipv6: bool = False) -> None:
        """Make the network, as the engine does it."""
        v4, v6 = await self._pool(v6=False), await self._pool(v6=True) if ipv6 else []
        generic = {"com.docker.network.generic": options or {}}
        await self.ask("/NetworkDriver.CreateNetwork", NetworkID=NET, Options=generic, IPv4Data=v4, IPv6Data=v6)

    async def _pool(self, *, v6: bool) -> list[dict[str, str]]:
        asked = {"AddressSpace": "fairlead", "Pool": "", "SubPool": "", "Options": {}, "V6": v6}
        pool = await self.ask("/IpamDriver.RequestPool", **asked)
        gateway = pool["Data"]["com.docker.network.gateway"]
        return [{"AddressSpace": "fairlead", "Pool": pool["Pool"], "Gateway": gateway}]

    async def address(self, wanted: str = "", pool: str = "fairlead/10.0.0.0/24") -> str:
        answer = await self.ask("/IpamDriver.RequestAddress", PoolID=pool, Address=wanted, Options=None)
        return str(answer["Address"])

    async def endpoint(self, name: str, address: str, ipv6: str = "") -> Any:
        interface = {"Address": address, "AddressIPv6": ipv6, "MacAddress": ""}
        return await self.ask(
            "/NetworkDriver.CreateEndpoint", NetworkID=NET, EndpointID=name, Interface=interface, Options={}
        )
