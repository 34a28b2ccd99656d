"""What the plugin remembers over restarts: networks, endpoints and published ports, one file each, replaced whole.

The engine asks to make a network once in its life and tells nothing again, so this cannot be asked for.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from fairlead import codec
from fairlead.address import Address
from fairlead.errors import InvalidInput

_LOG = logging.getLogger("docker.state")


class Network(msgspec.Struct, frozen=True, kw_only=True):
    """A network with its options."""

    id: str
    mtu_bytes: int = 0
    isolation: str = ""
    """`on` or `off` by the network's own option; empty: as on the whole host."""
    name: str = ""
    """As the engine's users call it; empty until the engine was asked."""


class Port(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """One published port."""

    protocol: str
    host_port: int
    port: int
    host_address: str = ""
    """Empty: all addresses of this node."""


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """One endpoint of a container."""

    id: str
    network: str
    addresses: tuple[Address, ...]
    created: datetime
    sandbox: str = ""
    """Path of the sandbox that it joined."""
    container: str = ""
    """Whose labels it has; empty until they are known."""
    labels: tuple[str, ...] = ()
    ports: tuple[Port, ...] = ()
    doomed: bool = False
    """The engine has deleted it, and the node's services have yet to hear of it."""

    @property
    def name(self) -> str:
        """Return its name for the node's services."""
        return endpoint_name(self.id)

    @property
    def interface(self) -> str:
        """Return the name of the far end until the engine renames it."""
        return f"flp{self.id[:11]}"

    def in_use(self) -> bool:
        """Tell whether a sandbox that it joined still exists."""
        return not self.doomed and bool(self.sandbox) and Path(self.sandbox).exists()


PREFIX = "docker/"


def endpoint_name(endpoint: str) -> str:
    """Return the name under which the node's services know the engine's endpoint."""
    return f"{PREFIX}{endpoint[:12].strip('-_')}"


class State:
    """Networks and endpoints by the engine's ids."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writing = asyncio.Lock()
        self.networks: dict[str, Network] = {}
        self.endpoints: dict[str, Endpoint] = {}

    def load(self) -> None:
        """Read what is on disk; a file that cannot be read is set aside, and said."""
        self.networks = {row.id: row for row in _read_all(self._path(Network), Network)}
        self.endpoints = {row.id: row for row in _read_all(self._path(Endpoint), Endpoint)}

    def _path(self, kind: type[Network | Endpoint]) -> Path:
        return self._folder / ("networks" if kind is Network else "endpoints")

    async def put(self, row: Network | Endpoint) -> None:
        """Remember the row; a network is on disk before this returns, an endpoint would not outlive a loss of power anyway."""
        rows = self._rows(row)
        # true before it is written: a change that comes meanwhile must build on it
        rows[row.id] = row
        async with self._writing:
            newest = rows.get(row.id)
            if newest is not None:
                path = self._path(type(row)) / f"{row.id}.json"
                data = msgspec.json.encode(_plain(newest))
                await asyncio.to_thread(_write, path, data, durable=isinstance(row, Network))

    def _rows(self, row: Network | Endpoint) -> dict[str, Any]:
        return self.networks if isinstance(row, Network) else self.endpoints

    async def change(self, endpoint: str, **changes: object) -> Endpoint | None:
        """Remember changes of an endpoint that is still there."""
        old = self.endpoints.get(endpoint)
        if old is None:
            return None
        new: Endpoint = msgspec.structs.replace(old, **changes)
        if new != old:
            await self.put(new)
        return new

    async def drop(self, row: Network | Endpoint) -> None:
        """Forget the row."""
        self._rows(row).pop(row.id, None)
        async with self._writing:
            if row.id not in self._rows(row):
                await asyncio.to_thread((self._path(type(row)) / f"{row.id}.json").unlink, missing_ok=True)

    def holding(self, addresses: Iterable[Address]) -> list[Endpoint]:
        """Return the endpoints with one of these addresses."""
        wanted = set(addresses)
        return [endpoint for endpoint in self.endpoints.values() if wanted & set(endpoint.addresses)]


T = TypeVar("T", Network, Endpoint)


def _read_all(folder: Path, kind: type[T]) -> Iterator[T]:
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(folder.glob("*.json")):
        try:
            yield codec.from_builtins(msgspec.json.decode(path.read_bytes()), kind)
        except (OSError, msgspec.DecodeError, InvalidInput, UnicodeDecodeError) as error:
            _LOG.error("%s cannot be read and is set aside: %s", path, error)
            path.rename(path.with_suffix(".unreadable"))


def _plain(row: Network | Endpoint) -> object:
    return codec.to_builtins(row)


def _write(path: Path, data: bytes, *, durable: bool) -> None:
    fresh = path.with_suffix(".new")
    with fresh.open("wb") as file:
        file.write(data)
        if durable:
            file.flush()
            os.fsync(file.fileno())
    fresh.replace(path)
