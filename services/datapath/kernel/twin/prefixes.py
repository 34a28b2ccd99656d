"""Prefixes of both families, and what stands for the longest one that holds an address."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Generic, TypeVar

from fairlead.address import Prefix
from services.datapath.kernel.abi import pack_address

_ALL_BITS = 128
_MAPPED_BITS = 96

Value = TypeVar("Value")


class PrefixTable(Generic[Value]):
    """Prefix to value, asked by packed address."""

    def __init__(self, rows: Mapping[Prefix, Value] | None = None) -> None:
        self.given = dict(rows or {})
        found: dict[tuple[int, int], dict[int, Value]] = defaultdict(dict)
        for prefix, value in self.given.items():
            bits = prefix.length + (_MAPPED_BITS if prefix.family == 4 else 0)
            number = int.from_bytes(pack_address(prefix.address), "big") >> _ALL_BITS - bits
            found[int(prefix.family), bits][number] = value
        self._by_length = dict(sorted(found.items(), reverse=True))

    def best(self, address: bytes, family: int) -> Value | None:
        """Return what stands for the longest prefix that holds the address."""
        number = int.from_bytes(address, "big")
        for (of_family, bits), known in self._by_length.items():
            if of_family == family and (value := known.get(number >> _ALL_BITS - bits)) is not None:
                return value
        return None

    def exact(self, address: bytes, family: int) -> Value | None:
        """Return what stands for the address alone."""
        return self._by_length.get((family, _ALL_BITS), {}).get(int.from_bytes(address, "big"))
