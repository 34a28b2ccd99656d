"""The bpf(2) system call by ctypes: what a long-lived process needs of it, without the weight of a compiler.

Every function raises OSError with the kernel's errno; descriptors are close-on-exec.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

_NUMBERS = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "s390x": 351, "ppc64le": 361}
_NUMBER = _NUMBERS.get(platform.machine())
_patient = ctypes.CDLL(None, use_errno=True).syscall
_prompt = ctypes.PyDLL(None, use_errno=True).syscall
"""Keeps the interpreter during the call: to have it back from a busy thread takes a thousand times as long as what one row or name costs."""
_patient.restype = _prompt.restype = ctypes.c_long

_MAP_CREATE, _LOOKUP, _UPDATE, _DELETE = 0, 1, 2, 3
_NEXT_KEY, _LOAD, _PIN, _GET, _TEST_RUN, _INFO, _QUERY = 4, 5, 6, 7, 10, 15, 16
_LOOKUP_BATCH, _UPDATE_BATCH, _DELETE_BATCH = 24, 26, 27
_ATTR_BYTES = 144
_ENOENT, _EEXIST = 2, 17
_NOEXIST = 1

MAP_TYPES = {
    "hash": 1,
    "array": 2,
    "percpu_array": 6,
    "lru_hash": 9,
    "lpm_trie": 11,
    "array_of_maps": 12,
    "ringbuf": 27,
}
NO_PREALLOC = 1
ENOTSUPP = 524
"""The kernel's own number for what a kind of map cannot do; not in `errno`."""
_SCHED_CLS = 3
_LOG_BYTES = 1 << 14
_TEST_RUN_ATTR = struct.Struct("=4I2Q4I2Q")
Buffer = ctypes.Array[ctypes.c_char]


def _bpf(command: int, attr: ctypes.Array[ctypes.c_char], call: Callable[..., int] = _patient) -> int:
    if _NUMBER is None:
        raise OSError(38, f"bpf(2) has no known number on {platform.machine()}")
    result = call(_NUMBER, command, attr, _ATTR_BYTES)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def _attr(layout: str, *values: int | bytes) -> ctypes.Array[ctypes.c_char]:
    return ctypes.create_string_buffer(struct.pack("=" + layout, *values), _ATTR_BYTES)


def _address(buffer: bytes | ctypes.Array[ctypes.c_char]) -> int:
    # not `ctypes.cast`: its results refer to themselves, and keep the buffers until somebody looks for garbage
    if isinstance(buffer, bytes):
        return ctypes.c_void_p.from_buffer(ctypes.c_char_p(buffer)).value or 0
    return ctypes.addressof(buffer)


@dataclass(frozen=True)
class MapInfo:
    """What the kernel says of a map."""

    kind: int
    map_id: int
    key_bytes: int
    value_bytes: int
    entries: int
    flags: int


def map_create(kind: str, key_bytes: int, value_bytes: int, entries: int, flags: int = 0, **more: int | str) -> int:
    """Make a map and return its descriptor. `name`: what bpftool shows; `inner`: descriptor of a template map."""
    name = str(more.get("name", ""))[:15].encode()
    attr = _attr(
        "7I16s",
        MAP_TYPES[kind],
        key_bytes,
        value_bytes,
        entries,
        flags,
        int(more.get("inner", 0)),
        0,
        name,
    )
    return _bpf(_MAP_CREATE, attr)


def map_lookup(fd: int, key: bytes, value_bytes: int) -> bytes | None:
    """Return the value, or None."""
    value = ctypes.create_string_buffer(value_bytes)
    try:
        _bpf(_LOOKUP, _attr("I4xQQQ", fd, _address(key), _address(value), 0), _prompt)
    except OSError as error:
        if error.errno == _ENOENT:
            return None
        raise
    return value.raw


