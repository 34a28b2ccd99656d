"""Runs a pinned program on a made-up packet (BPF_PROG_TEST_RUN): for tests and benches, without a device in sight.

What a program does is told by its result and the packet; where a redirect would have gone is not.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path

from services.datapath.kernel import abi, syscalls

OK, SHOT, REDIRECT = 0, 2, 7
# offsets in struct __sk_buff of what a test may set
_CONTEXT_BYTES = 192
_INGRESS_IFINDEX, _IFINDEX = 36, 40


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
        """Run it on an Ethernet frame as if met on device `ifindex` (0: loopback) of this namespace."""
        context = bytearray(_CONTEXT_BYTES)
        struct.pack_into("=I", context, _INGRESS_IFINDEX, ingress_ifindex)
        struct.pack_into("=I", context, _IFINDEX, ifindex)
        action, after, _, duration_ns = syscalls.test_run(self._fd, packet, bytes(context), repeat)
        return Outcome(action, after, duration_ns)

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._fd)
