"""The benchmark's own programs (`bpf/bench.c`), compiled in this process, and a stopwatch for programs made of them."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.datapath.kernel import abi, syscalls
from services.datapath.kernel.loader import compiler_flags

os.environ.setdefault("BCC_KERNEL_SOURCE", str(abi.BPF_DIRECTORY / "shim"))

SOURCE = Path(__file__).parent / "bpf" / "bench.c"
NOTHING, PORT, PORTS, DESTINATION = 0, 1, 2, 3
PORTS_PER_DPORT = 1 << 15
_ZERO = struct.pack("=I", 0)
_TEMPLATE_BYTES = 80
_CONTEXT_BYTES, _IFINDEX = 192, 40


@dataclass(frozen=True)
class Case:
    """One packet, met on one device by one pinned program, varied from repeat to repeat."""

    name: str
    program: str
    packet: bytes
    ifindex: int
    vary: int = NOTHING
    count: int = 1
    base: int = 1024
    action: int = -1
    """What the program must answer, so that no row measures another path than it says."""


class Programs:
    """The compiled `bench.c`."""

    def __init__(self) -> None:
        from bcc import BPF  # noqa: PLC0415 - the compiler costs memory; a part that needs none is spared it

        self._module: Any = BPF(text=SOURCE.read_text(), cflags=compiler_flags(Path("/sys/fs/bpf")))
        self.fds = {name: self._module.load_func(name, BPF.SCHED_CLS).fd for name in ("restore", "nothing", "limit")}
        self._plans, self._targets, self._hops = (self._module[name].map_fd for name in ("plans", "targets", "hops"))
        self._target(1, self.fds["nothing"])

    def _target(self, slot: int, fd: int) -> None:
        syscalls.map_update(self._targets, struct.pack("=I", slot), struct.pack("=I", fd))

    def hop(self, ifindex: int, to_ifindex: int, macs: bytes) -> None:
        """Have `limit` hand what comes in by a device to the peer of another."""
        syscalls.map_update(self._hops, struct.pack("=I", ifindex), struct.pack("=I12s", to_ifindex, macs))

    def net_ns(self, pins: Path, case: Case, repeat: int) -> float:
        """Return the nanoseconds of the case's program alone: the run with it less the run with the empty program."""
        fd = syscalls.object_get(str(pins / f"{abi.PIN_PREFIX}{case.program}"))
        try:
            self._target(0, fd)
            empty_ns = self._run(case, 1, repeat)
            return self._run(case, 0, repeat) - empty_ns
        finally:
            os.close(fd)

    def warm(self, pins: Path, case: Case, repeat: int) -> None:
        """Run the case untimed, for its flows to stand; check what the program answers."""
        self.net_ns(pins, case, max(repeat, 1))

    def _run(self, case: Case, target: int, repeat: int) -> int:
        template = case.packet[:_TEMPLATE_BYTES]
        assert len(template) == _TEMPLATE_BYTES, f"{case.name}: a packet of at least {_TEMPLATE_BYTES} bytes"
        l4_offset = 34 if case.packet[12:14] == b"\x08\x00" else 54
        plan = struct.pack("=6I", case.vary, case.count, 0, target, l4_offset, case.base) + template
        syscalls.map_update(self._plans, _ZERO, plan)
        context = bytearray(_CONTEXT_BYTES)
        struct.pack_into("=I", context, _IFINDEX, case.ifindex)
        action, _, _, nanoseconds = syscalls.test_run(self.fds["restore"], case.packet, bytes(context), repeat)
        assert target == 1 or case.action in {-1, action}, f"{case.name}: the program answered {action}"
        return nanoseconds
