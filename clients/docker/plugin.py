"""Paths of the engine's plugin protocol, and what answers them. Whatever comes in, an answer goes out."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from clients.docker import protocol
from clients.docker.addresses import AddressDriver
from clients.docker.driver import NetworkDriver
from clients.docker.protocol import Request
from fairlead.errors import FairleadError

_LOG = logging.getLogger("docker.plugin")
Handler = Callable[[Any], Awaitable[dict[str, object]]]
Routes = dict[str, tuple[type[Request], Handler]]


def _constant(**answer: object) -> tuple[type[Request], Handler]:
    async def handle(_ask: Request) -> dict[str, object]:
        return answer

    return Request, handle


def _refuse(message: str) -> tuple[type[Request], Handler]:
    async def handle(_ask: Request) -> dict[str, object]:
        raise FairleadError(message)

    return Request, handle


_NO_SWARM = (
    "networks across a swarm are not offered: make the network on each host, they reach each other by themselves"
)


def _network_routes(driver: NetworkDriver) -> Routes:
    endpoint = protocol.EndpointRequest
    return {
        "GetCapabilities": _constant(Scope="local", ConnectivityScope="local"),
        "AllocateNetwork": _refuse(_NO_SWARM),
        "FreeNetwork": _constant(),
        "CreateNetwork": (protocol.CreateNetwork, driver.create_network),
        "DeleteNetwork": (protocol.NetworkRequest, driver.delete_network),
        "CreateEndpoint": (protocol.CreateEndpoint, driver.create_endpoint),
        "EndpointOperInfo": (endpoint, driver.operational),
        "DeleteEndpoint": (endpoint, driver.delete_endpoint),
        "Join": (protocol.Join, driver.join),
        "Leave": (endpoint, driver.leave),
        "ProgramExternalConnectivity": (endpoint, driver.publish),
        "RevokeExternalConnectivity": (endpoint, driver.withdraw),
        "DiscoverNew": _constant(),
        "DiscoverDelete": _constant(),
        "GwAllocCheck": _constant(SkipIPv4=True, SkipIPv6=True),
    }


def _address_routes(driver: AddressDriver) -> Routes:
    return {
        "GetCapabilities": _constant(RequiresMACAddress=False, RequiresRequestReplay=False),
        "GetDefaultAddressSpaces": _constant(
            LocalDefaultAddressSpace="fairlead", GlobalDefaultAddressSpace="fairlead-global"
        ),
        "RequestPool": (protocol.RequestPool, driver.request_pool),
        "ReleasePool": (protocol.PoolRequest, driver.release_pool),
        "RequestAddress": (protocol.AddressRequest, driver.request_address),
        "ReleaseAddress": (protocol.AddressRequest, driver.release_address),
    }


class Plugin:
    """Answers the engine."""

    def __init__(self, networks: NetworkDriver, addresses: AddressDriver) -> None:
        self._routes: Routes = {
            "/Plugin.Activate": _constant(Implements=["NetworkDriver", "IpamDriver"]),
            **{f"/NetworkDriver.{name}": route for name, route in _network_routes(networks).items()},
            **{f"/IpamDriver.{name}": route for name, route in _address_routes(addresses).items()},
        }

    async def answer(self, path: str, body: bytes) -> tuple[int, bytes]:
        """Return status and body for a request; an error is a body, as the engine wants it."""
        if path not in self._routes:
            return 404, _error(f"{path} is unknown")
        kind, handler = self._routes[path]
        try:
            return 200, msgspec.json.encode(await handler(protocol.read(body, kind)))
        except FairleadError as error:
            _LOG.warning("%s: %s", path, error.message)
            return 500, _error(error.message)
        except Exception as error:  # noqa: BLE001 - the engine waits for an answer whatever happens
            _LOG.exception("%s failed", path)
            return 500, _error(f"{path} failed inside ({error!r}): see the plugin's log")


def _error(message: str) -> bytes:
    """Return an error for the engine: network drivers say `Err`, address drivers `Error`, and with a status that is an error `Err` is read of both."""
    text = f"fairlead: {message}"
    return msgspec.json.encode({"Err": text, "Error": text})
