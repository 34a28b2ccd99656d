"""Prefix to the node that has it: what the programs ask when a packet leaves for another node inside a tunnel."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from fairlead.address import Address, Prefix
from services.datapath.kernel import abi
from services.datapath.kernel.maps import Map


class TunnelTable:
    """The trie as a table of prefixes."""

    def __init__(self, table: Map) -> None:
        self._table = table

    def all(self) -> dict[Prefix, Address]:
        """Return prefix to the node's address outside."""
        rows = self._table.items().items()
        return {abi.unpack_prefix(key): abi.unpack_address(value) for key, value in rows}

    def change(self, puts: Mapping[Prefix, Address], deletes: Iterable[Prefix]) -> None:
        """Write and remove rows; the new ones first, so that a prefix whose node changes is never without one."""
        self._table.put_all({abi.pack_prefix(prefix): abi.pack_address(node) for prefix, node in puts.items()})
        self._table.delete_all([abi.pack_prefix(prefix) for prefix in deletes if prefix not in puts])