def map_lookup_each(fd: int, keys: Iterable[bytes], key_bytes: int, value_bytes: int) -> Iterator[bytes | None]:
    """Yield the value or None for each key, in the shortest way: a large table is asked for every row of it."""
    place, value = ctypes.create_string_buffer(key_bytes), ctypes.create_string_buffer(value_bytes)
    attr = _attr("I4xQQQ", fd, _address(place), _address(value), 0)
    for key in keys:
        place.raw = key
        try:
            _bpf(_LOOKUP, attr, _prompt)
        except OSError as error:
            if error.errno != _ENOENT:
                raise
            yield None
        else:
            yield value.raw


def map_update(fd: int, key: bytes, value: bytes, *, waits: bool = False) -> None:
    """Put one entry, replacing what was there. `waits`: the kernel waits for programs before it returns, as it does in arrays of maps."""
    _bpf(_UPDATE, _attr("I4xQQQ", fd, _address(key), _address(value), 0), _patient if waits else _prompt)


def map_add(fd: int, key: bytes, value: bytes) -> bool:
    """Put one entry unless there is one; tell whether it was put."""
    try:
        _bpf(_UPDATE, _attr("I4xQQQ", fd, _address(key), _address(value), _NOEXIST), _prompt)
    except OSError as error:
        if error.errno == _EEXIST:
            return False
        raise
    return True


def map_delete(fd: int, key: bytes, *, waits: bool = False) -> bool:
    """Remove one entry; tell whether it was there. `waits`: as for `map_update`."""
    try:
        _bpf(_DELETE, _attr("I4xQQQ", fd, _address(key), 0, 0), _patient if waits else _prompt)
    except OSError as error:
        if error.errno == _ENOENT:
            return False
        raise
    return True


def _batch(command: int, fd: int, buffers: Sequence[int], count: int) -> tuple[int, OSError | None]:
    attr = _attr("4Q2I2Q", *buffers, count, fd, 0, 0)
    failure = None
    try:
        _bpf(command, attr)
    except OSError as error:
        failure = error
    return int(struct.unpack_from("=I", attr.raw, 32)[0]), failure


def map_update_batch(fd: int, keys: bytes, values: bytes, count: int) -> None:
    """Put `count` entries packed one behind the other; on failure an unknown part of them stands."""
    _, failure = _batch(_UPDATE_BATCH, fd, (0, 0, _address(keys), _address(values)), count)
    if failure is not None:
        raise failure


def map_delete_batch(fd: int, keys: Sequence[bytes]) -> int:
    """Remove entries; return how many there were. The kernel stops at a key that is absent: what is behind it is tried again."""
    packed, done, absent = b"".join(keys), 0, 0
    while (past := done + absent) < len(keys):
        rest = _address(packed) + past * len(keys[0])
        count, failure = _batch(_DELETE_BATCH, fd, (0, 0, rest, 0), len(keys) - past)
        if failure is not None and failure.errno != _ENOENT:
            raise failure
        done, absent = done + count, absent + (failure is not None)
    return done


