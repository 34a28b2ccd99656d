"""Everybody who may speak on the bus: a register without secrets, seeds in files of their own, and the servers' configurations made from both.

The folder:
    register.json             who there is, with public keys; no secret in it
    authority.crt, .key       vouches for the hub
    hub/                      nats.conf, hub.crt, hub.key: for the hub
    etcd/                     etcd.crt, etcd.key, authority.crt: for the store
    etcd-root.crt, .key       may do everything in the store; stays where credentials are made
    nodes/<node>/             nats.conf, authority.crt and the seeds of the node's own services: for that node
    <name>.crt, .key          beside the seeds of those who use the store: identity, policy and each node's ipam
    <name>.nk                 seeds of cluster services, other systems and operators
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path

import msgspec
import nkeys

from clients.cli import rights
from clients.cli.files import write_secret
from clients.cli.rights import Rights
from fairlead.errors import Conflict, InvalidInput, NotFound
from fairlead.schema.base import NodeName


class Kind(StrEnum):
    """What a credential is for."""

    NODE = "node"
    SERVICE = "service"
    SYSTEM = "system"
    OPERATOR = "operator"


class Holder(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody with a credential. `keys` are the public keys that count, the newest first: two while a rotation is under way."""

    name: str
    kind: Kind
    keys: tuple[str, ...]
    issued: datetime
    may: tuple[str, ...] = ()
    service: str = ""
    """The cluster service of which it is a replica."""
    node: str = ""
    """Set for those that speak at this node's own server."""


class Register(msgspec.Struct, frozen=True, kw_only=True):
    """Everybody, and where the hub is."""

    hosts: tuple[str, ...]
    """Names and addresses under which nodes and clients reach the hub."""
    store: str = "/data"
    """Where the hub keeps its messages."""
    place: str = "/etc/nats"
    """Where a server finds its folder (containers mount it there); empty: it stays where it was made."""
    tree: str = ""
    """Where a server finds this folder, or its own part of it; empty: `place` counts."""
    user: int = 0
    """As whom the hub, leaves, cluster services and ipam run, where that is not root: the number of the user."""
    holders: tuple[Holder, ...] = ()

    def place_of(self, folder: Path, part: str) -> str:
        """Return where the server of this part (`hub`, `nodes/<node>`) finds its files; they are made in `folder`."""
        return f"{self.tree}/{part}" if self.tree else self.place or str(folder)

    def find(self, name: str) -> Holder:
        """Return the holder of that name. Raises NotFound."""
        for holder in self.holders:
            if holder.name == name:
                return holder
        raise NotFound(f"nobody is called {name}: `fairlead credentials list` shows all")

    def parts(self, name: str) -> tuple[Holder, ...]:
        """Return a holder, and for a node those who speak at its server too."""
        found = self.find(name)
        return (found, *(one for one in self.holders if found.kind is Kind.NODE and one.node == name))

    def with_holder(self, holder: Holder) -> Register:
        """Return the register with this holder added, or replaced."""
        others = tuple(one for one in self.holders if one.name != holder.name)
        return msgspec.structs.replace(self, holders=tuple(sorted((*others, holder), key=lambda one: one.name)))

    def without(self, name: str) -> Register:
        """Return the register without a holder, nor those who speak at its server."""
        gone = {holder.name for holder in self.parts(name)}
        return msgspec.structs.replace(self, holders=tuple(one for one in self.holders if one.name not in gone))


@dataclass(frozen=True)
class Issued:
    """New credentials: the register with them, and the seeds by holder."""

    register: Register
    seeds: dict[str, bytes]


def issue(
    register: Register, name: str, kind: Kind, now: datetime, may: Iterable[str] = (), service: str = ""
) -> Issued:
    """Return a new holder's credentials; a node's services get theirs with it. Raises Conflict when the name is taken."""
    if any(holder.name == name for holder in register.holders):
        raise Conflict(f"{name} has a credential: `rotate` gives it a new one, `revoke` takes it away")
    wanted = [Holder(name=name, kind=kind, keys=(), issued=now, may=tuple(may), service=service)]
    if kind is Kind.NODE:
        wanted += _services(name, now)
    return _with_keys(register, wanted, now, keep=0)


def rotate(register: Register, name: str, now: datetime) -> Issued:
    """Return new seeds for a holder; its old keys count until `finish`. A node gets what an earlier version did not give it."""
    parts = register.parts(name)
    missing = () if parts[0].kind is not Kind.NODE else _services(name, now)
    known = {holder.name for holder in parts}
    return _with_keys(register, (*parts, *(one for one in missing if one.name not in known)), now, keep=1)


def _services(node: str, now: datetime) -> list[Holder]:
    """Return those who speak at a node's server, without keys yet."""
    return [
        Holder(name=f"{node}.{who}", kind=Kind.SERVICE, keys=(), issued=now, node=node) for who in rights.NODE_CLIENTS
    ]


