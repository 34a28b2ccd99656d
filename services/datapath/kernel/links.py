"""Devices and filters: veth pairs of endpoints, the door of the node's own stack, and the programs on them."""

from __future__ import annotations

import errno
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fairlead.address import Address
from services.datapath.kernel import abi, netlink
from services.datapath.kernel.netlink import Message, Netlink, attribute, number, text
from services.datapath.operations import KernelError, Link

HOST_DEVICE, HOST_PEER = "fairlead_host", "fairlead_net"
_HOST_PEER_MAC = bytes.fromhex("02666c000002")
INGRESS, EGRESS = 0xFFFFFFF2, 0xFFFFFFF3
_CLSACT = 0xFFFFFFF1
_ALL_PROTOCOLS_BE = 0x0300
_PRIORITY = 1
_UP, _NOARP = 1, 0x80
_ADDRESS, _NAME, _MTU, _LINK, _LINKINFO, _AF_SPEC, _NETNS_FD, _LINK_NETNSID = 1, 3, 4, 5, 18, 26, 28, 37
_ETHERNET = 1
_POD_INTERFACE = re.compile(r"fl(\d{5})")
_GATEWAYS = {4: Address("169.254.1.1"), 6: Address("fe80::1")}
_NO_IPV6 = frozenset({errno.EAFNOSUPPORT, errno.EOPNOTSUPP, errno.ENODEV})


@dataclass(frozen=True)
class Device:
    """One network device."""

    name: str
    ifindex: int
    mac: bytes
    mtu_bytes: int
    peer_ifindex: int
    kind: int


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


def _ifinfo(index: int = 0, flags: int = 0, change: int = 0) -> bytes:
    return struct.pack("=BxHiII", 0, 0, index, flags, change)


def _device(payload: bytes) -> Device:
    _, kind, index, _, _ = struct.unpack_from("=BxHiII", payload)
    found = netlink.attributes(payload, 16)
    return Device(
        name=found[_NAME].rstrip(b"\0").decode(),
        ifindex=index,
        mac=found.get(_ADDRESS, b""),
        mtu_bytes=struct.unpack("=I", found[_MTU])[0],
        peer_ifindex=struct.unpack("=I", found[_LINK])[0] if _LINK in found else 0,
        kind=kind,
    )


def find_device(wire: Netlink, name: str) -> Device | None:
    """Return the device of that name in the socket's namespace, or None."""
    answer = wire.ask(Message(netlink.GETLINK, _ifinfo() + text(_NAME, name), f"look for device {name}"))
    return _device(answer) if answer is not None else None


def all_devices(wire: Netlink) -> list[Device]:
    """Return every device of the socket's namespace."""
    return [_device(payload) for payload in wire.dump(Message(netlink.GETLINK, _ifinfo(), "list devices"))]


def find_uplink(wire: Netlink, name: str) -> Device:
    """Return an uplink. Raises KernelError if it is missing or not Ethernet."""
    device = find_device(wire, name)
    if device is None:
        raise KernelError(f"uplink {name} does not exist in this network namespace: correct the option `uplinks`")
    if device.kind != _ETHERNET:
        raise KernelError(f"uplink {name} is not an Ethernet device (kind {device.kind}); only Ethernet is supported")
    return device


def add_veth(name: str, mac: bytes, mtu_bytes: int, peer: bytes) -> Message:
    """Return the request for a veth pair; `peer` comes from `veth_peer`."""
    veth = attribute(2, attribute(1, peer))
    info = attribute(_LINKINFO, text(1, "veth") + veth)
    payload = _ifinfo() + text(_NAME, name) + attribute(_ADDRESS, mac) + number(_MTU, mtu_bytes) + info
    return Message(netlink.NEWLINK, payload, f"create {name}", netlink.CREATE | netlink.EXCLUSIVE)


def veth_peer(name: str, mac: bytes, mtu_bytes: int, netns_fd: int | None) -> bytes:
    """Return the description of a pair's other side, born in the namespace of the descriptor."""
    place = number(_NETNS_FD, netns_fd) if netns_fd is not None else b""
    return _ifinfo() + text(_NAME, name) + attribute(_ADDRESS, mac) + number(_MTU, mtu_bytes) + place


