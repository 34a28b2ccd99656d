"""Moves pinned maps to the shape of this version while the programs of another version run on the old ones.

Versions may differ in how long the values are: structs grow at their end, and zero there means as before. So a value is moved by
padding it, or by cutting it when an older version comes back. Keys and kinds never change in that way.

Order, so that a kill at any point is finished by the next start: the new map is filled beside the old one; the old one is pinned a
second time (`_old_` and its number); the new one takes the old one's name. Programs that still run go on with the old map, so what they
recorded meanwhile is brought over before the new programs are attached and once more after; then the old map goes. A start that was
killed leaves its old maps pinned, because nobody knows which of them programs still use: the next one brings over all.
"""

from __future__ import annotations

import dataclasses
import os
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from services.datapath.kernel import abi, syscalls
from services.datapath.kernel.maps import Map, create_map, open_any, possible_cpus, unknown_shape
from services.datapath.operations import KernelError

_FORGETFUL = frozenset({"denials", "masquerade_scratch", "scratch"})
"""Maps that may begin empty."""


def check_schema(schema: int, oldest_reader: int) -> None:
    """Raise KernelError if maps of that schema cannot be moved to the shape of this version."""
    known = schema >= abi.OLDEST_READER if schema <= abi.SCHEMA_VERSION else 0 < oldest_reader <= abi.SCHEMA_VERSION
    if schema and not known:
        raise KernelError(
            f"the maps have schema {schema}, which this version (schema {abi.SCHEMA_VERSION}) does not know: run the "
            f"version that made them, or remove the node's datapath (destroy) and start anew"
        )


def resized(value: bytes, size: int) -> bytes:
    """Return the value of another version in this one's length."""
    return value[:size].ljust(size, b"\0")


class Migration:
    """The move of one pin directory's maps."""

    def __init__(self, pin_directory: Path, specs: Mapping[str, abi.MapSpec]) -> None:
        self._directory, self._specs = pin_directory, specs

    def begin(self) -> tuple[str, ...]:
        """Give every map of another shape a filled successor under its name; return which they were. Raises KernelError before any."""
        for name, spec in self._specs.items():
            self._refuse_foreign(name, spec)
        stale = [name for name in self._specs if self._replace(name)]
        return tuple(stale)

    def catch_up(self, *, attached: bool) -> int:
        """Bring over what programs recorded in old maps meanwhile; `attached`: newer programs may have written, which counts."""
        recorded = [name for name, spec in self._specs.items() if spec.kind == "lru_hash"]
        return sum(self._catch_up(name, pin, attached) for name in recorded for pin in self._olds(name))

    @contextmanager
    def undisturbed(self) -> Iterator[None]:
        """Have everybody else on this processor wait while flows are between two tables: replies to those begun then are not known."""
        if not any(self._olds(name) for name in self._specs):
            yield
            return
        policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
        with suppress(OSError):  # a container may not be allowed to
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
        try:
            yield
        finally:
            with suppress(OSError):
                os.sched_setscheduler(0, policy, parameters)

    def finish(self) -> None:
        """Let the old maps go, and what a killed start left half filled."""
        for name in self._specs:
            for pin in (self._pin(name, "_new"), *self._olds(name)):
                pin.unlink(missing_ok=True)

    def _pin(self, name: str, suffix: str = "") -> Path:
        return self._directory / f"{abi.PIN_PREFIX}{name}{suffix}"

    def _refuse_foreign(self, name: str, wanted: abi.MapSpec) -> None:
        found = open_any(self._pin(name), name)
        if found is None:
            return
        found.close()
        if (found.spec.kind, found.spec.key_bytes) != (wanted.kind, wanted.key_bytes):
            raise unknown_shape(self._pin(name), found.spec)

    def _olds(self, name: str) -> list[Path]:
        return sorted(self._directory.glob(f"{abi.PIN_PREFIX}{name}_old_*"))

    def _replace(self, name: str) -> bool:
        wanted, old = self._specs[name], open_any(self._pin(name), name)
        if old is None:
            return False
        try:
            if old.spec.value_bytes == wanted.value_bytes and not _has_grown(old.spec, wanted):
                return False
            new_pin = self._pin(name, "_new")
            new_pin.unlink(missing_ok=True)
            entries = max(old.spec.entries, wanted.entries)
            new = create_map(new_pin, name, dataclasses.replace(wanted, entries=entries))
            if name not in _FORGETFUL:
                _copy(old, new)
            new.close()
            old_pin = self._pin(name, f"_old_{syscalls.map_info(old.fd).map_id}")
            if not old_pin.exists():
                syscalls.object_pin(old.fd, str(old_pin))
            new_pin.rename(self._pin(name))
            return True
        finally:
            old.close()

    def _catch_up(self, name: str, old_pin: Path, attached: bool) -> int:
        old, new = open_any(old_pin, name), open_any(self._pin(name), name)
        try:
            if old is None or new is None:
                return 0
            have, size = new.items(), new.spec.value_bytes
            missed = {
                key: resized(value, size) for key, value in old.items().items() if _is_newer(value, have.get(key))
            }
            if not attached:
                new.put_all(missed)
                return len(missed)
            return sum(new.add(key, value) for key, value in missed.items() if key not in have)
        finally:
            for table in (old, new):
                if table is not None:
                    table.close()


def _has_grown(found: abi.MapSpec, wanted: abi.MapSpec) -> bool:
    """Tell whether more places are asked for: of an array by this version, of the flow table by the node."""
    return found.kind in {"array", "percpu_array", "lru_hash"} and found.entries < wanted.entries


def _is_newer(value: bytes, standing: bytes | None) -> bool:
    """Compare the time that every recorded value begins with."""
    return standing is None or struct.unpack_from("=Q", value) > struct.unpack_from("=Q", standing)


def _copy(old: Map, new: Map) -> None:
    size = new.spec.value_bytes
    if old.spec.kind != "percpu_array":
        new.put_all({key: resized(value, size) for key, value in old.items().items() if any(value)})
        return
    width = (size + 7) // 8 * 8
    for number in range(min(old.spec.entries, new.spec.entries)):
        key = struct.pack("=I", number)
        values = old.get_per_cpu(key)
        if any(map(any, values)):
            new.put(key, b"".join(resized(value, width) for value in values[: possible_cpus()]))
