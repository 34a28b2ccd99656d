"""Policy maps: one pinned table per endpoint in the documented layout, and one for port ranges where it has any.

A hash of 16384 costs 256 KiB when empty, and most endpoints have a dozen rows: so a table begins small and is exchanged
for a larger one when its rows would crowd it. The exchange is atomic for the programs, and the pin goes with it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path

from services.datapath.kernel import abi
from services.datapath.kernel.maps import Map
from services.datapath.kernel.slots import MapPerEndpoint
from services.datapath.operations import KernelError, PolicyCounters, PolicyKey, PolicyValue

Rows = dict[bytes, bytes]
_PACKED_KEPT = 4
_WORD = _COUNTERS_AT = 8
"""Where in a value the counters begin."""


@dataclass(frozen=True)
class PackedRows:
    """Rows of one kind as the kernel takes them."""

    denies: Rows
    allows: Rows

    @cached_property
    def words(self) -> dict[int, int]:
        """Return the rows without their counters, as `Map.holds` wants them."""
        rows = (self.denies | self.allows).items()
        return {int.from_bytes(key, sys.byteorder): int.from_bytes(value[:8], sys.byteorder) for key, value in rows}

    @property
    def count(self) -> int:
        """Return how many they are."""
        return len(self.denies) + len(self.allows)

    def stand_in(self, table: Map | None) -> bool:
        """Tell whether the table has these rows and no others, whatever they have counted."""
        if table is not None and table.spec.key_bytes == _WORD and table.holds(self.words):
            return True
        have = _items(table)
        wanted = chain(self.denies.items(), self.allows.items())
        return len(have) == self.count and all(_is_same(have.get(key), value) for key, value in wanted)


class _Packed:
    """The rows of the entries met last: many endpoints share one policy, and packing costs more than writing."""

    def __init__(self) -> None:
        self._known: list[tuple[Mapping[PolicyKey, PolicyValue], tuple[PackedRows, PackedRows]]] = []

    def rows(self, entries: Mapping[PolicyKey, PolicyValue]) -> tuple[PackedRows, PackedRows]:
        """Return the exact rows and those of port ranges. Policies never change: the same object is the same."""
        for known, packed in self._known:
            if known is entries or known == entries:
                return packed
        packed = _pack(entries, of_ranges=False), _pack(entries, of_ranges=True)
        self._known = [(entries, packed), *self._known[: _PACKED_KEPT - 1]]
        return packed


class PolicyTables:
    """The policy maps of all endpoints, and their maps of port ranges."""

    def __init__(self, pin_directory: Path) -> None:
        self._exact = MapPerEndpoint(pin_directory, "policy", "cilium_policy_", abi.POLICY_MAP)
        self._packed = _Packed()
        self._ranges = MapPerEndpoint(pin_directory, "ranges", f"{abi.PIN_PREFIX}ranges_", abi.RANGE_MAP)

    def open(self, slots: Map, range_slots: Map) -> None:
        """Use these arrays of maps."""
        self._exact.open(slots)
        self._ranges.open(range_slots)

    def close(self) -> None:
        """Close descriptors; the pins keep the maps."""
        self._exact.close()
        self._ranges.close()

    def pin(self, endpoint: int) -> Path:
        """Return where the endpoint's policy map is pinned."""
        return self._exact.pin(endpoint)

    def table(self, endpoint: int) -> Map | None:
        """Return the endpoint's policy map, or None."""
        return self._exact.table(endpoint)

    def ranges(self, endpoint: int) -> Map | None:
        """Return the endpoint's map of port ranges, or None."""
        return self._ranges.table(endpoint)

    def rows(self, endpoint: int) -> dict[PolicyKey, tuple[PolicyValue, PolicyCounters]]:
        """Return the endpoint's policy map and its port ranges; empty when it has none."""
        exact = {abi.unpack_policy_key(key): value for key, value in _items(self.table(endpoint)).items()}
        ranges = {abi.unpack_range_key(key): value for key, value in _items(self.ranges(endpoint)).items()}
        return {key: abi.unpack_policy_value(value) for key, value in (exact | ranges).items()}

    def hold(self, endpoint: int, entries: Mapping[PolicyKey, PolicyValue]) -> bool:
        """Tell whether the endpoint's policy map is there, and it and the port ranges hold exactly these entries."""
        table, (exact, ranges) = self.table(endpoint), self._packed.rows(entries)
        return table is not None and exact.stand_in(table) and ranges.stand_in(self.ranges(endpoint))

    def change(self, endpoint: int, puts: Mapping[PolicyKey, PolicyValue], deletes: Iterable[PolicyKey]) -> None:
        """Change the rows. Raises KernelError when they do not fit; then denies stand and allows may be missing."""
        _refuse(puts)
        exact, ranges = self._packed.rows(puts)
        gone = [key for key in deletes if key not in puts]
        gone_exact = [abi.pack_policy_key(key) for key in gone if not key.port_bits]
        gone_ranges = [abi.pack_range_key(key) for key in gone if key.port_bits]
        parts = [(self._with_room(endpoint, exact.count), exact, gone_exact)]
        if (table := self._with_ranges(endpoint, ranges)) is not None:
            parts.append((table, ranges, gone_ranges))
        # denies come first and go last, so that a change that breaks off lets through less, not more
        for denies in (True, False):
            for table, rows, leaving in parts:
                _put(table, rows.denies if denies else rows.allows, leaving)
        standing = [(table, _items(table), leaving) for table, _, leaving in parts if leaving]
        for denies in (False, True):
            for table, have, leaving in standing:
                table.delete_all(row for row in leaving if row in have and _denies(have[row]) is denies)
        if gone_ranges and not _items(self.ranges(endpoint)):
            self._ranges.delete(endpoint)

    def mend(self, endpoint: int) -> None:
        """Make pins and programs mean the same maps."""
        self._exact.mend(endpoint)
        self._ranges.mend(endpoint)

    def delete(self, endpoint: int) -> None:
        """Remove the endpoint's maps."""
        self._exact.delete(endpoint)
        self._ranges.delete(endpoint)

    def _with_ranges(self, endpoint: int, rows: PackedRows) -> Map | None:
        table = self.ranges(endpoint)
        return self._ranges.exchange(endpoint, abi.POLICY_ENTRIES, {}) if table is None and rows.count else table

    def _with_room(self, endpoint: int, more: int) -> Map:
        table = self.table(endpoint)
        if table is not None and table.spec.entries >= abi.POLICY_ENTRIES:
            return table  # there is no larger one: to count what stands would cost more than the change
        wanted = more + (table.count() if table is not None else 0)
        size = next((size for size in abi.POLICY_SIZES if wanted * 4 <= size * 3), abi.POLICY_ENTRIES)
        if table is not None and table.spec.entries >= size:
            return table
        return self._exact.exchange(endpoint, size, _items(table))


