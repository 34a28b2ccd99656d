"""What this kernel can do, found out by trying: every feature that the datapath uses or could use, and what is used where it is missing."""

from __future__ import annotations

import errno
import os
import platform
import resource
import struct
from collections.abc import Callable, Iterable
from pathlib import Path

from services.datapath.kernel import overlay, syscalls
from services.datapath.kernel.netlink import Netlink
from services.datapath.operations import KernelError
from services.datapath.reports import Feature

_HELPERS = {
    "jiffies64": (118, "times of flows"),
    "fib_lookup": (69, "ways off the node"),
    "redirect_neigh": (152, "sending off the node"),
    "redirect_peer": (155, "handing packets to pods"),
    "ringbuf_reserve": (131, "reports of flows and drops"),
    "skb_set_tunnel_key": (21, "tunnels to other nodes"),
    "skb_get_tunnel_key": (20, "tunnels from other nodes"),
}
"""Number of each helper function, and what is done with it. All are in 5.10."""
ANY_SIZE = "helper check_mtu"
"""What came with it counts (5.12): ways tell their MTU, and a packet is redirected to a stack whatever its size."""
_CHECK_MTU = 163
_REFUSED = ("unknown func", "invalid func", "cannot use helper")
_TCX_INGRESS = 46
_LOOPBACK = 1
_FORCE_FORWARDING = Path("/proc/sys/net/ipv6/conf/default/force_forwarding")
_HASH, _TRIE = "hash", "lpm_trie"


def probe(wire: Netlink) -> tuple[Feature, ...]:
    """Try everything; makes nothing that stays, but lifts RLIMIT_MEMLOCK where maps count. Raises KernelError when programs cannot even be tried."""
    apart = _memory_apart()
    helpers = [Feature(f"helper {name}", _helper(number), use) for name, (number, use) in _HELPERS.items()]
    devices = [
        Feature(f"{kind} devices", overlay.can_make(wire, kind), f"routing = {kind}", "another `routing`")
        for kind in overlay.DEVICES
    ]
    return (
        *helpers,
        Feature("memory of maps apart", apart, "maps of any size", "RLIMIT_MEMLOCK lifted"),
        Feature("ring buffer", _made(lambda: syscalls.map_create("ringbuf", 0, 0, 4096)), "reports of flows and drops"),
        Feature("inner maps of any size", _inner_maps(), "policy maps that grow"),
        _batch("hash", _HASH, 0),
        _batch("trie", _TRIE, syscalls.NO_PREALLOC),
        *devices,
        Feature(
            ANY_SIZE,
            _helper(_CHECK_MTU),
            "refusing what is larger than its way",
            "the uplinks' MTU, not a way's own; fairlead_host of any size",
        ),
        Feature(
            "force_forwarding",
            _FORCE_FORWARDING.exists(),
            "IPv6 errors to senders",
            "net.ipv6.conf.all.forwarding, if set",
        ),
        Feature("tcx", _tcx(), "nothing: filters are older and on every kernel", "filters of clsact, on every kernel"),
    )


def require(features: Iterable[Feature]) -> None:
    """Raise KernelError, with the kernel's version, if something is missing that nothing can stand in for."""
    missing = [f"{one.name} ({one.use})" for one in features if not one.present and not one.instead]
    if missing:
        raise KernelError(
            f"kernel {platform.release()} lacks {', '.join(missing)}: run kernel 5.10 or newer, with CONFIG_BPF_SYSCALL, "
            f"CONFIG_NET_CLS_BPF and CONFIG_NET_SCH_INGRESS"
        )


def _memory_apart() -> bool:
    """Tell whether maps count apart from what the process may lock (since 5.11); where they do not, lift that limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, hard))
    apart = _made(lambda: syscalls.map_create(_HASH, 8, 8, 1))
    try:
        endless = resource.RLIM_INFINITY, resource.RLIM_INFINITY
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (soft, hard) if apart else endless)
    except ValueError as error:
        raise KernelError(
            f"kernel {platform.release()} counts maps as locked memory, and the limit of that cannot be lifted: run with "
            f"CAP_SYS_RESOURCE, or with an unlimited RLIMIT_MEMLOCK (systemd: LimitMEMLOCK=infinity, compose: ulimits: memlock: -1)"
        ) from error
    return apart


def _helper(number: int) -> bool:
    """Tell whether programs of our kind may call the function. The program is wrong, and the complaint tells for which reason."""
    call, leave = struct.pack("=BBhi", 0x85, 0, 0, number), struct.pack("=BBhi", 0x95, 0, 0, 0)
    try:
        complaint = syscalls.program_complaint(call + leave)
    except OSError as error:
        raise KernelError(f"the kernel takes no program to try: {error.strerror}; run as root") from error
    return not any(words in complaint for words in _REFUSED)


def _made(make: Callable[[], int]) -> bool:
    try:
        os.close(make())
    except OSError:
        return False
    return True


def _inner_maps() -> bool:
    """Tell whether a table may stand in an array of maps whose template has another size."""
    fds: list[int] = []
    try:
        fds += [syscalls.map_create(_HASH, 8, 8, size, syscalls.NO_PREALLOC) for size in (1, 2)]
        fds.append(syscalls.map_create("array_of_maps", 4, 4, 1, inner=fds[0]))
        syscalls.map_update(fds[2], bytes(4), struct.pack("=I", fds[1]), waits=True)
    except OSError:
        return False
    finally:
        for fd in fds:
            os.close(fd)
    return True


def _batch(noun: str, kind: str, flags: int) -> Feature:
    fd = syscalls.map_create(kind, 8, 8, 4, flags)
    try:
        list(syscalls.map_lookup_batch(fd, 8, 8, 4))
        present = True
    except OSError as error:
        if error.errno != syscalls.ENOTSUPP:
            raise KernelError(f"a {noun} cannot be listed: {error.strerror}") from error
        present = False
    finally:
        os.close(fd)
    return Feature(f"batches of a {noun}", present, "many rows in one call", "one call per row")


def _tcx() -> bool:
    try:
        syscalls.programs_attached(_LOOPBACK, _TCX_INGRESS)
    except OSError as error:
        return error.errno == errno.ENOENT
    return True