def map_lookup_batch(fd: int, key_bytes: int, value_bytes: int, at_once: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield all keys and all values, some thousands at once, packed one behind the other."""
    keys, values = ctypes.create_string_buffer(key_bytes * at_once), ctypes.create_string_buffer(value_bytes * at_once)
    place = ctypes.create_string_buffer(max(key_bytes, 8))
    again, more = 0, True
    while more:
        buffers = (again, _address(place), _address(keys), _address(values))
        count, failure = _batch(_LOOKUP_BATCH, fd, buffers, at_once)
        if failure is not None and failure.errno != _ENOENT:
            raise failure
        again, more = _address(place), failure is None
        yield ctypes.string_at(keys, count * key_bytes), ctypes.string_at(values, count * value_bytes)


def map_next_key(fd: int, key: bytes | None, key_bytes: int) -> bytes | None:
    """Return the key behind `key` (None: the first), or None at the end."""
    following = ctypes.create_string_buffer(key_bytes)
    try:
        _bpf(_NEXT_KEY, _attr("I4xQQQ", fd, _address(key) if key else 0, _address(following), 0))
    except OSError as error:
        if error.errno == _ENOENT:
            return None
        raise
    return following.raw


def program_complaint(instructions: bytes) -> str:
    """Load a program for tc, and return what the verifier says against it; empty when it has no objection."""
    log, licence = ctypes.create_string_buffer(_LOG_BYTES), b"GPL\0"
    count = len(instructions) // 8
    attr = _attr(
        "2I2Q2IQ2I", _SCHED_CLS, count, _address(instructions), _address(licence), 1, _LOG_BYTES, _address(log), 0, 0
    )
    try:
        os.close(_bpf(_LOAD, attr))
    except OSError as error:
        if not log.value:
            raise
        del error  # the log says more
    return log.value.decode(errors="replace")


def programs_attached(ifindex: int, kind: int) -> int:
    """Return how many programs are attached to a device in that way. Raises OSError where the kernel knows no such way."""
    attr = _attr("4IQI", ifindex, kind, 0, 0, 0, 0)
    _bpf(_QUERY, attr)
    return int(struct.unpack_from("=I", attr.raw, 24)[0])


def object_pin(fd: int, path: str) -> None:
    """Give a map or program a name on bpffs."""
    name = path.encode() + b"\0"
    _bpf(_PIN, _attr("QII", _address(name), fd, 0), _prompt)


def object_get(path: str) -> int:
    """Return a descriptor of what is pinned at `path`."""
    name = path.encode() + b"\0"
    return _bpf(_GET, _attr("QII", _address(name), 0, 0), _prompt)


def _info(fd: int, size: int) -> bytes:
    info = ctypes.create_string_buffer(size)
    _bpf(_INFO, _attr("IIQ", fd, size, _address(info)), _prompt)
    return info.raw


def map_info(fd: int) -> MapInfo:
    """Return the kernel's description of a map."""
    return MapInfo(*struct.unpack_from("=6I", _info(fd, 32)))


def program_id(fd: int) -> int:
    """Return the number by which tc names a program."""
    return int(struct.unpack_from("=II", _info(fd, 32))[1])


def test_run(fd: int, packet: bytes, context: bytes, repeat: int) -> tuple[int, bytes, bytes, int]:
    """Run a program on a packet; return its result, the packet and context afterwards, and nanoseconds per run."""
    out, after = ctypes.create_string_buffer(len(packet) + 256), ctypes.create_string_buffer(context, len(context))
    attr = _attr(
        "4I2Q4I2Q3I",
        *(fd, 0, len(packet), len(out), _address(packet), _address(out)),
        *(repeat, 0, len(context), len(context), _address(context), _address(after)),
        *(0, 0, 0),
    )
    _bpf(_TEST_RUN, attr)
    _, result, _, size = struct.unpack_from("=4I", attr.raw)
    duration_ns = struct.unpack_from("=I", attr.raw, 36)[0]
    return int(result), out.raw[:size], after.raw, int(duration_ns)


def prepared_test_run(fd: int, packet: Buffer, after: Buffer, context: Buffer) -> Callable[[int], tuple[int, int]]:
    """Return what runs the program once on so many bytes of `packet`: it returns the result, and the size of `after`."""
    attr, context_after = ctypes.create_string_buffer(_ATTR_BYTES), ctypes.create_string_buffer(len(context))
    keep = packet, after, context, context_after  # the kernel writes there as long as this can be called
    addresses = [_address(buffer) for buffer in keep]
    tail = len(after), *addresses[:2], 1, 0, len(context), len(context), *addresses[2:]

    def run(size: int) -> tuple[int, int]:
        _TEST_RUN_ATTR.pack_into(attr, 0, fd, 0, min(size, len(keep[0])), *tail)
        _bpf(_TEST_RUN, attr)
        result, size_after = struct.unpack_from("=I4xI", attr, 4)
        return int(result), int(size_after)

    return run
