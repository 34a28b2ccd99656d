"""Where every address belongs: groups of addresses by node, and nodes. Pure: it is fed, and asked.

An address of one of our endpoints is in the group of its node. Any other address is in the group of the node that has its host's
address, or, if there is none, in one of sixteen shards.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec

from fairlead import codec
from fairlead.address import Address, Prefix
from fairlead.errors import InvalidInput
from fairlead.kv import Item
from fairlead.schema.base import IdentityId, NodeName, NodeNameField
from fairlead.schema.identity import AddressEntry, AddressGroup, NodeRow
from services.identity.cilium import AddressValue, read_address, read_node
from services.identity.keys import SHARDS, Keys, node_of, shard
from services.identity.store import Note


@dataclass(frozen=True, slots=True)
class _Placed:
    """One address in its group."""

    entry: AddressEntry
    owner_node: str
    group: str
    revision: int
    trace: str


class Places:
    """All addresses and nodes of one cluster.

    `groups` and `nodes` collect which rows may have changed, groups in the order to write them: a group that gains an address stands
    before the one that loses it, so that no reader misses the address in between.
    """

    def __init__(self, names: Keys) -> None:
        self._keys = names
        self.groups: dict[str, None] = {}
        self.nodes: dict[str, None] = {}
        self._placed: dict[str, _Placed] = {}
        self._placed_by_group: dict[str, dict[str, _Placed]] = defaultdict(dict)
        self._names_by_host: dict[Address, set[str]] = defaultdict(set)
        self._nodes: dict[str, NodeRow] = {}
        self._nodes_by_address: dict[Address, set[str]] = defaultdict(set)
        self._notes: dict[str, tuple[int, str]] = {}

    @property
    def prefixes(self) -> Iterator[Prefix]:
        """Return every prefix known."""
        return (placed.entry.prefix for placed in self._placed.values())

    def put_note(self, name: str, item: Item) -> None:
        """Take what last changed a group."""
        self._notes[name] = (item.revision, codec.decode(item.value, Note).trace)
        self.groups.setdefault(name)

    def put_address(self, name: str, item: Item) -> None:
        """Take an address. Raises InvalidInput."""
        value = read_address(name, item.value)
        entry = AddressEntry(prefix=value.prefix, identity=IdentityId(value.id), host=value.host, name=value.pod_name)
        self._place(name, entry, node_of(value.owner), item.revision, _trace(value))

    def _place(self, name: str, entry: AddressEntry, owner_node: str, revision: int, trace: str) -> None:
        """Put the address into its group; out of the old one only afterwards."""
        old = self._placed.get(name)
        placed = _Placed(entry, owner_node, self._group_of(entry, owner_node), revision, trace)
        self.groups.setdefault(placed.group)
        if old is not None:
            self._unplace(name, old)
        self._placed[name] = placed
        self._placed_by_group[placed.group][name] = placed
        if entry.host is not None:
            self._names_by_host[entry.host].add(name)

    def _unplace(self, name: str, old: _Placed) -> None:
        del self._placed[name]
        del self._placed_by_group[old.group][name]
        if old.entry.host is not None:
            self._names_by_host[old.entry.host].discard(name)
        self.groups.setdefault(old.group)

    def drop_address(self, name: str, revision: int) -> None:
        """Forget an address."""
        old = self._placed.get(name)
        if old is not None:
            self._unplace(name, old)
            self._notes[old.group] = max(self._notes.get(old.group, (0, "")), (revision, ""))

    def _group_of(self, entry: AddressEntry, owner_node: str) -> str:
        """Return the owner's node, else the node that has the host's address, else a shard."""
        if owner_node:
            return owner_node
        nodes = self._nodes_by_address.get(entry.host) if entry.host else None
        return min(nodes) if nodes else shard(entry.prefix)

    def put_node(self, name: str, item: Item) -> None:
        """Take a node. Raises InvalidInput."""
        node = _node_name(name)
        value = read_node(node, self._keys.cluster, item.value)
        trace = value.fairlead.trace if value.fairlead else ""
        row = NodeRow(
            node=node,
            addresses=value.node_addresses(),
            prefixes=value.prefixes(),
            labels=value.node_labels(),
            revision=item.revision,
            trace=trace,
        )
        self._set_node(name, row)

    def drop_node(self, name: str, _revision: int) -> None:
        """Forget a node; its addresses stay known."""
        if name in self._nodes:
            self._set_node(name, None)

    def _set_node(self, name: str, row: NodeRow | None) -> None:
        old = self._nodes.pop(name, None)
        for address in old.addresses if old else ():
            self._nodes_by_address[address].discard(name)
        for address in row.addresses if row else ():
            self._nodes_by_address[address].add(name)
        if row is not None:
            self._nodes[name] = row
        self.nodes[name] = None
        hosts = {*(old.addresses if old else ()), *(row.addresses if row else ())}
        for moved in sorted(name for host in hosts for name in self._names_by_host.get(host, ())):
            placed = self._placed[moved]
            if self._group_of(placed.entry, placed.owner_node) != placed.group:
                self._place(moved, placed.entry, placed.owner_node, placed.revision, placed.trace)
        self.groups.setdefault(name)

    def group_row(self, group: str) -> AddressGroup | None:
        """Return the row of a group; None for one that is empty and belongs to no node or shard."""
        placed = self._placed_by_group.get(group, {})
        if not placed and group not in self._nodes and not group.startswith("external-"):
            return None
        revision, trace = max(
            [self._notes.get(group, (0, "")), *((entry.revision, entry.trace) for entry in placed.values())]
        )
        entries = tuple(placed[name].entry for name in sorted(placed))
        return AddressGroup(group=group, entries=entries, revision=revision, trace=trace)

    def node_row(self, node: str) -> NodeRow | None:
        """Return the row of a node, or None."""
        return self._nodes.get(node)

    def group_rows(self) -> dict[str, AddressGroup]:
        """Return every group row by key; every shard has one, so that a reader can tell empty from missing."""
        groups = {*self._placed_by_group, *self._nodes, *(f"external-{number}" for number in range(SHARDS))}
        return {group: row for group in sorted(groups) if (row := self.group_row(group)) is not None}

    def node_rows(self) -> dict[str, NodeRow]:
        """Return every node row by key."""
        return dict(self._nodes)


def _trace(value: AddressValue) -> str:
    return value.fairlead.trace if value.fairlead else ""


def _node_name(text: str) -> NodeName:
    try:
        return NodeName(msgspec.convert(text, NodeNameField))
    except msgspec.ValidationError as error:
        raise InvalidInput(f"{text!r} is no node name: {error}") from error
