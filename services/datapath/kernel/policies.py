"""Policy maps: one pinned table per endpoint in the documented layout, as large as its rows need.

A hash of 16384 costs 256 KiB when empty, and most endpoints have a dozen rows: so a table begins small and is exchanged
for a larger one when its rows would crowd it. The exchange is atomic for the programs, and the pin goes with it.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path

from services.datapath.kernel import abi, syscalls
from services.datapath.kernel.maps import Map, create_map, open_map
from services.datapath.operations import KernelError, PolicyCounters, PolicyKey, PolicyValue


class PolicyTables:
    """The policy maps of all endpoints, and the array by which programs find them."""

    def __init__(self, pin_directory: Path) -> None:
        self._directory = pin_directory
        self._slots: Map | None = None
        self._by_endpoint: dict[int, Map] = {}

    def open(self, slots: Map) -> None:
        """Use this array of maps."""
        self._slots = slots

    def close(self) -> None:
        """Close descriptors; the pins keep the maps."""
        for table in self._by_endpoint.values():
            table.close()
        self._by_endpoint.clear()

    def pin(self, endpoint: int) -> Path:
        """Return where the endpoint's policy map is pinned."""
        return self._directory / f"cilium_policy_{endpoint:05d}"

    def rows(self, endpoint: int) -> dict[PolicyKey, tuple[PolicyValue, PolicyCounters]]:
        """Return the endpoint's policy map; empty when it has none."""
        table = self.table(endpoint)
        packed = table.items() if table is not None else {}
        return {abi.unpack_policy_key(key): abi.unpack_policy_value(value) for key, value in packed.items()}

    def change(self, endpoint: int, puts: Mapping[PolicyKey, PolicyValue], deletes: Iterable[PolicyKey]) -> None:
        """Change the rows. Raises KernelError when they do not fit; then denies stand and allows may be missing."""
        refused = [key for key, value in puts.items() if value.proxy_port]
        if refused:
            raise KernelError(f"{refused[0]} asks for an L7 proxy, which this datapath does not have")
        # denies come first and go last, so that a change that breaks off lets through less, not more
        ordered = sorted(puts.items(), key=lambda row: not row[1].deny)
        rows = {abi.pack_policy_key(key): abi.pack_policy_value(value) for key, value in ordered}
        gone = [row for key in deletes if (row := abi.pack_policy_key(key)) not in rows]
        table = self._with_room(endpoint, len(rows))
        try:
            table.put_all(rows)
        except KernelError:
            # what goes may be what makes room
            table.delete_all(gone)
            table.put_all(rows)
        denies = {row for row in gone if (table.get(row) or bytes(3))[2] & 1}
        table.delete_all(sorted(gone, key=lambda row: row in denies))

    def delete(self, endpoint: int) -> None:
        """Remove the endpoint's policy map."""
        slot = struct.pack("=I", endpoint)
        if self._array.get(slot) is not None:
            self._array.delete(slot)
        table = self._by_endpoint.pop(endpoint, None)
        if table is not None:
            table.close()
        self.pin(endpoint).unlink(missing_ok=True)

    @property
    def _array(self) -> Map:
        if self._slots is None:
            raise KernelError("the kernel is not started: call start() first")
        return self._slots

    def table(self, endpoint: int) -> Map | None:
        """Return the endpoint's policy map, or None."""
        if endpoint not in self._by_endpoint:
            table = open_map(self.pin(endpoint), f"policy_{endpoint:05d}", abi.POLICY_MAP)
            if table is None:
                return None
            self._show(endpoint, table)
        return self._by_endpoint[endpoint]

    def _with_room(self, endpoint: int, more: int) -> Map:
        table = self.table(endpoint)
        rows = table.items() if table is not None else {}
        wanted = len(rows) + more
        size = next((size for size in abi.POLICY_SIZES if wanted * 4 <= size * 3), abi.POLICY_ENTRIES)
        if table is not None and table.spec.entries >= size:
            return table
        larger = self._exchange(endpoint, size, rows)
        if table is not None:
            table.close()
        return larger

    def _exchange(self, endpoint: int, size: int, rows: Mapping[bytes, bytes]) -> Map:
        pin = self.pin(endpoint)
        new = pin.with_name(pin.name + "_new")
        new.unlink(missing_ok=True)
        table = create_map(new, f"policy_{endpoint:05d}", dataclasses.replace(abi.POLICY_MAP, entries=size))
        table.put_all(rows)
        new.rename(pin)
        self._show(endpoint, table)
        return table

    def _show(self, endpoint: int, table: Map) -> None:
        """Let the programs see the table, unless they do: the kernel waits some 10 ms after each such write."""
        slot = struct.pack("=I", endpoint)
        if self._array.get(slot) != struct.pack("=I", syscalls.map_info(table.fd).map_id):
            self._array.put(slot, struct.pack("=i", table.fd))
        self._by_endpoint[endpoint] = table