def set_up(name: str, flags: int = 0) -> list[Message]:
    """Return the requests that bring a device up without an IPv6 link-local address: nobody speaks from one."""
    no_link_local = attribute(_AF_SPEC, attribute(10, attribute(8, b"\x01")))
    flags |= _UP
    return [
        Message(netlink.SETLINK, _ifinfo() + text(_NAME, name) + no_link_local, f"prepare {name}", fine=_NO_IPV6),
        Message(netlink.SETLINK, _ifinfo(0, flags, flags) + text(_NAME, name), f"bring {name} up"),
    ]


def set_shape(name: str, mac: bytes, mtu_bytes: int) -> Message:
    """Return the request that gives a device its MAC and MTU."""
    payload = _ifinfo() + text(_NAME, name) + attribute(_ADDRESS, mac) + number(_MTU, mtu_bytes)
    return Message(netlink.SETLINK, payload, f"set MAC and MTU of {name}")


def remove_device(name: str) -> Message:
    """Return the request that removes a device, whether it is there or not."""
    return Message(netlink.DELLINK, _ifinfo() + text(_NAME, name), f"remove {name}", fine=netlink.ABSENT)


def _family(address: Address) -> int:
    return 2 if address.family == 4 else 10


def _address_message(kind: int, index: int, address: Address) -> Message:
    family = _family(address)
    flags = number(8, 0x202 if family == 10 else 0x200)  # nodad for IPv6: no double can exist; no prefix route
    payload = struct.pack("=BBBBI", family, address.family.bits, 0, 0, index)
    payload += attribute(2, address.packed) + attribute(1, address.packed) + flags
    if kind == netlink.NEWADDR:
        return Message(kind, payload, f"add address {address}", netlink.CREATE | netlink.REPLACE)
    return Message(kind, payload, f"remove address {address}", fine=netlink.ABSENT)


def addresses_of(wire: Netlink, index: int) -> set[Address]:
    """Return the host addresses that a device has, link-local ones left out."""
    found = set()
    for payload in wire.dump(Message(netlink.GETADDR, struct.pack("=BBBBI", 0, 0, 0, 0, 0), "list addresses")):
        family, _, _, scope, owner = struct.unpack_from("=BBBBI", payload)
        values = netlink.attributes(payload, 8)
        if owner == index and scope == 0 and family in {2, 10}:
            packed = values.get(2, values.get(1, b""))
            mapped = packed if family == 10 else b"\0" * 10 + b"\xff\xff" + packed
            found.add(abi.unpack_address(mapped))
    return found


def _gateway_messages(index: int, family: int) -> list[Message]:
    gateway = _GATEWAYS[family]
    number_of_family = _family(gateway)
    neighbour = struct.pack("=BxxxiHBB", number_of_family, index, 0x80, 0, 0)
    neighbour += attribute(1, gateway.packed) + attribute(2, abi.GATEWAY_MAC)
    # table main, protocol static, scope universe, unicast, on link
    route = struct.pack("=BBBBBBBBI", number_of_family, 0, 0, 0, 254, 4, 0, 1, 4)
    route += attribute(5, gateway.packed) + number(4, index)
    make = netlink.CREATE | netlink.REPLACE
    return [
        Message(netlink.NEWNEIGH, neighbour, f"set neighbour {gateway}", make),
        Message(netlink.NEWROUTE, route, f"set default route by {gateway}", make),
    ]


def pod_side(link: Link, device: Device, have: set[Address], mtu_bytes: int) -> list[Message]:
    """Return the requests that give the endpoint's own side its shape, addresses, gateway and routes."""
    gone = sorted(have - set(link.addresses))
    families = sorted({int(address.family) for address in link.addresses})
    return [
        set_shape(link.interface, pod_mac(link.endpoint), mtu_bytes),
        *set_up("lo"),
        *set_up(link.interface),
        *(_address_message(netlink.DELADDR, device.ifindex, address) for address in gone),
        *(_address_message(netlink.NEWADDR, device.ifindex, address) for address in link.addresses),
        *(message for family in families for message in _gateway_messages(device.ifindex, family)),
    ]


def attach(index: int, hook: int, program: str, fd: int) -> list[Message]:
    """Return the requests that put a program on a hook; one that is there is replaced without a gap."""
    qdisc = struct.pack("=BxxxiIII", 0, index, 0xFFFF0000, _CLSACT, 0) + text(1, "clsact")
    head = struct.pack("=BxxxiIII", 0, index, 1, hook, _PRIORITY << 16 | _ALL_PROTOCOLS_BE)
    options = number(6, fd) + text(7, f"fairlead:{program}") + number(8, 1)  # direct action
    return [
        Message(netlink.NEWQDISC, qdisc, "add clsact", netlink.CREATE | netlink.EXCLUSIVE, fine=netlink.ALREADY),
        Message(
            netlink.NEWTFILTER,
            head + text(1, "bpf") + attribute(2, options),
            f"attach {program}",
            netlink.CREATE | netlink.REPLACE,
        ),
    ]


