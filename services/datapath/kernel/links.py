"""Devices and filters: veth pairs of endpoints, and the programs on devices."""

from __future__ import annotations

import errno
import hashlib
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from pyroute2.netlink import nlmsg, rtnl
from pyroute2.netlink.rtnl.ifaddrmsg import IFA_F_NODAD, IFA_F_NOPREFIXROUTE, ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import IFF_UP, ifinfmsg
from pyroute2.netlink.rtnl.ndmsg import NUD_PERMANENT, ndmsg
from pyroute2.netlink.rtnl.rtmsg import RTNH_F_ONLINK, rtmsg
from pyroute2.netlink.rtnl.tcmsg import tcmsg
from pyroute2.netlink.rtnl.tcmsg.sched_bpf import TCA_BPF_FLAG_ACT_DIRECT
from pyroute2.protocols import ETH_P_ALL

from fairlead.address import Address
from services.datapath.kernel import abi, netlink
from services.datapath.kernel.devices import ETHERNET, Device, find_device
from services.datapath.kernel.netlink import Message, Netlink, body, nested
from services.datapath.operations import KernelError, Link

HOST_DEVICE, HOST_PEER = "fairlead_host", "fairlead_net"
INGRESS, EGRESS = 0xFFFFFFF2, 0xFFFFFFF3
_PRIORITY = 1
_PLUMBING = 1
"""Grows when `plug` does something that it did not do before: then what earlier versions plugged is plugged again."""
_ADDR_GEN_NONE = 1
_ALIKE = 64
"""How many requests are kept that endpoints have in common."""
_POD_INTERFACE = re.compile(r"fl(\d{5})")
_GATEWAYS = {4: Address("169.254.1.1"), 6: Address("fe80::1")}
_NO_IPV6 = frozenset({errno.EAFNOSUPPORT, errno.EOPNOTSUPP, errno.ENODEV})


@dataclass(frozen=True)
class Attached:
    """One of our filters."""

    program: str
    program_id: int


def host_interface(endpoint: int) -> str:
    """Return the name of the host side of an endpoint's pair."""
    return f"fl{endpoint:05d}"


def endpoint_of_interface(name: str) -> int | None:
    """Return the endpoint whose host side has this name, or None."""
    match = _POD_INTERFACE.fullmatch(name)
    return int(match.group(1)) if match else None


def pod_mac(endpoint: int) -> bytes:
    """Return the MAC of the endpoint's own side: locally administered, the number in its last bytes."""
    return bytes.fromhex("02666c01") + endpoint.to_bytes(2, "big")


def find_uplink(wire: Netlink, name: str) -> Device:
    """Return an uplink. Raises KernelError if it is missing or not Ethernet."""
    device = find_device(wire, name)
    if device is None:
        raise KernelError(f"uplink {name} does not exist in this network namespace: correct the option `uplinks`")
    if device.kind != ETHERNET:
        raise KernelError(f"uplink {name} is not an Ethernet device (kind {device.kind}); only Ethernet is supported")
    return device


def _shape(name: str, mac: bytes, mtu_bytes: int) -> dict[str, object]:
    return {"IFLA_IFNAME": name, "IFLA_ADDRESS": mac.hex(":"), "IFLA_MTU": mtu_bytes}


def add_veth(name: str, mac: bytes, mtu_bytes: int, peer: dict[str, object]) -> Message:
    """Return the request for a veth pair; `peer` comes from `veth_peer`."""
    info = nested(IFLA_INFO_KIND="veth", IFLA_INFO_DATA=nested(VETH_INFO_PEER=peer))
    payload = body(ifinfmsg, {}, **_shape(name, mac, mtu_bytes), IFLA_LINKINFO=info)
    return Message(rtnl.RTM_NEWLINK, payload, f"create {name}", netlink.MAKE)


def veth_peer(name: str, mac: bytes, mtu_bytes: int, netns_fd: int | None) -> dict[str, object]:
    """Return the description of a pair's other side, born in the namespace of the descriptor."""
    place = {"IFLA_NET_NS_FD": netns_fd} if netns_fd is not None else {}
    return nested(**_shape(name, mac, mtu_bytes), **place)


