"""Address to identity: a hash for hosts, a trie for prefixes. Everybody stands here who is not a local endpoint.

There are hundreds of thousands of rows. Nothing here keeps them, and only `all` returns them.
"""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import cast

from fairlead.address import Address, Prefix
from services.datapath.addressmaps import AddressDrift
from services.datapath.kernel import abi
from services.datapath.kernel.maps import Map

_MAPPED = b"\0" * 10 + b"\xff\xff"
_FEW_BITS = b"\0" * 10
_KEY = struct.Struct("12s4s")
_IDENTITY_BYTES = 4


class AddressTables:
    """The two maps as one table of prefixes."""

    def __init__(self, exact: Map, ranges: Map) -> None:
        self._by_kind = {True: exact, False: ranges}

    def all(self) -> dict[Prefix, int]:
        """Return prefix to identity."""
        return {Prefix.trusted(text): identity for text, identity in self._rows()}

    def compare(self, want: Mapping[Prefix, int]) -> AddressDrift:
        """Compare all rows with what should be there; which are missing is looked up only when some are."""
        found, right = dict[Prefix, int](), 0
        wanted = cast("Mapping[str, int]", want)
        for text, identity in self._rows():
            if wanted.get(text) == identity:
                right += 1
            else:
                found[Prefix.trusted(text)] = identity
        if right + len(found.keys() & want.keys()) == len(want):
            return found, ()
        if not right and not found:
            return found, tuple(want)
        return found, tuple(prefix for prefix, stands in self.unlike(want).items() if stands is None)

    def unlike(self, rows: Mapping[Prefix, int]) -> dict[Prefix, int | None]:
        """Return what stands in the place of those rows that do not stand as they are given; None: nothing."""
        different: dict[Prefix, int | None] = {}
        for is_host, table in self._by_kind.items():
            mine = [prefix for prefix in rows if prefix.is_host is is_host]
            for prefix, value in zip(mine, _values(table, map(_row, mine)), strict=True):
                identity = None if value is None else _identity(value)
                if identity != rows[prefix]:
                    different[prefix] = identity
        return different

    def change(self, puts: Mapping[Prefix, int], deletes: Iterable[Prefix]) -> bool:
        """Change the rows; tell whether anything was different."""
        gone, changed = list(deletes), 0
        new = self.unlike(puts)
        for is_host, table in self._by_kind.items():
            table.put_all(
                {_row(prefix): struct.pack("=I", puts[prefix]) for prefix in new if prefix.is_host is is_host}
            )
            absent = [_row(prefix) for prefix in gone if prefix.is_host is is_host and prefix not in puts]
            changed += table.delete_all(absent)
        return len(new) + changed > 0

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

    def _rows(self) -> Iterator[tuple[str, int]]:
        """Yield the text of each prefix, and its identity: a Prefix of each would cost more than everything else here."""
        exact = self._by_kind[True]
        more_bytes = exact.spec.value_bytes - _IDENTITY_BYTES  # that other versions may have behind it
        split = struct.Struct(f"=I{more_bytes}x")
        for keys, values in exact.packed():
            for (head, tail), (identity,) in zip(_KEY.iter_unpack(keys), split.iter_unpack(values), strict=True):
                yield (socket.inet_ntoa(tail) + "/32" if head == _MAPPED else _host6(head + tail)), identity
        for row, value in self._by_kind[False].items().items():
            yield abi.unpack_prefix(row), _identity(value)


def _host6(packed: bytes) -> str:
    if packed.startswith(_FEW_BITS):  # the C library would write the last of them with dots
        return abi.unpack_address(packed).prefix
    return socket.inet_ntop(socket.AF_INET6, packed) + "/128"


def _identity(value: bytes) -> int:
    return int.from_bytes(value, sys.byteorder)


def _values(table: Map, keys: Iterable[bytes]) -> Iterator[bytes | None]:
    """Return what stands under each key. A trie answers with the longest match, which may be another row: only its list tells."""
    if table.spec.kind != "lpm_trie":
        return table.get_each(keys)
    asked = list(keys)
    rows = table.items() if asked else {}
    return iter([rows.get(key) for key in asked])


def _row(prefix: Prefix) -> bytes:
    if not prefix.is_host:
        return abi.pack_prefix(prefix)
    text = prefix.rpartition("/")[0]
    return socket.inet_pton(socket.AF_INET6, text) if ":" in text else _MAPPED + socket.inet_aton(text)
