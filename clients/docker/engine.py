"""What the plugin asks the engine, never while it answers the engine: that would wait for itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any
from urllib.parse import quote

import msgspec

from clients.docker import http
from clients.docker.protocol import Options
from fairlead.address import Address
from fairlead.errors import Unavailable

_ANSWER_S = 10.0
_START_S = 30.0
NO_CONTAINER = "ep-"
"""With this begins the key of a network's endpoint that belongs to no container."""


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """An endpoint of a network; the key it stands under is its container, or `ep-<endpoint>` without one."""

    endpoint: str = msgspec.field(name="EndpointID", default="")
    ipv4: str = msgspec.field(name="IPv4Address", default="")
    ipv6: str = msgspec.field(name="IPv6Address", default="")

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Return its addresses."""
        return tuple(Address(text.partition("/")[0]) for text in (self.ipv4, self.ipv6) if text)


class NetworkView(msgspec.Struct, frozen=True, kw_only=True):
    """A network as the engine shows it."""

    id: str = msgspec.field(name="Id")
    name: str = msgspec.field(name="Name")
    driver: str = msgspec.field(name="Driver", default="")
    options: Options = msgspec.field(name="Options", default=None)
    members: dict[str, Member] | None = msgspec.field(name="Containers", default=None)


class Container(msgspec.Struct, frozen=True, kw_only=True):
    """A container as the engine lists it."""

    id: str = msgspec.field(name="Id")
    image: str = msgspec.field(name="Image", default="")
    names: list[str] | None = msgspec.field(name="Names", default=None)
    labels: dict[str, str] | None = msgspec.field(name="Labels", default=None)

    @property
    def name(self) -> str:
        """Return its name, for people."""
        return (self.names or [self.id[:12]])[0].lstrip("/")


class RunState(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a container runs, and what the engine said when it could not start it the last time."""

    status: str = msgspec.field(name="Status", default="")
    error: str = msgspec.field(name="Error", default="")


class RestartPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the engine should keep it running."""

    name: str = msgspec.field(name="Name", default="")


class HostConfig(msgspec.Struct, frozen=True, kw_only=True):
    """As much as matters of what was asked of the engine."""

    restart: RestartPolicy = msgspec.field(name="RestartPolicy", default=RestartPolicy())


class Standstill(msgspec.Struct, frozen=True, kw_only=True):
    """A container that has ended, as the engine shows one."""

    id: str = msgspec.field(name="Id")
    name: str = msgspec.field(name="Name", default="")
    state: RunState = msgspec.field(name="State", default=RunState())
    host: HostConfig = msgspec.field(name="HostConfig", default=HostConfig())

    def missed_us(self, driver: str) -> bool:
        """Tell whether it should run, ran before, and does not now since its network could not be made.

        The engine starts everything at once when it boots, its network plugin among them, and tries nothing twice.
        """
        kept = self.host.restart.name in ("always", "unless-stopped")
        ours = any(sign in self.state.error for sign in (f"{driver}:", f"{driver}.sock", f'"{driver}"', "IpamDriver."))
        return kept and ours and self.state.status == "exited"


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """That something happened."""

    action: str = msgspec.field(name="Action", default="")
    time_ns: int = msgspec.field(name="timeNano", default=0)


class Engine:
    """One docker engine."""

    def __init__(self, socket: str, driver: str) -> None:
        self._socket = socket
        self._driver = driver

    async def networks(self) -> list[NetworkView]:
        """Return our driver's networks, without members. Raises Unavailable."""
        found: list[NetworkView] = await self._get(
            f"/networks?filters={_filters(driver=[self._driver])}", list[NetworkView]
        )
        return [network for network in found if network.driver == self._driver]

    async def network(self, network: str) -> NetworkView | None:
        """Return one network with its members, or None when it is gone. Raises Unavailable."""
        try:
            found: NetworkView = await self._get(f"/networks/{quote(network)}", NetworkView)
        except Unavailable as error:
            if "status 404" in error.message:
                return None
            raise
        return found

    async def containers(self, ids: Iterable[str]) -> list[Container]:
        """Return these containers. It is the list that is asked, since a single one is locked while it starts. Raises Unavailable."""
        wanted = sorted(ids)
        if not wanted:
            return []
        found: list[Container] = await self._get(
            f"/containers/json?all=1&filters={_filters(id=wanted)}", list[Container]
        )
        return found

    async def stranded(self, networks: Iterable[str]) -> list[Standstill]:
        """Return the containers on these networks that the engine failed to start again for want of us. Raises Unavailable."""
        filters = _filters(status=["exited"], network=sorted(networks))
        ended: list[Container] = await self._get(f"/containers/json?all=1&filters={filters}", list[Container])
        shown = [await self._get(f"/containers/{quote(one.id)}/json", Standstill) for one in ended]
        return [one for one in shown if one.missed_us(self._driver)]

    async def start(self, container: str) -> None:
        """Have the engine start a container. Raises Unavailable."""
        path = f"/containers/{quote(container)}/start"
        async with asyncio.timeout(_START_S), http.ask(self._socket, path, "POST", ("204", "304")):
            pass

    async def _get(self, path: str, kind: Any) -> Any:
        try:
            async with asyncio.timeout(_ANSWER_S), http.ask(self._socket, path) as (head, reader):
                return msgspec.json.decode(await http.read_body(reader, head), type=kind)
        except TimeoutError as error:
            raise Unavailable(f"{self._socket} did not answer within {_ANSWER_S:g} s") from error
        except msgspec.DecodeError as error:
            raise Unavailable(
                f"{self._socket}{path.partition('?')[0]}: an answer that cannot be read: {error}"
            ) from error

    async def events(self, since_ns: int) -> AsyncIterator[Event]:
        """Yield what happens to networks from then on, without end. Raises Unavailable when the engine ends it."""
        filters = _filters(type=["network"], event=["connect", "disconnect", "create", "destroy"])
        since = f"&since={since_ns // 10**9}.{since_ns % 10**9:09d}" if since_ns else ""
        async with http.ask(self._socket, f"/events?filters={filters}{since}") as (_head, reader):
            pending = b""
            async for chunk in http.chunks(reader):
                *lines, pending = (pending + chunk).split(b"\n")
                for line in lines:
                    if line.strip():
                        yield msgspec.json.decode(line, type=Event)
        raise Unavailable(f"{self._socket} ended its events")


def _filters(**filters: list[str]) -> str:
    return quote(msgspec.json.encode(filters).decode())
