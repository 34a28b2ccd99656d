"""What network devices there are, and how they stand; reads only."""

from __future__ import annotations

from dataclasses import dataclass

from pyroute2.netlink import nlmsg, rtnl
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import IFF_UP, ifinfmsg

from fairlead.address import Address
from services.datapath.kernel.netlink import Message, Netlink, body

ETHERNET = 1


@dataclass(frozen=True)
class Device:
    """One network device."""

    name: str
    ifindex: int
    mac: bytes
    mtu_bytes: int
    peer_ifindex: int
    kind: int
    is_up: bool = False
    mark: str = ""
    """What was written on it (its alias): see `links.mark_of`."""


def _device(answer: nlmsg) -> Device:
    kind = answer["ifi_type"]
    return Device(
        name=answer.get_attr("IFLA_IFNAME"),
        ifindex=answer["index"],
        mac=bytes.fromhex(answer.get_attr("IFLA_ADDRESS").replace(":", "")) if kind == ETHERNET else b"",
        mtu_bytes=answer.get_attr("IFLA_MTU"),
        peer_ifindex=answer.get_attr("IFLA_LINK", 0),
        kind=kind,
        is_up=bool(answer["flags"] & IFF_UP),
        mark=answer.get_attr("IFLA_IFALIAS", ""),
    )


def find_device(wire: Netlink, name: str) -> Device | None:
    """Return the device of that name in the socket's namespace, or None."""
    answer = wire.ask(Message(rtnl.RTM_GETLINK, body(ifinfmsg, {}, IFLA_IFNAME=name), f"look for device {name}"))
    return _device(answer) if answer is not None else None


def all_devices(wire: Netlink) -> list[Device]:
    """Return every device of the socket's namespace."""
    return [_device(answer) for answer in wire.dump(Message(rtnl.RTM_GETLINK, body(ifinfmsg, {}), "list devices"))]


def addresses_of(wire: Netlink, index: int) -> set[Address]:
    """Return the host addresses that a device has, link-local ones left out."""
    found = set()
    for answer in wire.dump(Message(rtnl.RTM_GETADDR, body(ifaddrmsg, {"index": index}), "list addresses")):
        if answer["index"] == index and answer["scope"] == rtnl.rt_scope["universe"]:
            # IFA_ADDRESS is the other side's on a point-to-point device, and IPv6 has no IFA_LOCAL elsewhere
            found.add(Address(answer.get_attr("IFA_LOCAL") or answer.get_attr("IFA_ADDRESS")))
    return found
