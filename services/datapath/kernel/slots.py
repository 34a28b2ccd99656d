"""One pinned map per endpoint, and the array of maps by which programs find it."""

from __future__ import annotations

import dataclasses
import os
import struct
from collections.abc import Mapping
from concurrent import futures
from pathlib import Path

from services.datapath.kernel import abi, objects, syscalls
from services.datapath.kernel.maps import Map, create_map, open_map, refusals
from services.datapath.operations import KernelError

_GLANCE_S = 0.0002
_WAITERS = 8


class MapPerEndpoint:
    """The tables of one kind."""

    def __init__(self, pin_directory: Path, name: str, pin_prefix: str, spec: abi.MapSpec) -> None:
        self._directory, self._name, self._pin_prefix, self._spec = pin_directory, name, pin_prefix, spec
        self._slots: Map | None = None
        self._waiters = futures.ThreadPoolExecutor(_WAITERS, thread_name_prefix="slots")
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
        """Return where the endpoint's table is pinned."""
        return self._directory / f"{self._pin_prefix}{endpoint:05d}"

    def table(self, endpoint: int) -> Map | None:
        """Return the endpoint's table, or None."""
        if endpoint not in self._by_endpoint:
            table = open_map(self.pin(endpoint), f"{self._name}_{endpoint:05d}", self._spec)
            if table is None and self._pin_shown(endpoint):
                table = open_map(self.pin(endpoint), f"{self._name}_{endpoint:05d}", self._spec)
            if table is None:
                return None
            self._show(endpoint, table)
        return self._by_endpoint[endpoint]

    def mend(self, endpoint: int) -> None:
        """Make the pin and the programs mean one table: the pinned one, or without a pin the one that programs see."""
        if (known := self._by_endpoint.pop(endpoint, None)) is not None:
            if not self.pin(endpoint).exists() and not self._pin_shown(endpoint):
                syscalls.object_pin(known.fd, str(self.pin(endpoint)))
            known.close()
        self.table(endpoint)

    def _pin_shown(self, endpoint: int) -> bool:
        """Pin the table that programs see; tell whether there is one."""
        shown = self._array.get(struct.pack("=I", endpoint))
        if shown is None:
            return False
        with refusals(f"{self._name}_{endpoint:05d}"):
            fd = objects.map_by_id(struct.unpack("=I", shown)[0])
            try:
                syscalls.object_pin(fd, str(self.pin(endpoint)))
            finally:
                os.close(fd)
        return True

    def exchange(self, endpoint: int, size: int, rows: Mapping[bytes, bytes]) -> Map:
        """Put a new table of that size with these rows in the place of the one that stands."""
        pin, old = self.pin(endpoint), self._by_endpoint.get(endpoint)
        new = pin.with_name(pin.name + "_new")
        new.unlink(missing_ok=True)
        table = create_map(new, f"{self._name}_{endpoint:05d}", dataclasses.replace(self._spec, entries=size))
        table.put_all(rows)
        new.rename(pin)
        self._show(endpoint, table)
        if old is not None:
            old.close()
        return table

    def delete(self, endpoint: int) -> None:
        """Remove the endpoint's table."""
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

    def _show(self, endpoint: int, table: Map) -> None:
        """Let the programs see the table, unless they do.

        They see it as soon as it is written; the kernel then waits some 10 ms for programs that still run with the old one. Nothing
        here needs that, since flows are judged anew afterwards: another thread waits.
        """
        slot, seen = struct.pack("=I", endpoint), struct.pack("=I", syscalls.map_info(table.fd).map_id)
        if self._array.get(slot) != seen:
            writing = self._waiters.submit(self._array.put, slot, struct.pack("=i", table.fd))
            while not writing.done() and self._array.get(slot) != seen:
                futures.wait([writing], timeout=_GLANCE_S)
            if writing.done():
                writing.result()
        self._by_endpoint[endpoint] = table
