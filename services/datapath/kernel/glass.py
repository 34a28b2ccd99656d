"""Broken glass: which endpoints pass what their policies deny, and until when. Needs the pins and the right to open them, nothing else.

The service reads the rows and removes those of endpoints that go; only a person's command (`services.datapath.emergency`) writes any. The
programs compare with CLOCK_MONOTONIC, so a row ends by itself, whoever lives; rows whose time has come mean nothing.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from services.datapath.kernel import abi, objects, syscalls
from services.datapath.kernel.maps import Map, open_map
from services.datapath.operations import KernelError

WHOLE_NODE = 0
"""Stands where an endpoint's number does."""
_NAME = "break_glass"
_SHAPE = abi.map_specs(1, 1)[_NAME]


def read(table: Map) -> dict[int, int]:
    """Return until when the glass is broken, in nanoseconds of CLOCK_MONOTONIC, by endpoint number; ended rows too."""
    return {
        int(struct.unpack("=I", key)[0]): int(abi.BREAK_GLASS.unpack(value)[0]) for key, value in table.items().items()
    }


def forget(table: Map, endpoint: int) -> None:
    """Remove the endpoint's row: whoever gets its number next has broken nothing."""
    table.delete(struct.pack("=I", endpoint))


class PinnedGlass:
    """The rows of a node, opened by their pin."""

    def __init__(self, table: Map, states: Map) -> None:
        self._table, self._states = table, states

    def rows(self) -> dict[int, int]:
        """Return until when the glass is broken, in nanoseconds of CLOCK_MONOTONIC, by endpoint number; ended rows too."""
        return read(self._table)

    def is_present(self, endpoint: int) -> bool:
        """Tell whether the programs know an endpoint of this number."""
        return self._flags(endpoint) & abi.ENDPOINT_PRESENT != 0

    def is_held(self, endpoint: int) -> bool:
        """Tell whether the endpoint is held: then nothing of it passes, broken glass or not."""
        return self._flags(endpoint) & abi.ENDPOINT_HELD != 0

    def _flags(self, endpoint: int) -> int:
        packed = self._states.get(struct.pack("=I", endpoint))
        return abi.EndpointState(*abi.ENDPOINT_STATE.unpack(packed)).flags if packed else 0

    def put(self, rows: Mapping[int, int]) -> None:
        """Break the glass of these endpoints until then. Raises KernelError."""
        self._table.put_all({struct.pack("=I", number): abi.BREAK_GLASS.pack(until) for number, until in rows.items()})

    def remove(self, endpoint: int) -> bool:
        """Make the glass whole again; tell whether there was a row."""
        return self._table.delete(struct.pack("=I", endpoint))


@contextmanager
def pinned(directory: Path) -> Iterator[PinnedGlass]:
    """Open the rows of the node whose maps are pinned there. Raises KernelError where no program would look at them."""
    opened = [_open(directory, name) for name in (_NAME, "endpoint_state")]
    try:
        _require_use(directory, opened[0])
        yield PinnedGlass(*opened)
    finally:
        for table in opened:
            table.close()


def _open(directory: Path, name: str) -> Map:
    pin = directory / f"{abi.PIN_PREFIX}{name}"
    table = open_map(pin, name, abi.map_specs(1, 1)[name])
    if table is None:
        raise KernelError(
            f"{pin} is not there: give the node's pin directory (--pins, or `pin_directory` of its datapath); maps of a "
            f"datapath older than break-glass have no such row, then use the policy map: docs/datapath.md"
        )
    return table


def _require_use(directory: Path, table: Map) -> None:
    """Raise KernelError unless the pods' program reads this very map: an older version's would leave it unread."""
    pin = directory / f"{abi.PIN_PREFIX}from_pod"
    try:
        fd = syscalls.object_get(str(pin))
    except OSError as error:
        raise KernelError(f"the program {pin} cannot be opened ({error.strerror}): is a datapath attached?") from error
    try:
        if syscalls.map_info(table.fd).map_id not in objects.program_maps(fd):
            raise KernelError(
                f"the programs of {directory} do not know break-glass: start this version's datapath once"
            )
    finally:
        os.close(fd)
