"""Address to identity: a hash for hosts, a trie for prefixes. Everybody stands here who is not a local endpoint."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping

from fairlead.address import Address, Prefix
from services.datapath.kernel import abi
from services.datapath.kernel.maps import Map

_FEW = 16384
"""Keys that are asked for one by one; above that the whole table is listed, which costs as much as some 100 000 of them."""
_MAPPED = b"\0" * 10 + b"\xff\xff"


class AddressTables:
    """The two maps as one table of prefixes."""

    def __init__(self, exact: Map, ranges: Map) -> None:
        self._by_kind = {True: exact, False: ranges}

    def all(self) -> dict[Prefix, int]:
        """Return prefix to identity."""
        exact = {_host(row): value for row, value in self._by_kind[True].items().items()}
        ranges = {abi.unpack_prefix(row): value for row, value in self._by_kind[False].items().items()}
        return {prefix: _identity(value) for prefix, value in (exact | ranges).items()}

    def change(self, puts: Mapping[Prefix, int], deletes: Iterable[Prefix]) -> bool:
        """Change the rows; tell whether anything was different."""
        gone, changed = list(deletes), 0
        for is_host, table in self._by_kind.items():
            rows = {_row(prefix): struct.pack("=I", puts[prefix]) for prefix in puts if prefix.is_host is is_host}
            have = _rows(table, rows)
            new = {row: value for row, value in rows.items() if have.get(row) != value}
            table.put_all(new)
            absent = [row for prefix in gone if prefix.is_host is is_host and (row := _row(prefix)) not in rows]
            changed += len(new) + table.delete_all(absent)
        return changed > 0

    def find(self, address: Address) -> tuple[Prefix, int] | None:
        """Return what the programs would find."""
        value = self._by_kind[True].get(abi.pack_address(address))
        if value is not None:
            return address.prefix, _identity(value)
        rows = self._by_kind[False].items()
        covering = {prefix: value for row, value in rows.items() if address in (prefix := abi.unpack_prefix(row))}
        if not covering:
            return None
        longest = max(covering, key=lambda prefix: prefix.length)
        return longest, _identity(covering[longest])


def _host(row: bytes) -> Prefix:
    """Return the host prefix of a row; there are hundreds of thousands, so the text of IPv4 is not read again."""
    if row.startswith(_MAPPED):
        return Prefix.trusted(f"{row[12]}.{row[13]}.{row[14]}.{row[15]}/32")
    return abi.unpack_address(row).prefix


def _identity(value: bytes) -> int:
    return int(struct.unpack("=I", value)[0])


def _rows(table: Map, keys: Iterable[bytes]) -> Mapping[bytes, bytes]:
    asked = list(keys)
    # a trie answers with the longest match, which may be another row: only its list tells what it holds
    if asked and (table.spec.kind == "lpm_trie" or len(asked) > _FEW):
        return table.items()
    return {key: value for key in asked if (value := table.get(key)) is not None}


def _row(prefix: Prefix) -> bytes:
    return abi.pack_address(prefix.address) if prefix.is_host else abi.pack_prefix(prefix)
