"""The two system calls that the collector of flows needs beyond the usual: take an entry out of a map, and read the programs' clock."""

from __future__ import annotations

import ctypes
import errno
import os
import struct

from services.datapath.kernel import syscalls
from services.datapath.kernel.syscalls import _address, _attr, _bpf

_LOAD, _TAKE = 5, 21
_SCHED_CLS = 3
_CALL, _SHIFT, _EXIT = 0x85, 0x77, 0x95
_JIFFIES64 = 118
_FRAME = bytes(64)


def map_take(fd: int, key: bytes, value_bytes: int) -> bytes | None:
    """Remove an entry and return what it held in that moment, or None. Before Linux 5.14 the two are not one step."""
    value = ctypes.create_string_buffer(value_bytes)
    try:
        _bpf(_TAKE, _attr("I4xQQQ", fd, _address(key), _address(value), 0))
    except OSError as error:
        if error.errno == errno.ENOENT:
            return None
        if error.errno not in {errno.EINVAL, errno.EOPNOTSUPP, 524}:
            raise
        held = syscalls.map_lookup(fd, key, value_bytes)
        return held if syscalls.map_delete(fd, key) else None
    return value.raw


class Jiffies:
    """The clock by which the programs judge the age of flows. Nothing else that user space can read tells it exactly."""

    def __init__(self) -> None:
        self._low, self._high = _load(shift=0), _load(shift=32)

    def now(self) -> int:
        """Return the time in jiffies, 64 bits."""
        while True:
            high = _result(self._high)
            low = _result(self._low)
            if high == _result(self._high):
                return high << 32 | low

    def close(self) -> None:
        """Give the programs back."""
        os.close(self._low)
        os.close(self._high)


def _load(shift: int) -> int:
    """Load a program that returns 32 bits of the clock; a program's result has no more."""
    instruction = struct.Struct("=BBhi")
    steps = ((_CALL, 0, 0, _JIFFIES64), (_SHIFT, 0, 0, shift), (_EXIT, 0, 0, 0))
    code, licence = b"".join(instruction.pack(*step) for step in steps), b"GPL\0"
    return _bpf(_LOAD, _attr("2I2Q2IQ2I", _SCHED_CLS, len(steps), _address(code), _address(licence), 0, 0, 0, 0, 0))


def _result(fd: int) -> int:
    return syscalls.test_run(fd, _FRAME, bytes(192), 1)[0]
