"""Policy maps: one pinned table per endpoint in the documented layout, and one for port ranges where it has any.

A hash of 16384 costs 256 KiB when empty, and most endpoints have a dozen rows: so a table begins small and is exchanged
for a larger one when its rows would crowd it. The exchange is atomic for the programs, and the pin goes with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from services.datapath.kernel import abi
from services.datapath.kernel.maps import Map
from services.datapath.kernel.slots import MapPerEndpoint
from services.datapath.operations import KernelError, PolicyCounters, PolicyKey, PolicyValue

Rows = dict[bytes, bytes]


class PolicyTables:
    """The policy maps of all endpoints, and their maps of port ranges."""

    def __init__(self, pin_directory: Path) -> None:
        self._exact = MapPerEndpoint(pin_directory, "policy", "cilium_policy_", abi.POLICY_MAP)
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

    def change(self, endpoint: int, puts: Mapping[PolicyKey, PolicyValue], deletes: Iterable[PolicyKey]) -> None:
        """Change the rows. Raises KernelError when they do not fit; then denies stand and allows may be missing."""
        _refuse(puts)
        exact, ranges = _rows(puts, of_ranges=False), _rows(puts, of_ranges=True)
        gone = [key for key in deletes if key not in puts]
        gone_exact = [abi.pack_policy_key(key) for key in gone if not key.port_bits]
        gone_ranges = [abi.pack_range_key(key) for key in gone if key.port_bits]
        parts = [(self._with_room(endpoint, len(exact)), exact, gone_exact)]
        if (table := self._with_ranges(endpoint, ranges)) is not None:
            parts.append((table, ranges, gone_ranges))
        # denies come first and go last, so that a change that breaks off lets through less, not more
        for denies in (True, False):
            for table, rows, leaving in parts:
                _put(table, {row: value for row, value in rows.items() if _denies(value) is denies}, leaving)
        standing = [(table, _items(table), leaving) for table, _, leaving in parts if leaving]
        for denies in (False, True):
            for table, have, leaving in standing:
                table.delete_all(row for row in leaving if row in have and _denies(have[row]) is denies)
        if gone_ranges and not _items(self.ranges(endpoint)):
            self._ranges.delete(endpoint)

    def delete(self, endpoint: int) -> None:
        """Remove the endpoint's maps."""
        self._exact.delete(endpoint)
        self._ranges.delete(endpoint)

    def _with_ranges(self, endpoint: int, rows: Rows) -> Map | None:
        table = self.ranges(endpoint)
        return self._ranges.exchange(endpoint, abi.POLICY_ENTRIES, {}) if table is None and rows else table

    def _with_room(self, endpoint: int, more: int) -> Map:
        table = self.table(endpoint)
        rows = _items(table)
        wanted = len(rows) + more
        size = next((size for size in abi.POLICY_SIZES if wanted * 4 <= size * 3), abi.POLICY_ENTRIES)
        if table is not None and table.spec.entries >= size:
            return table
        return self._exact.exchange(endpoint, size, rows)


def _refuse(puts: Mapping[PolicyKey, PolicyValue]) -> None:
    refused = [key for key, value in puts.items() if value.proxy_port]
    if refused:
        raise KernelError(f"{refused[0]} asks for an L7 proxy, which this datapath does not have")
    refused = [key for key in puts if not key.is_sound]
    if refused:
        raise KernelError(f"{refused[0]} is no block of ports of a protocol")


def _rows(puts: Mapping[PolicyKey, PolicyValue], *, of_ranges: bool) -> Rows:
    pack = abi.pack_range_key if of_ranges else abi.pack_policy_key
    return {pack(key): abi.pack_policy_value(value) for key, value in puts.items() if bool(key.port_bits) is of_ranges}


def _put(table: Map, rows: Rows, leaving: list[bytes]) -> None:
    try:
        table.put_all(rows)
    except KernelError:
        # what goes may be what makes room
        table.delete_all(leaving)
        table.put_all(rows)


def _items(table: Map | None) -> Rows:
    return table.items() if table is not None else {}


def _denies(value: bytes) -> bool:
    return bool(value[2] & 1)
