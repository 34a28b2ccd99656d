"""Veth pairs of endpoints: made, completed after a kill, found again, removed. What sets filters on them is passed in."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from services.datapath.kernel import abi, devices, links, netlink, overlay, routes
from services.datapath.kernel.netlink import Netlink
from services.datapath.operations import KernelError, Link, Plugged

Attach = Callable[[int, int, str], None]
"""Puts the program of that name on a device (by ifindex) and hook."""
Lacks = Callable[[int, int, str], bool]
"""Tells whether the program of that name is not on the device and hook."""


@dataclass(frozen=True)
class _Pair:
    """The two devices by their numbers, each in its own namespace; `is_new`: they have the shape in which they were just made."""

    near_ifindex: int
    far_ifindex: int
    is_new: bool = False


def plug(wire: Netlink, link: Link, default_mtu_bytes: int, attach: Attach) -> Plugged:
    """Make veth pair, addresses, routes and filter be there. The endpoint passes nothing before `put_endpoint`."""
    name, mtu_bytes = links.host_interface(link.endpoint), link.mtu_bytes or default_mtu_bytes
    mark, near = links.mark_of(link, mtu_bytes), devices.find_device(wire, name)
    if near is not None and near.mark:
        wire.send([links.set_mark(name, "")])  # until all is done: a kill in between must be seen
    # a far end without namespace is wherever it is by now: a pair lives and dies whole
    make = _plug_into if link.netns else _leave_here
    pair = make(wire, link, near, mtu_bytes)
    if not pair.is_new:
        wire.send([links.set_shape(name, abi.GATEWAY_MAC, mtu_bytes)])
    # before the near end is up: the far end is already, and would speak to the node past all policy
    attach(pair.near_ifindex, links.INGRESS, "from_pod")
    wire.send([*links.set_up(name), links.set_mark(name, mark)])
    return _plugged(link, pair.near_ifindex)


def intact(wire: Netlink, wanted: Iterable[Link], default_mtu_bytes: int, lacks: Lacks) -> dict[int, Plugged]:
    """Return those of the links on which `plug` has written that they stand complete. What stands within the namespaces is not looked at."""
    by_name, found = {device.name: device for device in devices.all_devices(wire)}, {}
    for link in wanted:
        near = by_name.get(links.host_interface(link.endpoint))
        if near is None or not _is_intact(near, link, link.mtu_bytes or default_mtu_bytes):
            continue
        if not lacks(near.ifindex, links.INGRESS, "from_pod"):
            found[link.endpoint] = _plugged(link, near.ifindex)
    return found


def _is_intact(near: devices.Device, link: Link, mtu_bytes: int) -> bool:
    try:
        mark = links.mark_of(link, mtu_bytes)
    except KernelError:  # its namespace is gone
        return False
    return near.is_up and (near.mac, near.mtu_bytes, near.mark) == (abi.GATEWAY_MAC, mtu_bytes, mark)


def _plugged(link: Link, ifindex: int) -> Plugged:
    name, mac = links.host_interface(link.endpoint), links.pod_mac(link.endpoint)
    return Plugged(link.endpoint, name, ifindex, abi.GATEWAY_MAC, mac)


def _leave_here(wire: Netlink, link: Link, near: devices.Device | None, mtu_bytes: int) -> _Pair:
    if near is not None:
        return _Pair(near.ifindex, near.peer_ifindex)
    return _make_pair(wire, link, mtu_bytes, None, wire)


def _plug_into(wire: Netlink, link: Link, near: devices.Device | None, mtu_bytes: int) -> _Pair:
    """Return the pair whose far end stands in the link's namespace with all that it needs there."""
    with netlink.inside(link.netns):
        pod = Netlink()
    try:
        pair = _ensure_pair(wire, link, near, mtu_bytes, pod)
        with netlink.inside(link.netns):
            links.allow_ipv6(link)
        have = set() if pair.is_new else devices.addresses_of(pod, pair.far_ifindex)
        pod.send(links.pod_side(link, pair.far_ifindex, have, mtu_bytes, shaped=pair.is_new))
    finally:
        pod.close()
    return pair


def _ensure_pair(wire: Netlink, link: Link, near: devices.Device | None, mtu_bytes: int, pod: Netlink) -> _Pair:
    far = devices.find_device(pod, link.interface)
    if near is not None and far is not None and far.peer_ifindex == near.ifindex:
        return _Pair(near.ifindex, near.peer_ifindex)
    if far is not None:
        raise KernelError(f"{link.netns} has another {link.interface} already: choose another interface name")
    if near is not None:
        wire.send([links.remove_device(near.name)])  # its far end is in a namespace of the past
    with netlink.namespace(link.netns) as fd:
        return _make_pair(wire, link, mtu_bytes, fd, pod)


def _make_pair(wire: Netlink, link: Link, mtu_bytes: int, netns_fd: int | None, pod: Netlink) -> _Pair:
    name = links.host_interface(link.endpoint)
    peer = links.veth_peer(link.interface, links.pod_mac(link.endpoint), mtu_bytes, netns_fd)
    wire.send([links.add_veth(name, abi.GATEWAY_MAC, mtu_bytes, peer)])
    return _Pair(wire.index_of(name), pod.index_of(link.interface), is_new=True)


def plugged(wire: Netlink) -> dict[int, Plugged]:
    """Return the links that exist now and carry our filter, by endpoint number."""
    found = {}
    for device in devices.all_devices(wire):
        endpoint = links.endpoint_of_interface(device.name)
        if endpoint is not None and links.attached(wire, device.ifindex, links.INGRESS) is not None:
            mac = links.pod_mac(endpoint)
            found[endpoint] = Plugged(endpoint, device.name, device.ifindex, device.mac, mac)
    return found


def remove_all(wire: Netlink, uplinks: Iterable[str]) -> None:
    """Remove our devices and routes, and take our filters off the uplinks."""
    by_name = {device.name: device for device in devices.all_devices(wire)}
    mine = [name for name in by_name if links.endpoint_of_interface(name) is not None]
    mine += [name for name in (links.HOST_DEVICE, *overlay.DEVICES.values()) if name in by_name]
    for name in by_name.keys() & set(uplinks):
        _release_uplink(wire, by_name[name].ifindex)
    routes.remove_all(wire)
    wire.send([links.remove_device(name) for name in mine])


def _release_uplink(wire: Netlink, ifindex: int) -> None:
    """Take our filters off an uplink, and the qdisc below them unless somebody else has filters there."""
    hooks = [hook for hook in (links.INGRESS, links.EGRESS) if links.attached(wire, ifindex, hook) is not None]
    wire.send([links.detach(ifindex, hook) for hook in hooks])
    if hooks and not links.has_filters(wire, ifindex):
        wire.send([links.remove_clsact(ifindex)])