@lru_cache(_ALIKE)
def set_up(name: str, flags: int = 0) -> tuple[Message, ...]:
    """Return the requests that bring a device up without an IPv6 link-local address: nobody speaks from one."""
    no_link_local = nested(AF_INET6=nested(IFLA_INET6_ADDR_GEN_MODE=_ADDR_GEN_NONE))
    prepare = body(ifinfmsg, {}, IFLA_IFNAME=name, IFLA_AF_SPEC=no_link_local)
    flags |= IFF_UP
    rise = body(ifinfmsg, {"flags": flags, "change": flags}, IFLA_IFNAME=name)
    return (
        Message(rtnl.RTM_SETLINK, prepare, f"prepare {name}", fine=_NO_IPV6),
        Message(rtnl.RTM_SETLINK, rise, f"bring {name} up"),
    )


def set_shape(name: str, mac: bytes, mtu_bytes: int) -> Message:
    """Return the request that gives a device its MAC and MTU."""
    return Message(rtnl.RTM_SETLINK, body(ifinfmsg, {}, **_shape(name, mac, mtu_bytes)), f"set MAC and MTU of {name}")


def mark_of(link: Link, mtu_bytes: int) -> str:
    """Return what is written on the host side of a link that stands complete: it names all that `plug` has done, and the namespace.

    The namespace is known by its inode: its path may lead to another one later. Raises KernelError when there is none.
    """
    try:
        place = Path(link.netns).stat().st_ino if link.netns else 0
    except OSError as error:
        raise KernelError(f"network namespace {link.netns} cannot be opened: {error.strerror}") from error
    done = (_PLUMBING, place, link.interface, *sorted(link.addresses), mtu_bytes)
    digest = hashlib.blake2b(" ".join(map(str, done)).encode(), digest_size=8)
    return f"fairlead endpoint {link.endpoint} {digest.hexdigest()}"


def set_mark(name: str, mark: str) -> Message:
    """Return the request that writes on a device; people see it as the device's alias."""
    return Message(rtnl.RTM_SETLINK, body(ifinfmsg, {}, IFLA_IFNAME=name, IFLA_IFALIAS=mark), f"mark {name}")


def remove_device(name: str) -> Message:
    """Return the request that removes a device, whether it is there or not."""
    return Message(rtnl.RTM_DELLINK, body(ifinfmsg, {}, IFLA_IFNAME=name), f"remove {name}", fine=netlink.ABSENT)


def _family(address: Address) -> int:
    return socket.AF_INET if address.family == 4 else socket.AF_INET6


def _address(index: int, address: Address) -> nlmsg:
    # nodad for IPv6: no double can exist
    flags = IFA_F_NOPREFIXROUTE | (IFA_F_NODAD if address.family == 6 else 0)
    fields = {"family": _family(address), "prefixlen": address.family.bits, "index": index}
    return body(ifaddrmsg, fields, IFA_LOCAL=str(address), IFA_ADDRESS=str(address), IFA_FLAGS=flags)


def _add_address(index: int, address: Address) -> Message:
    return Message(rtnl.RTM_NEWADDR, _address(index, address), f"add address {address}", netlink.SET)


def _remove_address(index: int, address: Address) -> Message:
    return Message(rtnl.RTM_DELADDR, _address(index, address), f"remove address {address}", fine=netlink.ABSENT)


@lru_cache(_ALIKE)
def _gateway_messages(index: int, family: int) -> tuple[Message, ...]:
    gateway = _GATEWAYS[family]
    neighbour = body(
        ndmsg,
        {"family": _family(gateway), "ifindex": index, "state": NUD_PERMANENT},
        NDA_DST=str(gateway),
        NDA_LLADDR=abi.GATEWAY_MAC.hex(":"),
    )
    fields = {
        "family": _family(gateway),
        "table": 254,  # main
        "proto": rtnl.rt_proto["static"],
        "scope": rtnl.rt_scope["universe"],
        "type": rtnl.rt_type["unicast"],
        "flags": RTNH_F_ONLINK,
    }
    route = body(rtmsg, fields, RTA_GATEWAY=str(gateway), RTA_OIF=index)
    return (
        Message(rtnl.RTM_NEWNEIGH, neighbour, f"set neighbour {gateway}", netlink.SET),
        Message(rtnl.RTM_NEWROUTE, route, f"set default route by {gateway}", netlink.SET),
    )


