"""What the plugin remembers over restarts: networks, endpoints with their published ports, and spares, one file each, replaced whole.

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
    spare: str = ""
    """The id of the spare that it was made from; empty: it has a pair of its own."""
    doomed: bool = False
    """The engine has deleted it, and the node's services have yet to hear of it."""

    @property
    def name(self) -> str:
        """Return its name for the node's services."""
        return endpoint_name(self.id)

    @property
    def interface(self) -> str:
        """Return the name of the far end until the engine renames it."""
        return spare_interface(self.spare) if self.spare else f"flp{self.id[:11]}"

    @property
    def names(self) -> set[str]:
        """Return the names of which the node's services know it by one: a spare is renamed when it gets labels."""
        return {self.name, spare_name(self.spare)} if self.spare else {self.name}

    def in_use(self) -> bool:
        """Tell whether a sandbox that it joined still exists."""
        return not self.doomed and bool(self.sandbox) and Path(self.sandbox).exists()


class Spare(msgspec.Struct, frozen=True, kw_only=True):
    """An endpoint that was made ahead: a pair with addresses, held like every endpoint without labels, for whoever comes next."""

    id: str
    addresses: tuple[Address, ...]
    mac: str
    mtu_bytes: int = 0
    """As the network that it was made for has it."""
    lent: tuple[Address, ...] = ()
    """Those of its addresses that the engine has."""
    since: datetime
    """When it was made, or lent last."""

    @property
    def name(self) -> str:
        """Return its name for the node's services, until an endpoint of the engine has it."""
        return spare_name(self.id)

    @property
    def interface(self) -> str:
        """Return the name of the far end until the engine renames it."""
        return spare_interface(self.id)


PREFIX = "docker/"


def spare_name(spare: str) -> str:
    """Return the name under which the node's services know a spare."""
    return f"{PREFIX}spare-{spare}"


def spare_interface(spare: str) -> str:
    """Return the name of the far end of a spare's pair."""
    return f"fls{spare[:11]}"


def endpoint_name(endpoint: str) -> str:
    """Return the name under which the node's services know the engine's endpoint."""
    return f"{PREFIX}{endpoint[:12].strip('-_')}"


Kept = Network | Endpoint | Spare
_FOLDERS = {Network: "networks", Endpoint: "endpoints", Spare: "spares"}


class State:
    """Networks and endpoints by the engine's ids, and spares by theirs."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writing = asyncio.Lock()
        self.networks: dict[str, Network] = {}
        self.endpoints: dict[str, Endpoint] = {}
        self.spares: dict[str, Spare] = {}

    def load(self) -> None:
        """Read what is on disk; a file that cannot be read is set aside, and said."""
        self.networks = {row.id: row for row in _read_all(self._path(Network), Network)}
        self.endpoints = {row.id: row for row in _read_all(self._path(Endpoint), Endpoint)}
        taken = {endpoint.spare for endpoint in self.endpoints.values()}
        self.spares = {row.id: row for row in _read_all(self._path(Spare), Spare)}
        for spare in taken & self.spares.keys():  # a kill came before its file was gone
            del self.spares[spare]
            self._file(Spare, spare).unlink(missing_ok=True)

    def _path(self, kind: type[Kept]) -> Path:
        return self._folder / _FOLDERS[kind]

    def _file(self, kind: type[Kept], row: str) -> Path:
        return self._path(kind) / f"{row}.json"

    async def put(self, row: Kept) -> None:
        """Remember the row; a network is on disk before this returns, what has a pair would not outlive a loss of power anyway."""
        rows = self._rows(row)
        # true before it is written: a change that comes meanwhile must build on it
        rows[row.id] = row
        async with self._writing:
            newest = rows.get(row.id)
            if newest is not None:
                path = self._file(type(row), row.id)
                data = msgspec.json.encode(_plain(newest))
                await asyncio.to_thread(_write, path, data, durable=isinstance(row, Network))

    def _rows(self, row: Kept) -> dict[str, Any]:
        if isinstance(row, Spare):
            return self.spares
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

    async def drop(self, row: Kept) -> None:
        """Forget the row."""
        self._rows(row).pop(row.id, None)
        async with self._writing:
            if row.id not in self._rows(row):
                await asyncio.to_thread(self._file(type(row), row.id).unlink, missing_ok=True)

    def holding(self, addresses: Iterable[Address]) -> list[Endpoint]:
        """Return the endpoints with one of these addresses."""
        wanted = set(addresses)
        return [endpoint for endpoint in self.endpoints.values() if wanted & set(endpoint.addresses)]

    def holds(self, address: Address) -> bool:
        """Tell whether an endpoint or a spare has the address."""
        return bool(self.holding((address,))) or any(address in spare.addresses for spare in self.spares.values())

    def names(self) -> set[str]:
        """Return the names under which the node's services may know our endpoints and spares."""
        spares = {*self.spares, *(one.spare for one in self.endpoints.values() if one.spare)}
        return {*(one.name for one in self.endpoints.values()), *map(spare_name, spares)}


T = TypeVar("T", Network, Endpoint, Spare)


def _read_all(folder: Path, kind: type[T]) -> Iterator[T]:
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(folder.glob("*.json")):
        try:
            yield codec.from_builtins(msgspec.json.decode(path.read_bytes()), kind)
        except (OSError, msgspec.DecodeError, InvalidInput, UnicodeDecodeError) as error:
            _LOG.error("%s cannot be read and is set aside: %s", path, error)
            path.rename(path.with_suffix(".unreadable"))


def _plain(row: Kept) -> object:
    return codec.to_builtins(row)


def _write(path: Path, data: bytes, *, durable: bool) -> None:
    fresh = path.with_suffix(".new")
    with fresh.open("wb") as file:
        file.write(data)
        if durable:
            file.flush()
            os.fsync(file.fileno())
    fresh.replace(path)