def finish(register: Register, name: str) -> Register:
    """Return the register in which only the newest keys of a holder count."""
    for holder in register.parts(name):
        register = register.with_holder(msgspec.structs.replace(holder, keys=holder.keys[:1]))
    return register


def _with_keys(register: Register, holders: Iterable[Holder], now: datetime, keep: int) -> Issued:
    seeds = {}
    for holder in holders:
        seed = bytes(nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER))
        public = nkeys.from_seed(bytearray(seed)).public_key.decode()
        seeds[holder.name] = seed
        keys = (public, *holder.keys[:keep])
        register = register.with_holder(msgspec.structs.replace(holder, keys=keys, issued=now))
    return Issued(register, seeds)


def rights_of(holder: Holder) -> Rights:
    """Return what a holder may do where it connects."""
    if holder.node:
        return rights.of_node_client(NodeName(holder.node), holder.name.removeprefix(f"{holder.node}."))
    match holder.kind:
        case Kind.NODE:
            return rights.of_node(NodeName(holder.name))
        case Kind.SERVICE:
            return rights.of_service(holder.name, holder.service)
        case Kind.SYSTEM:
            return rights.of_system(holder.name, holder.may)
        case Kind.OPERATOR:
            return rights.of_operator(holder.name, holder.may)


def users(holders: Iterable[Holder]) -> str:
    """Return the `authorization` block of a server for these holders."""
    lines = [line for holder in holders for line in _user_lines(holder)]
    return "authorization {\n  timeout: 5\n  users: [\n" + "".join(f"    {line}\n" for line in lines) + "  ]\n}\n"


def _user_lines(holder: Holder) -> Iterator[str]:
    granted = rights_of(holder)
    publish, subscribe = json.dumps(granted.publish), json.dumps(granted.subscribe)
    permissions = f"publish: {{ allow: {publish} }}, subscribe: {{ allow: {subscribe} }}"
    for key in holder.keys:
        yield f"# {holder.name}"
        yield f"{{ nkey: {key}, permissions: {{ {permissions} }} }}"


class Keyring:
    """The folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def load(self) -> Register:
        """Return the register. Raises NotFound before `init`, InvalidInput when it cannot be read."""
        path = self.folder / "register.json"
        try:
            return msgspec.json.decode(path.read_bytes(), type=Register)
        except FileNotFoundError as error:
            raise NotFound(f"{path} is not there: `fairlead credentials init` makes it") from error
        except msgspec.MsgspecError as error:
            raise InvalidInput(f"{path} cannot be read: {error}") from error

    def save(self, register: Register, seeds: dict[str, bytes]) -> None:
        """Write seeds first, then the register: a holder that is known has its seed."""
        for name, seed in seeds.items():
            write_secret(self.seed_file(register.find(name)), seed)
        write_secret(self.folder / "register.json", msgspec.json.format(msgspec.json.encode(register)) + b"\n")

    def hand_over(self, register: Register) -> None:
        """Give the files to whoever needs them without being root. Raises InvalidInput when we may not."""
        if not register.user:
            return
        nodes = [self.node_folder(one.name) for one in register.holders if one.kind is Kind.NODE]
        replicas = [one for one in register.holders if one.kind is Kind.SERVICE and not one.node]
        servers = [folder for folder in (self.folder / "hub", self.folder / "etcd") if folder.is_dir()]
        theirs = [self.folder / "authority.crt", *(path for folder in servers for path in folder.iterdir())]
        theirs += [path for one in replicas for path in self.folder.glob(f"{one.name}.*")]
        theirs += [path for folder in nodes for path in folder.glob(f"{folder.name}.ipam.*")]
        theirs += [folder / name for folder in nodes for name in ("nats.conf", "authority.crt")]
        try:
            for folder in (self.folder, *servers, *nodes, *(folder.parent for folder in nodes)):
                folder.chmod(0o755)
            for path in theirs:
                os.chown(path, register.user, register.user)
        except PermissionError as error:
            raise InvalidInput(f"`--user`: {error}: run this as root, or as that user") from error

    def seed_file(self, holder: Holder) -> Path:
        """Return where a holder's seed is; the file's name is the holder's, since inboxes are made of it."""
        place = self.node_folder(holder.node or holder.name) if holder.node or holder.kind is Kind.NODE else self.folder
        return place / f"{holder.name}.nk"

    def certificate(self, holder: Holder) -> Path:
        """Return where the certificate is with which a holder uses the store; its key is beside it."""
        return self.seed_file(holder).with_suffix(".crt")

    def node_folder(self, node: str) -> Path:
        """Return what is for one node."""
        return self.folder / "nodes" / node

    def forget(self, holders: Iterable[Holder]) -> None:
        """Remove seeds that mean nothing any more."""
        for holder in holders:
            for path in (
                self.seed_file(holder),
                self.certificate(holder),
                self.certificate(holder).with_suffix(".key"),
            ):
                path.unlink(missing_ok=True)
