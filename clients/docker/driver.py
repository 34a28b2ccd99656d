"""The engine's network driver.

The engine makes a container's namespace after it has asked for everything, so the pair is made with its far end in the node's own
namespace; the engine moves and renames it, and sets the addresses and routes that `join` answers. What it deletes is deleted here even if
the node's services are away: they hear of it later (see follow.py).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime
from typing import Protocol

import msgspec

from clients.docker.addresses import GATEWAYS
from clients.docker.networks import network_of, ports_of
from clients.docker.node import NodeServices
from clients.docker.protocol import CreateEndpoint, CreateNetwork, EndpointRequest, Join, NetworkRequest
from clients.docker.spares import Shape, Stock
from clients.docker.state import Endpoint, Network, State
from fairlead.address import Address, Family
from fairlead.errors import Conflict, FairleadError, InvalidInput

_LOG = logging.getLogger("docker.driver")
_CONNECTED = 1


class Publisher(Protocol):
    """Makes ports of the host lead to containers."""

    async def publish(self, endpoint: Endpoint) -> None:
        """Make the endpoint's ports be published, and no others of it. Raises InvalidInput, Conflict, FairleadError."""

    async def withdraw(self, endpoint: str) -> None:
        """Publish nothing of the endpoint."""


class NetworkDriver:
    """Answers for networks and endpoints."""

    def __init__(
        self,
        node: NodeServices,
        state: State,
        publisher: Publisher,
        stock: Stock,
        now: Callable[[], datetime],
        wake: Callable[[], None],
    ) -> None:
        self._node = node
        self._state = state
        self._publisher = publisher
        self._stock = stock
        self._now = now
        self._wake = wake

    async def create_network(self, ask: CreateNetwork) -> dict[str, object]:
        """Remember a network's options. Raises InvalidInput naming one."""
        network = network_of(ask)
        await self._state.put(network)
        self._stock.expect(Shape((Family.IPV4, Family.IPV6) if ask.ipv6 else (Family.IPV4,), network.mtu_bytes))
        self._wake()
        return {}

    async def delete_network(self, ask: NetworkRequest) -> dict[str, object]:
        """Forget a network; one that is unknown is gone."""
        network = self._state.networks.get(ask.network)
        if network is not None:
            await self._state.drop(network)
        return {}

    async def create_endpoint(self, ask: CreateEndpoint) -> dict[str, object]:
        """Have the pair made. The same again returns what stands. Raises InvalidInput, Conflict, Unavailable."""
        interface = ask.interface
        addresses = _addresses(interface.address, interface.address_ipv6) if interface else ()
        if not addresses:
            raise InvalidInput(
                "`Interface`: an endpoint needs an address: use a network made with --ipam-driver fairlead"
            )
        old = self._state.endpoints.get(ask.endpoint)
        if old is not None and not old.doomed and old.addresses != addresses:
            raise Conflict(f"`EndpointID`: {ask.endpoint[:12]} exists with other addresses: delete it first")
        wanted_mac = interface.mac if interface else ""
        if old is None or old.doomed:
            old = Endpoint(id=ask.endpoint, network=ask.network, addresses=addresses, created=self._now())
            if not wanted_mac and (mac := await self._from_stock(old)):
                return {"Interface": {"MacAddress": mac}}
        await self._state.put(old)
        try:
            mac = await self._make(old, wanted_mac)
        except BaseException:
            await self._undo(old)
            raise
        return {"Interface": {} if wanted_mac else {"MacAddress": mac}}

    async def _from_stock(self, endpoint: Endpoint) -> str:
        """Give the endpoint the pair that was made ahead with its addresses; return the MAC, empty where there is none."""
        spare = self._stock.take(endpoint.addresses, self._network(endpoint).mtu_bytes)
        if spare is None:
            return ""
        await self._state.put(msgspec.structs.replace(endpoint, spare=spare.id))
        await self._state.drop(spare)
        return spare.mac

    def _network(self, endpoint: Endpoint) -> Network:
        return self._state.networks.get(endpoint.network, Network(id=endpoint.network))

    async def _make(self, endpoint: Endpoint, wanted_mac: str) -> str:
        await self._displace(endpoint)
        status = await self._node.attach(endpoint, self._network(endpoint).mtu_bytes)
        if wanted_mac and wanted_mac.lower() != status.mac:
            raise InvalidInput(f"`--mac-address`: Fairlead gives MACs itself, here {status.mac}: leave it out")
        return status.mac

    async def _displace(self, endpoint: Endpoint) -> None:
        """Clear away endpoints that a crash left with our addresses, and spares that have only some of them."""
        await self._stock.part_with(endpoint.addresses)
        for other in self._state.holding(endpoint.addresses):
            if other.id == endpoint.id:
                continue
            if other.in_use():
                raise Conflict(
                    f"`--ip`: {other.addresses[0]} is in use by endpoint {other.id[:12]}: stop its container first"
                )
            await self._publisher.withdraw(other.id)
            await self._node.remove(other)
            await self._state.drop(other)

    async def _undo(self, endpoint: Endpoint) -> None:
        if not endpoint.sandbox:  # one that was in use before stays as it is
            await self._remove(endpoint)

    async def operational(self, _ask: EndpointRequest) -> dict[str, object]:
        """Tell about an endpoint what the engine's users may see; it understands nothing of ours."""
        return {"Value": {}}

    async def delete_endpoint(self, ask: EndpointRequest) -> dict[str, object]:
        """Remove an endpoint; one that is unknown is gone."""
        endpoint = self._state.endpoints.get(ask.endpoint)
        if endpoint is not None:
            await self._remove(endpoint)
        return {}

    async def _remove(self, endpoint: Endpoint) -> None:
        await self._publisher.withdraw(endpoint.id)
        doomed = await self._state.change(endpoint.id, doomed=True, ports=())
        if doomed is None:
            return
        try:
            await self._node.remove(endpoint)
        except FairleadError as error:
            _LOG.warning("%s is removed later: %s", endpoint.name, error.message)
            return
        await self._state.drop(doomed)

    async def join(self, ask: Join) -> dict[str, object]:
        """Tell the engine what to move into the sandbox and which routes to set. Raises InvalidInput for an unknown endpoint."""
        endpoint = await self._state.change(ask.endpoint, sandbox=ask.sandbox)
        if endpoint is None or endpoint.doomed:
            raise InvalidInput(f"`EndpointID`: {ask.endpoint[:12]} is unknown: create it first")
        self._wake()
        gateways = {address.family: GATEWAYS[address.family] for address in endpoint.addresses}
        return {
            "InterfaceName": {"SrcName": endpoint.interface, "DstPrefix": "eth"},
            "Gateway": str(gateways.get(Family.IPV4, "")),
            "GatewayIPv6": str(gateways.get(Family.IPV6, "")),
            "StaticRoutes": [
                {"Destination": f"{gateway}/{family.bits}", "RouteType": _CONNECTED}
                for family, gateway in gateways.items()
            ],
            # else the engine would add docker_gwbridge, by which everything passes without a policy
            "DisableGatewayService": True,
        }

    async def leave(self, ask: EndpointRequest) -> dict[str, object]:
        """Hear that the engine has taken the interface out of the sandbox."""
        await self._publisher.withdraw(ask.endpoint)
        await self._state.change(ask.endpoint, sandbox="", ports=())
        return {}

    async def publish(self, ask: EndpointRequest) -> dict[str, object]:
        """Publish the endpoint's ports. Raises InvalidInput, Conflict."""
        endpoint = await self._state.change(ask.endpoint, ports=ports_of(ask.options))
        if endpoint is None:
            raise InvalidInput(f"`EndpointID`: {ask.endpoint[:12]} is unknown: create it first")
        if not endpoint.ports:
            return await self.withdraw(ask)
        try:
            await self._publisher.publish(endpoint)
        except FairleadError:
            await self._state.change(ask.endpoint, ports=())
            raise
        return {}

    async def withdraw(self, ask: EndpointRequest) -> dict[str, object]:
        """Publish nothing of the endpoint any more."""
        await self._publisher.withdraw(ask.endpoint)
        await self._state.change(ask.endpoint, ports=())
        return {}


def _addresses(*texts: str) -> tuple[Address, ...]:
    return tuple(Address(text.partition("/")[0]) for text in texts if text)
