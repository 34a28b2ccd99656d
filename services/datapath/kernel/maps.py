"""Pinned maps: made once, found again by every later process, never emptied on the way."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import itertools
import os
import struct
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from services.datapath.kernel import abi, syscalls
from services.datapath.operations import KernelError

_BPFFS_MAGIC = 0xCAFE4A11
_BPFFS = Path("/sys/fs/bpf")
_IN_BATCHES = {"hash", "lpm_trie", "lru_hash"}
_CLOCK_MONOTONIC_COARSE = 6
_AT_ONCE = 4096
_POSSIBLE_CPUS = Path("/sys/devices/system/cpu/possible")


@contextmanager
def refusals(name: str) -> Iterator[None]:
    """Turn what the kernel refuses about a map into KernelError."""
    try:
        yield
    except OSError as error:
        raise KernelError(f"map {name} refused: {error.strerror}") from error


class Map:
    """One map by its descriptor, as a table of bytes."""

    def __init__(self, name: str, fd: int, spec: abi.MapSpec) -> None:
        self.name, self.fd, self.spec = name, fd, spec
        self._waits = spec.kind == "array_of_maps"

    def get(self, key: bytes) -> bytes | None:
        """Return the value or None."""
        with refusals(self.name):
            return syscalls.map_lookup(self.fd, key, self.spec.value_bytes)

    def get_each(self, keys: Iterable[bytes]) -> Iterator[bytes | None]:
        """Yield what stands under each of these keys, None where nothing does."""
        with refusals(self.name):
            yield from syscalls.map_lookup_each(self.fd, keys, self.spec.key_bytes, self.spec.value_bytes)

    def get_per_cpu(self, key: bytes) -> list[bytes]:
        """Return each processor's value."""
        size = (self.spec.value_bytes + 7) // 8 * 8
        with refusals(self.name):
            values = syscalls.map_lookup(self.fd, key, size * possible_cpus()) or b""
        return [values[start : start + self.spec.value_bytes] for start in range(0, len(values), size)]

    def put(self, key: bytes, value: bytes) -> None:
        """Put one entry. Raises KernelError when the map is full."""
        self.put_all({key: value})

    def put_all(self, entries: Mapping[bytes, bytes]) -> None:
        """Put many entries. Raises KernelError when the map is full."""
        try:
            self._put_all(entries)
        except OSError as error:
            if error.errno in {errno.E2BIG, errno.ENOSPC}:
                raise KernelError(f"map {self.name} is full ({self.spec.entries} entries)") from error
            raise KernelError(f"map {self.name} refused an entry: {error.strerror}") from error

    def _put_all(self, entries: Mapping[bytes, bytes]) -> None:
        if len(entries) < 4 or self.spec.kind not in _IN_BATCHES:
            for key, value in entries.items():
                syscalls.map_update(self.fd, key, value, waits=self._waits)
            return
        try:
            syscalls.map_update_batch(self.fd, b"".join(entries), b"".join(entries.values()), len(entries))
        except OSError as error:
            if error.errno != syscalls.ENOTSUPP:
                raise
            for key, value in entries.items():  # kernels before 5.14 have no batches of a trie
                syscalls.map_update(self.fd, key, value)

    def add(self, key: bytes, value: bytes) -> bool:
        """Put one entry unless there is one; tell whether it was put."""
        with refusals(self.name):
            return syscalls.map_add(self.fd, key, value)

    def delete(self, key: bytes) -> bool:
        """Remove one entry; tell whether it was there."""
        with refusals(self.name):
            return syscalls.map_delete(self.fd, key, waits=self._waits)

    def delete_all(self, keys: Iterable[bytes]) -> int:
        """Remove entries; return how many there were."""
        with refusals(self.name):
            if self.spec.kind not in _IN_BATCHES:
                return sum([syscalls.map_delete(self.fd, key, waits=self._waits) for key in keys])
            wanted = list(keys)
            try:
                return syscalls.map_delete_batch(self.fd, wanted)
            except OSError as error:
                if error.errno != syscalls.ENOTSUPP:
                    raise
                return sum([syscalls.map_delete(self.fd, key) for key in wanted])

    def items(self) -> dict[bytes, bytes]:
        """Return the whole table."""
        found: dict[bytes, bytes] = {}
        for rows in self._slices():
            found.update(rows)
        return found

    def rows(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield the whole table row by row, without ever holding all of it."""
        return itertools.chain.from_iterable(self._slices())

    def _slices(self) -> Iterator[Iterable[tuple[bytes, bytes]]]:
        split = struct.Struct(f"{self.spec.key_bytes}s"), struct.Struct(f"{self.spec.value_bytes}s")
        for keys, values in self.packed():
            yield zip(_parts(split[0], keys), _parts(split[1], values), strict=True)

    def holds(self, words: Mapping[int, int]) -> bool:
        """Tell whether the table has just these rows, given as numbers: its keys of 8 bytes, and the first 8 bytes of its values."""
        found = 0
        for keys, values in self.packed():
            heads = memoryview(values).cast("Q")[:: self.spec.value_bytes // 8].tolist()
            if list(map(words.get, memoryview(keys).cast("Q").tolist())) != heads:
                return False
            found += len(heads)
        return found == len(words)

    def keys_of(self, number: int) -> set[bytes]:
        """Return the keys under which this number stands: values of 4 bytes, without an object for each of the others."""
        found, size = set[bytes](), self.spec.key_bytes
        for keys, values in self.packed():
            numbers = memoryview(values).cast("I")[:: self.spec.value_bytes // 4]
            found.update(keys[at * size : (at + 1) * size] for at, one in enumerate(numbers) if one == number)
        return found

    def count(self) -> int:
        """Return how many entries there are."""
        return sum(len(keys) // self.spec.key_bytes for keys, _ in self.packed())

    def packed(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield the whole table in parts, so that nobody has to hold all of it: keys one behind the other, and their values."""
        with refusals(self.name):
            try:
                sizes = self.spec.key_bytes, self.spec.value_bytes
                yield from syscalls.map_lookup_batch(self.fd, *sizes, min(_AT_ONCE, self.spec.entries))
            except OSError as error:
                if error.errno != syscalls.ENOTSUPP:
                    raise
                rows = self.walk()
                yield b"".join(rows), b"".join(rows.values())

    def walk(self) -> dict[bytes, bytes]:
        """Return the whole table, asking for one row after the other, as kernels need that have no batches of this kind."""
        found: dict[bytes, bytes] = {}
        with refusals(self.name):
            key = syscalls.map_next_key(self.fd, None, self.spec.key_bytes)
            while key is not None:
                if (value := syscalls.map_lookup(self.fd, key, self.spec.value_bytes)) is not None:
                    found[key] = value
                key = syscalls.map_next_key(self.fd, key, self.spec.key_bytes)
        return found

    def close(self) -> None:
        """Give the descriptor back; the pin keeps the map."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def _parts(split: struct.Struct, packed: bytes) -> Iterator[bytes]:
    return (part for (part,) in split.iter_unpack(packed))


@functools.cache
def possible_cpus() -> int:
    """Return how many values a per-CPU map holds per key."""
    last = _POSSIBLE_CPUS.read_text().strip().replace(",", "-").split("-")[-1]
    return int(last) + 1


def jiffies_per_second() -> int:
    """Return the kernel's HZ: the coarse clock advances once per jiffy."""
    return round(1 / time.clock_getres(_CLOCK_MONOTONIC_COARSE))


class _Statfs(ctypes.Structure):
    _fields_ = (("f_type", ctypes.c_long), ("rest", ctypes.c_byte * 248))


def is_bpffs(path: Path) -> bool:
    """Tell whether `path` is on a BPF file system."""
    libc = ctypes.CDLL(None, use_errno=True)
    found = _Statfs()
    return bool(libc.statfs(str(path).encode(), ctypes.byref(found)) == 0 and found.f_type == _BPFFS_MAGIC)


def ensure_pin_directory(path: Path) -> None:
    """Make the directory, mounting bpffs if nobody has. Raises KernelError if it cannot be on bpffs."""
    if _BPFFS in path.parents and not is_bpffs(_BPFFS):
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.mount(b"bpf", str(_BPFFS).encode(), b"bpf", 0, None) != 0:
            raise KernelError(f"cannot mount bpffs on {_BPFFS}: {os.strerror(ctypes.get_errno())}; run as root")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise KernelError(f"cannot make the pin directory {path}: {error.strerror}") from error
    if not is_bpffs(path):
        raise KernelError(f"{path} is not on a BPF file system: choose a pin directory below {_BPFFS}")


def remove_pins(path: Path) -> None:
    """Remove everything of ours that is pinned there, and the directories that are empty then."""
    if not path.is_dir():
        return
    for pin in path.iterdir():
        if pin.name.startswith((abi.PIN_PREFIX, "cilium_policy_")):
            pin.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # others may keep pins in any of them, and the mount point stays
        for directory in (path, *path.parents):
            directory.rmdir()


def open_any(path: Path, name: str) -> Map | None:
    """Return the map pinned at `path`, whatever its shape, or None."""
    try:
        fd = syscalls.object_get(str(path))
    except OSError as error:
        if error.errno == errno.ENOENT:
            return None
        raise KernelError(f"cannot open the pinned map {path}: {error.strerror}") from error
    info = syscalls.map_info(fd)
    kind = next((kind for kind, number in syscalls.MAP_TYPES.items() if number == info.kind), f"type {info.kind}")
    return Map(name, fd, abi.MapSpec(kind, info.key_bytes, info.value_bytes, info.entries, info.flags))


def open_map(path: Path, name: str, spec: abi.MapSpec) -> Map | None:
    """Return the map pinned at `path`, or None. Raises KernelError if it has another shape."""
    table = open_any(path, name)
    if table is None:
        return None
    found = table.spec.kind, table.spec.key_bytes, table.spec.value_bytes
    if found != (spec.kind, spec.key_bytes, spec.value_bytes):
        table.close()
        raise unknown_shape(path, table.spec)
    return table


def unknown_shape(path: Path, found: abi.MapSpec) -> KernelError:
    """Return the error for a pinned map that no version knows."""
    return KernelError(
        f"the pinned map {path} has a shape that this version does not know ({found.kind}, {found.key_bytes} and "
        f"{found.value_bytes} bytes): run the version that made it, or remove the node's datapath (destroy) and start anew"
    )


def create_map(path: Path, name: str, spec: abi.MapSpec, inner: int = 0) -> Map:
    """Make a map and pin it at `path`."""
    try:
        fd = syscalls.map_create(
            *(spec.kind, spec.key_bytes, spec.value_bytes, spec.entries, spec.flags), name=name, inner=inner
        )
        syscalls.object_pin(fd, str(path))
    except OSError as error:
        raise KernelError(f"cannot create map {name} ({spec.entries} entries): {error.strerror}") from error
    return Map(name, fd, spec)


def open_or_create(path: Path, name: str, spec: abi.MapSpec) -> Map:
    """Return the pinned map, made now if it was not there."""
    found = open_map(path, name, spec)
    if found is not None:
        return found
    if spec.kind != "array_of_maps":
        return create_map(path, name, spec)
    # the template only tells the verifier the shape of the tables to come
    inner = abi.INNER_MAPS[name]
    template = syscalls.map_create(inner.kind, inner.key_bytes, inner.value_bytes, 1, inner.flags)
    try:
        return create_map(path, name, spec, inner=template)
    finally:
        os.close(template)
