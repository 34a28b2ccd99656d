"""What the machine says of itself in plain files and two ioctls: uplinks and this node's own addresses."""

from __future__ import annotations

import fcntl
import socket
import struct
from pathlib import Path

from fairlead.address import Address

_SIOCGIFADDR = 0x8915
_RTF_UP_GATEWAY = 0x3


def uplinks(routes: Path = Path("/proc/net/route"), routes6: Path = Path("/proc/net/ipv6_route")) -> tuple[str, ...]:
    """Return the interfaces of the default routes, sorted; none when there is no default route."""
    found = set()
    for line in routes.read_text().splitlines()[1:] if routes.exists() else ():
        name, destination, _, flags, _, _, _, mask = line.split()[:8]
        if destination == mask == "00000000" and int(flags, 16) & 1:
            found.add(name)
    for line in routes6.read_text().splitlines() if routes6.exists() else ():
        parts = line.split()
        if parts[0] == "0" * 32 and parts[1] == "00" and int(parts[8], 16) & _RTF_UP_GATEWAY == _RTF_UP_GATEWAY:
            found.add(parts[9])
    return tuple(sorted(found - {"lo"}))


def addresses(interfaces: tuple[str, ...], table6: Path = Path("/proc/net/if_inet6")) -> tuple[Address, ...]:
    """Return the interfaces' first IPv4 addresses and their global IPv6 addresses; state others in `node_addresses`."""
    found = [address for name in interfaces if (address := _ipv4(name)) is not None]
    for line in table6.read_text().splitlines() if table6.exists() else ():
        digits, _, _, scope, _, name = line.split()
        if name in interfaces and scope == "00":
            found.append(Address(socket.inet_ntop(socket.AF_INET6, bytes.fromhex(digits))))
    return tuple(dict.fromkeys(found))


def local_ports(path: Path = Path("/proc/sys/net/ipv4/ip_local_port_range")) -> tuple[int, int] | None:
    """Return the first and the last port that the node's own sockets choose from, of both families; None when nobody says."""
    try:
        first, last = path.read_text().split()
        return int(first), int(last)
    except (OSError, ValueError):
        return None


def _ipv4(interface: str) -> Address | None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        try:
            reply = fcntl.ioctl(control, _SIOCGIFADDR, struct.pack("256s", interface.encode()[:15]))
        except OSError:
            return None  # the interface has no IPv4 address, or is not there
    return Address(socket.inet_ntoa(reply[20:24]))


def interface(ifindex: int) -> str:
    """Return the device's name; empty for none, and for one that is gone."""
    try:
        return socket.if_indextoname(ifindex) if ifindex else ""
    except OSError:
        return ""
