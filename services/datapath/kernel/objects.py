"""Programs and maps by the numbers that the kernel gave them, pinned or not: the rest of the bpf(2) system call that we need.

Every function raises OSError with the kernel's errno; descriptors are close-on-exec.
"""

from __future__ import annotations

import ctypes
import os
import struct

from services.datapath.kernel.syscalls import _INFO, _address, _attr, _bpf, _info, map_create, map_update

_PROGRAM_BY_ID, _MAP_BY_ID = 13, 14
_MAP_COUNT_AT = 52  # in struct bpf_prog_info; the address for their numbers follows


def wait_for_programs() -> None:
    """Wait until every program that runs now has ended: the kernel does so when a table in an array of maps is exchanged."""
    inner = map_create("array", 4, 4, 1)
    outer = map_create("array_of_maps", 4, 4, 1, inner=inner)
    try:
        map_update(outer, bytes(4), struct.pack("=I", inner), waits=True)
    finally:
        os.close(outer)
        os.close(inner)


def program_by_id(number: int) -> int:
    """Return a descriptor of a program that is loaded."""
    return _bpf(_PROGRAM_BY_ID, _attr("III", number, 0, 0))


def map_by_id(number: int) -> int:
    """Return a descriptor of a map that exists."""
    return _bpf(_MAP_BY_ID, _attr("III", number, 0, 0))


def map_name(fd: int) -> str:
    """Return the name that the map was made with, 15 characters of it."""
    return _info(fd, 40)[24:40].rstrip(b"\0").decode()


def program_name(fd: int) -> str:
    """Return the name that the program was loaded with, 15 characters of it."""
    return _info(fd, 80)[64:80].rstrip(b"\0").decode()


def program_maps(fd: int) -> tuple[int, ...]:
    """Return the numbers of the maps that a program uses."""
    (count,) = struct.unpack_from("=I", _info(fd, 80), _MAP_COUNT_AT)
    numbers, info = ctypes.create_string_buffer(4 * count), ctypes.create_string_buffer(80)
    struct.pack_into("=IQ", info, _MAP_COUNT_AT, count, _address(numbers))
    _bpf(_INFO, _attr("IIQ", fd, len(info), _address(info)))
    return struct.unpack(f"={count}I", numbers.raw)
