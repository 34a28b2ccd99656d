"""The device by which the node's own stack and its pods reach each other, and by which the stack gets what it shall refuse."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pyroute2.netlink.rtnl.ifinfmsg import IFF_NOARP

from services.datapath.kernel import abi
from services.datapath.kernel.devices import Device, find_device
from services.datapath.kernel.features import ANY_SIZE
from services.datapath.kernel.links import HOST_DEVICE, HOST_PEER, add_veth, set_shape, set_up, veth_peer, write_sysctl
from services.datapath.kernel.netlink import Netlink
from services.datapath.operations import KernelError
from services.datapath.reports import Feature

_PEER_MAC = bytes.fromhex("02666c000002")
_ANY_SIZE_BYTES = 65_535
_SETTINGS = ("ipv4", "forwarding"), ("ipv6", "forwarding"), ("ipv6", "force_forwarding")


@dataclass(frozen=True)
class Door:
    """The device, as routes by it need to know it."""

    ifindex: int = 0
    route_mtu_bytes: int = 0
    """What routes have to say, where the device takes more than pods do; 0: the device's own MTU counts."""


def ensure(wire: Netlink, mtu_bytes: int, features: Iterable[Feature]) -> Door:
    """Make the device be there, for packets of that size, and return it."""
    if any(one.name == ANY_SIZE and one.present for one in features):
        return Door(_device(wire, mtu_bytes).ifindex)
    # this kernel hands the device nothing larger than its MTU, and what is too large for the way would never be refused
    return Door(_device(wire, _ANY_SIZE_BYTES).ifindex, mtu_bytes)


def _device(wire: Netlink, mtu_bytes: int) -> Device:
    if find_device(wire, HOST_DEVICE) is None:
        peer = veth_peer(HOST_PEER, _PEER_MAC, mtu_bytes, None)
        wire.send([add_veth(HOST_DEVICE, abi.GATEWAY_MAC, mtu_bytes, peer)])
    # its MAC is the gateway's, so that what pods send to the gateway is for the stack
    shape = [set_shape(HOST_PEER, _PEER_MAC, mtu_bytes), set_shape(HOST_DEVICE, abi.GATEWAY_MAC, mtu_bytes)]
    wire.send([*shape, *set_up(HOST_PEER, IFF_NOARP), *set_up(HOST_DEVICE, IFF_NOARP)])
    for family, name in _SETTINGS:
        path = Path(f"/proc/sys/net/{family}/conf/{HOST_DEVICE}/{name}")
        if path.exists():
            write_sysctl(path, "1")
    device = find_device(wire, HOST_DEVICE)
    if device is None:
        raise KernelError(f"{HOST_DEVICE} vanished while it was being made: is somebody else managing it?")
    return device
