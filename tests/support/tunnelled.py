"""Tunnels for test-run, which has none: packets are given one before the real `from_overlay`, and asked for theirs after the others."""

from __future__ import annotations

import os
import re
import struct
from pathlib import Path
from typing import Any

from services.datapath.kernel import abi, syscalls
from services.datapath.kernel.loader import compiler_flags
from services.datapath.kernel.testrun import Volley
from services.datapath.kernel.twin.cases import Met, Origin, Tunnel
from services.datapath.kernel.twin.frames import MAPPED

os.environ.setdefault("BCC_KERNEL_SOURCE", str(abi.BPF_DIRECTORY / "shim"))

_SOURCE = Path(__file__).with_suffix(".c")
_ROW = struct.Struct("=II16s")
_BROUGHT, _TAKEN = struct.pack("=I", 0), struct.pack("=I", 1)
DOORS = {Origin.POD: "from_pod_told", Origin.HOST: "from_host_told", Origin.OVERLAY: "bring"}
_OTHERS = {Origin.NETWORK: "from_network", Origin.UPLINK: "to_uplink"}


class Tunnelled:
    """Programs around those that are pinned in a directory; they share its maps."""

    def __init__(self, pins: Path) -> None:
        from bcc import BPF  # noqa: PLC0415 - the compiler costs memory; tests without tunnels are spared it

        inside = re.sub(
            r"^int (?=\w+\(struct __sk_buff \*skb\)$)",
            "static __always_inline int ",
            abi.source_text(),
            flags=re.MULTILINE,
        )
        compiler: Any = BPF  # takes bytes, and warns of anything else, whatever its types say
        self._pins = pins
        self._module = compiler(text=(inside + _SOURCE.read_text()).encode(), cflags=compiler_flags(pins))
        self.fds = {name: self._module.load_func(name.encode(), compiler.SCHED_CLS).fd for name in DOORS.values()}
        self._tunnels = self._module[b"told_tunnels"].map_fd
        real = syscalls.object_get(str(pins / f"{abi.PIN_PREFIX}from_overlay"))
        syscalls.map_update(self._module[b"bearers"].map_fd, _BROUGHT, struct.pack("=I", real))
        os.close(real)

    def bring(self, tunnel: Tunnel | None) -> None:
        """Have the next packet of `bring` come by this tunnel."""
        family, number, address = 0, 0, b""
        if tunnel is not None:
            number = tunnel.number
            family, address = (4, tunnel.node[12:]) if tunnel.node.startswith(MAPPED) else (6, tunnel.node)
        syscalls.map_update(self._tunnels, _BROUGHT, _ROW.pack(family, number, address.ljust(16, b"\0")))

    def taken(self) -> Tunnel | None:
        """Return the tunnel that the last packet left by."""
        family, number, address = _ROW.unpack(syscalls.map_lookup(self._tunnels, _TAKEN, _ROW.size) or b"")
        if not family:
            return None
        return Tunnel(MAPPED + address[:4] if family == 4 else address, number)

    def run(self, frame: bytes, met: Met) -> tuple[int, bytes, Tunnel | None]:
        """Run the program that stands there; return what it says, the packet, and the tunnel by which that leaves."""
        name = DOORS.get(met.origin)
        fd = self.fds[name] if name else syscalls.object_get(str(self._pins / f"{abi.PIN_PREFIX}{_OTHERS[met.origin]}"))
        volley = Volley(fd)
        volley.met_at(met.ifindex, met.ingress_ifindex)
        self.bring(met.tunnel)
        outcome = volley.run(frame)
        if not name:
            os.close(fd)
        assert outcome is not None, "test-run takes no frame that ends within the IP header"
        return *outcome, self.taken() if met.origin in {Origin.POD, Origin.HOST} else None

    def close(self) -> None:
        """Give programs and maps back."""
        self._module.cleanup()