def pod_side(link: Link, index: int, have: set[Address], mtu_bytes: int, *, shaped: bool = False) -> list[Message]:
    """Return the requests that give the endpoint's own side its shape (unless it was born with it), addresses, gateway and routes."""
    gone = sorted(have - set(link.addresses))
    families = sorted({int(address.family) for address in link.addresses})
    return [
        *(() if shaped else (set_shape(link.interface, pod_mac(link.endpoint), mtu_bytes),)),
        *set_up("lo"),
        *set_up(link.interface),
        *(_remove_address(index, address) for address in gone),
        *(_add_address(index, address) for address in link.addresses),
        *(message for family in families for message in _gateway_messages(index, family)),
    ]


def _hook(index: int, hook: int) -> dict[str, int]:
    return {"index": index, "handle": 1, "parent": hook, "info": _PRIORITY << 16 | socket.htons(ETH_P_ALL)}


def _clsact(index: int) -> nlmsg:
    return body(tcmsg, {"index": index, "handle": 0xFFFF0000, "parent": rtnl.TC_H_CLSACT}, TCA_KIND="clsact")


def attach(index: int, hook: int, program: str, fd: int) -> list[Message]:
    """Return the requests that put a program on a hook; one that is there is replaced without a gap."""
    options = nested(TCA_BPF_FD=fd, TCA_BPF_NAME=f"fairlead:{program}", TCA_BPF_FLAGS=TCA_BPF_FLAG_ACT_DIRECT)
    # the kind comes first: by it pyroute2 knows what the options are
    filtering = body(tcmsg, _hook(index, hook), TCA_KIND="bpf", TCA_OPTIONS=options)
    return [
        Message(rtnl.RTM_NEWQDISC, _clsact(index), "add clsact", netlink.MAKE, fine=netlink.ALREADY),
        Message(rtnl.RTM_NEWTFILTER, filtering, f"attach {program}", netlink.SET),
    ]


def remove_clsact(index: int) -> Message:
    """Return the request that removes the qdisc below the hooks; do it only when nobody's filter is left on it."""
    return Message(rtnl.RTM_DELQDISC, _clsact(index), "remove clsact", fine=netlink.ABSENT | {errno.EINVAL})


def _filters(wire: Netlink, index: int, hook: int) -> list[nlmsg]:
    ask = body(tcmsg, {"index": index, "parent": hook})
    return wire.dump(Message(rtnl.RTM_GETTFILTER, ask, "list filters"))


def has_filters(wire: Netlink, index: int) -> bool:
    """Tell whether any filter, ours or another's, is on the device's hooks."""
    return any(_filters(wire, index, hook) for hook in (INGRESS, EGRESS))


def detach(index: int, hook: int) -> Message:
    """Return the request that takes our program off a hook."""
    payload = body(tcmsg, _hook(index, hook), TCA_KIND="bpf")
    return Message(rtnl.RTM_DELTFILTER, payload, "detach", fine=netlink.ABSENT | {errno.EINVAL})


def attached(wire: Netlink, index: int, hook: int) -> Attached | None:
    """Return our filter on a hook, or None."""
    for answer in _filters(wire, index, hook):
        if answer["handle"] and answer.get_attr("TCA_KIND") == "bpf":
            options = answer.get_attr("TCA_OPTIONS")
            name = options.get_attr("TCA_BPF_NAME", "")
            if name.startswith("fairlead:"):
                return Attached(name.removeprefix("fairlead:"), options.get_attr("TCA_BPF_ID"))
    return None


def write_sysctl(path: Path, value: str) -> None:
    """Write a kernel setting. Raises KernelError if that is refused."""
    try:
        if path.read_text().strip() != value:
            path.write_text(value)
    except OSError as error:
        raise KernelError(f"cannot write {value} to {path}: {error.strerror}") from error


def check_names(uplinks: Sequence[str]) -> None:
    """Raise KernelError for an uplink name that cannot be one."""
    for name in uplinks:
        if not name or len(name) > 15 or name in {HOST_DEVICE, HOST_PEER} or endpoint_of_interface(name) is not None:
            raise KernelError(f"{name!r} cannot be an uplink: name the device that leads to the network")


def allow_ipv6(link: Link) -> None:
    """Let the endpoint's side have IPv6 addresses although its namespace forbids them. Call it inside the namespace."""
    if all(address.family != 6 for address in link.addresses):
        return
    setting = Path(f"/proc/sys/net/ipv6/conf/{link.interface}/disable_ipv6")
    if setting.exists():
        write_sysctl(setting, "0")
