"""What ipam keeps: the node's state in one file, written whole, and the claims of all nodes in etcd."""

from __future__ import annotations

import os
from pathlib import Path

from fairlead import codec
from fairlead.address import Prefix
from fairlead.errors import InvalidInput, Unavailable
from fairlead.kv import Item
from fairlead.schema.base import Message, NodeNameField
from fairlead.schema.ipam import Lease
from services.ipam.model import State

CLAIMS = "fairlead/claims/"


class StoredClaim(Message, frozen=True, kw_only=True):
    """The value of a claim's key."""

    node: NodeNameField
    prefix: Prefix
    trace: str = ""


def claim_key(prefix: Prefix) -> str:
    """Return the key of a claim; the prefix's slash becomes an underscore."""
    return CLAIMS + prefix.replace("/", "_")


def read_claim(item: Item) -> StoredClaim | None:
    """Return the claim under a key, or None when nobody can read it."""
    try:
        return codec.decode(item.value, StoredClaim)
    except InvalidInput:
        return None


def claimed_prefix(item: Item) -> Prefix | None:
    """Return the prefix that a key takes, whatever its value: what cannot be read is taken all the same."""
    try:
        return Prefix(item.key.removeprefix(CLAIMS).replace("_", "/"))
    except InvalidInput:
        return None


class _File(Message, frozen=True, kw_only=True):
    """The file's content; `version` for whoever comes later."""

    version: int = 1
    node: NodeNameField
    prefixes: tuple[Prefix, ...] = ()
    leases: tuple[Lease, ...] = ()


class StateFile:
    """The state on disk. A crash leaves the old or the new file, never half of one."""

    def __init__(self, path: Path, node: str) -> None:
        self._path = path
        self._node = node

    def load(self) -> State:
        """Return what was saved, an empty state if nothing was. Raises Unavailable when the file cannot be used."""
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return State()
        except OSError as error:
            raise Unavailable(f"{self._path} cannot be read: {error.strerror}") from error
        try:
            file = codec.decode(data, _File) if data else None
        except InvalidInput as error:
            raise Unavailable(f"{self._path} is damaged ({error.message}): restore it, or remove it once") from error
        if file is None:
            raise Unavailable(f"{self._path} is empty: restore it, or remove it once no workload runs here")
        if file.node != self._node:
            raise Unavailable(f"{self._path} belongs to node {file.node}, this is {self._node}: set `node`, or move it")
        return State(file.prefixes, {lease.address: lease for lease in file.leases})

    def save(self, state: State) -> None:
        """Write the state, and return when it is on the disk. Raises Unavailable."""
        file = _File(node=self._node, prefixes=state.prefixes, leases=tuple(state.leases.values()))  # type: ignore[arg-type]  # a checked name
        partial = self._path.with_suffix(".tmp")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as out:
                out.write(codec.encode_json(file))
                out.flush()
                os.fsync(out.fileno())
            partial.replace(self._path)
            _sync_folder(self._path.parent)
        except OSError as error:
            raise Unavailable(f"{self._path} cannot be written: {error.strerror}") from error


def _sync_folder(folder: Path) -> None:
    """Make the renaming itself durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
