"""Moves pinned maps to the shape of this version while the programs of another version run on the old ones.

Versions may differ in how long the values are: structs grow at their end, and zero there means as before. So a value is moved by
padding it, or by cutting it when an older version comes back. Keys and kinds never change in that way.

What only this side writes is moved before any program is replaced, since nothing is changed meanwhile: the new map is filled beside the old
one; the old one is pinned a second time (`_old_` and its number); the new one takes the old one's name.

What programs write themselves (flows, fragments, outer ends) must be whole for programs of both versions at each moment. So the new table stands
beside, empty (`_new`), the old one keeps its name, and programs that know both (`bpf/lib/moving.h`) are attached everywhere first: they write
both, so those of before miss nothing, and neither do they. Then the rest is copied, the new table takes the name, and the programs that know it
alone are attached. Each of these states serves for as long as it has to: the table that has the name is whole at every point, so whichever
version starts after a kill begins from there. Versions that did it otherwise left an `_old_` pin of such tables too: see `fold`.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Callable, Mapping
from pathlib import Path

from services.datapath.kernel import abi, objects, syscalls
from services.datapath.kernel.maps import Map, create_map, open_any, possible_cpus, unknown_shape
from services.datapath.operations import KernelError

_FORGETFUL = frozenset({"denials", "masquerade_scratch", "scratch"})
"""Maps that may begin empty."""
BESIDE = "_new"
"""Suffix of the pin of a map that is in the making."""
_RECORDED = "lru_hash"
"""The kind of map that programs write themselves."""


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
        self.former: dict[str, int] = {}
        """The tables that stand beside their former ones now, and how long a value of those is."""

    def begin(self) -> tuple[str, ...]:
        """Give every map of another shape a successor; return which they were. Raises KernelError before any."""
        for name, spec in self._specs.items():
            self._refuse_foreign(name, spec)
        self.former.clear()
        stale = [name for name in self._specs if self._replace(name)]
        if self.former:
            for name, spec in abi.MOVE_MAPS.items():
                self._pin(name).unlink(missing_ok=True)  # programs of a start that was killed keep theirs
                create_map(self._pin(name), name, spec).close()
        return tuple(stale)

    def where(self, name: str) -> Path:
        """Return where the map of this version's shape is pinned at this moment."""
        return self._pin(name, BESIDE if name in self.former else "")

    def carry_over(self, is_over: Callable[[bytes, bytes], bool]) -> None:
        """Copy what nobody asked for, and let the former tables be over. Programs that know both must be attached everywhere.

        `is_over` tells of a flow whether it has come to its end: those come first, because a table that is full forgets what came first.
        """
        objects.wait_for_programs()
        for name in self.former:
            parts = (is_over, lambda *row: not is_over(*row)) if name == "conntrack" else (_any,)
            for wanted in parts:
                _add_missing(self._pin(name), self._pin(name, BESIDE), name, wanted=wanted)
        for name in self.former:
            self._pin(name, BESIDE).rename(self._pin(name))
        # only now: until here the former table has to be whole, in case that this process is killed
        move = open_any(self._pin("move"), "move")
        if move is not None:
            move.put(bytes(4), struct.pack("=I", 1))
            move.close()
        self.former.clear()

    def fold(self, *, attached: bool) -> None:
        """Bring over what is in tables that a former version put aside; `attached`: newer programs may have written, which counts."""
        for name, spec in self._specs.items():
            if spec.kind == _RECORDED:
                for pin in self._olds(name):
                    _add_missing(pin, self._pin(name), name, newer=not attached)

    def finish(self) -> None:
        """Let the old maps go, and what a killed start left half made."""
        for name in self._specs:
            for pin in (self._pin(name, BESIDE), *self._olds(name)):
                pin.unlink(missing_ok=True)
        for name in abi.MOVE_MAPS:
            self._pin(name).unlink(missing_ok=True)

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
            new_pin = self._pin(name, BESIDE)
            new_pin.unlink(missing_ok=True)
            entries = max(old.spec.entries, wanted.entries)
            new = create_map(new_pin, name, dataclasses.replace(wanted, entries=entries))
            if wanted.kind == _RECORDED:
                self.former[name] = old.spec.value_bytes
            else:
                self._succeed(old, new)
            new.close()
            return True
        finally:
            old.close()

    def _succeed(self, old: Map, new: Map) -> None:
        name = old.name
        if name not in _FORGETFUL:
            _copy(old, new)
        old_pin = self._pin(name, f"_old_{syscalls.map_info(old.fd).map_id}")
        if not old_pin.exists():
            syscalls.object_pin(old.fd, str(old_pin))
        self._pin(name, BESIDE).rename(self._pin(name))


def _has_grown(found: abi.MapSpec, wanted: abi.MapSpec) -> bool:
    """Tell whether more places are asked for: of an array by this version, of the flow table by the node."""
    return found.kind in {"array", "percpu_array", _RECORDED} and found.entries < wanted.entries


def _any(_key: bytes, _value: bytes) -> bool:
    return True


def _add_missing(
    source: Path, target: Path, name: str, *, newer: bool = False, wanted: Callable[[bytes, bytes], bool] = _any
) -> None:
    """Copy rows that the target lacks; with `newer` also those that it has from an earlier time, with which every value begins."""
    old, new = open_any(source, name), open_any(target, name)
    try:
        if old is None or new is None:
            return
        size = new.spec.value_bytes
        for key, value in old.rows():
            added = not wanted(key, value) or new.add(key, resized(value, size))
            if newer and not added and _is_newer(value, new.get(key)):
                new.put(key, resized(value, size))
    finally:
        for table in (old, new):
            if table is not None:
                table.close()


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