def remove_clsact(index: int) -> Message:
    """Return the request that removes the qdisc below the hooks; do it only when nobody's filter is left on it."""
    qdisc = struct.pack("=BxxxiIII", 0, index, 0xFFFF0000, _CLSACT, 0)
    return Message(netlink.DELQDISC, qdisc, "remove clsact", fine=netlink.ABSENT | {errno.EINVAL})


def has_filters(wire: Netlink, index: int) -> bool:
    """Tell whether any filter, ours or another's, is on the device's hooks."""
    asks = (
        Message(netlink.GETTFILTER, struct.pack("=BxxxiIII", 0, index, 0, hook, 0), "") for hook in (INGRESS, EGRESS)
    )
    return any(wire.dump(ask) for ask in asks)


def detach(index: int, hook: int) -> Message:
    """Return the request that takes our program off a hook."""
    head = struct.pack("=BxxxiIII", 0, index, 1, hook, _PRIORITY << 16 | _ALL_PROTOCOLS_BE) + text(1, "bpf")
    return Message(netlink.DELTFILTER, head, "detach", fine=netlink.ABSENT | {errno.EINVAL})


def attached(wire: Netlink, index: int, hook: int) -> Attached | None:
    """Return our filter on a hook, or None."""
    ask = Message(netlink.GETTFILTER, struct.pack("=BxxxiIII", 0, index, 0, hook, 0), "list filters")
    for payload in wire.dump(ask):
        handle = struct.unpack_from("=I", payload, 8)[0]
        options = netlink.attributes(netlink.attributes(payload, 20).get(2, b""), 0)
        name = options.get(7, b"").rstrip(b"\0").decode()
        if handle and name.startswith("fairlead:"):
            return Attached(name.removeprefix("fairlead:"), struct.unpack("=I", options[11])[0])
    return None


def write_sysctl(path: Path, value: str) -> None:
    """Write a kernel setting. Raises KernelError if that is refused."""
    try:
        if path.read_text().strip() != value:
            path.write_text(value)
    except OSError as error:
        raise KernelError(f"cannot write {value} to {path}: {error.strerror}") from error


def host_door(wire: Netlink, mtu_bytes: int) -> Device:
    """Make the device by which the node's own stack and its pods reach each other be there, and return it."""
    if find_device(wire, HOST_DEVICE) is None:
        peer = veth_peer(HOST_PEER, _HOST_PEER_MAC, mtu_bytes, None)
        wire.send([add_veth(HOST_DEVICE, abi.GATEWAY_MAC, mtu_bytes, peer)])
    # its MAC is the gateway's, so that what pods send to the gateway is for the stack
    shape = [set_shape(HOST_PEER, _HOST_PEER_MAC, mtu_bytes), set_shape(HOST_DEVICE, abi.GATEWAY_MAC, mtu_bytes)]
    wire.send([*shape, *set_up(HOST_PEER, _NOARP), *set_up(HOST_DEVICE, _NOARP)])
    for family in ("ipv4", "ipv6"):
        forwarding = Path(f"/proc/sys/net/{family}/conf/{HOST_DEVICE}/forwarding")
        if forwarding.exists():
            write_sysctl(forwarding, "1")
    device = find_device(wire, HOST_DEVICE)
    if device is None:
        raise KernelError(f"{HOST_DEVICE} vanished while it was being made: is somebody else managing it?")
    return device


def check_names(uplinks: Sequence[str]) -> None:
    """Raise KernelError for an uplink name that cannot be one."""
    for name in uplinks:
        if not name or len(name) > 15 or name in {HOST_DEVICE, HOST_PEER} or endpoint_of_interface(name) is not None:
            raise KernelError(f"{name!r} cannot be an uplink: name the device that leads to the network")


def allow_ipv6(link: Link) -> None:
    """Let the endpoint's side have IPv6 addresses although its namespace forbids them. Call it inside the namespace."""
    setting = Path(f"/proc/sys/net/ipv6/conf/{link.interface}/disable_ipv6")
    if any(address.family == 6 for address in link.addresses) and setting.exists():
        write_sysctl(setting, "0")
