"""Runs a pinned program on a made-up packet (BPF_PROG_TEST_RUN): for tests and benches, without a device in sight.

What a program does is told by its result and the packet; where a redirect would have gone is not.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from dataclasses import dataclass
from pathlib import Path

from services.datapath.kernel import abi, syscalls

OK, SHOT, REDIRECT = 0, 2, 7
# offsets in struct __sk_buff of what a test may set
_CONTEXT_BYTES = 192
_INGRESS_IFINDEX, _IFINDEX = 36, 40
_LARGEST = 2048
_TOO_OLD = tuple(int(number) for number in os.uname().release.split(".")[:2]) < (6, 1)


class ReceiverUnknown(Exception):
    """This kernel's test-run cannot be told which device received a packet (5.10 cannot, 6.1 can)."""


@dataclass(frozen=True)
class Outcome:
    """What became of a packet."""

    action: int
    packet: bytes
    nanoseconds: int


class TestRun:
    """One pinned program."""

    __test__ = False  # not a test for pytest to collect

    def __init__(self, pin_directory: Path, program: str) -> None:
        self._fd = syscalls.object_get(str(pin_directory / f"{abi.PIN_PREFIX}{program}"))

    def run(self, packet: bytes, ifindex: int = 0, *, ingress_ifindex: int = 0, repeat: int = 1) -> Outcome:
        """Run it on an Ethernet frame as if met on device `ifindex` (0: loopback) of this namespace. Raises ReceiverUnknown."""
        context = bytearray(_CONTEXT_BYTES)
        struct.pack_into("=I", context, _INGRESS_IFINDEX, ingress_ifindex)
        struct.pack_into("=I", context, _IFINDEX, ifindex)
        try:
            action, after, _, duration_ns = syscalls.test_run(self._fd, packet, bytes(context), repeat)
        except OSError as error:
            if error.errno == errno.EINVAL and ingress_ifindex and _TOO_OLD:
                raise ReceiverUnknown from error
            raise
        return Outcome(action, after, duration_ns)

    def volley(self) -> Volley:
        """Return what runs it a million times."""
        return Volley(self._fd)

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._fd)


class Volley:
    """One program run again and again, one packet per call, with everything around the call made once."""

    def __init__(self, fd: int) -> None:
        self._packet = ctypes.create_string_buffer(_LARGEST)
        self._after = ctypes.create_string_buffer(_LARGEST + 256)
        self._context = ctypes.create_string_buffer(_CONTEXT_BYTES)
        self._run = syscalls.prepared_test_run(fd, self._packet, self._after, self._context)

    def met_at(self, ifindex: int, ingress_ifindex: int = 0) -> None:
        """Have the packets from now on met on this device, received by that one."""
        struct.pack_into("=I", self._context, _INGRESS_IFINDEX, ingress_ifindex)
        struct.pack_into("=I", self._context, _IFINDEX, ifindex)

    def run(self, packet: bytes) -> tuple[int, bytes] | None:
        """Return the program's result and the packet afterwards, or None for a frame that test-run itself refuses."""
        ctypes.memmove(self._packet, packet, len(packet))
        try:
            result, size = self._run(len(packet))
        except OSError as error:
            if error.errno == errno.EINVAL:
                return None
            raise
        return result, ctypes.string_at(self._after, size)