def _refuse(puts: Mapping[PolicyKey, PolicyValue]) -> None:
    refused = [key for key, value in puts.items() if value.proxy_port]
    if refused:
        raise KernelError(f"{refused[0]} asks for an L7 proxy, which this datapath does not have")
    refused = [key for key in puts if not key.is_sound]
    if refused:
        raise KernelError(f"{refused[0]} is no block of ports of a protocol")


def _pack(entries: Mapping[PolicyKey, PolicyValue], *, of_ranges: bool) -> PackedRows:
    pack = abi.pack_range_key if of_ranges else abi.pack_policy_key
    by_deny: dict[bool, Rows] = {True: {}, False: {}}
    for key, value in entries.items():
        if bool(key.port_bits) is of_ranges:
            by_deny[value.deny][pack(key)] = abi.pack_policy_value(value)
    return PackedRows(by_deny[True], by_deny[False])


def _put(table: Map, rows: Rows, leaving: list[bytes]) -> None:
    try:
        table.put_all(rows)
    except KernelError:
        # what goes may be what makes room
        table.delete_all(leaving)
        table.put_all(rows)


def _items(table: Map | None) -> Rows:
    return table.items() if table is not None else {}


def _is_same(have: bytes | None, want: bytes) -> bool:
    return have is not None and (
        have[:_COUNTERS_AT] == want[:_COUNTERS_AT]
        or abi.unpack_policy_value(have)[0] == abi.unpack_policy_value(want)[0]
    )


def _denies(value: bytes) -> bool:
    return bool(value[2] & 1)
