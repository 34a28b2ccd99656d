"""Veth pairs of endpoints: made, completed after a kill, found again, removed. What sets filters on them is passed in."""

from __future__ import annotations

from collections.abc import Callable

from services.datapath.kernel import abi, links, netlink
from services.datapath.kernel.netlink import Netlink
from services.datapath.operations import KernelError, Link, Plugged

Attach = Callable[[int, int, str], None]
"""Puts the program of that name on a device (by ifindex) and hook."""


def plug(wire: Netlink, link: Link, default_mtu_bytes: int, attach: Attach) -> Plugged:
    """Make veth pair, addresses, routes and filter be there. The endpoint passes nothing before `put_endpoint`."""
    name, mtu_bytes = links.host_interface(link.endpoint), link.mtu_bytes or default_mtu_bytes
    if link.netns:
        device = _plug_into(wire, link, name, mtu_bytes)
    else:  # wherever the far end is by now: a pair lives and dies whole
        device = links.find_device(wire, name) or _make_pair(wire, link, name, mtu_bytes, None)
    wire.send([links.set_shape(name, abi.GATEWAY_MAC, mtu_bytes), *links.set_up(name)])
    attach(device.ifindex, links.INGRESS, "from_pod")
    return Plugged(link.endpoint, name, device.ifindex, abi.GATEWAY_MAC, links.pod_mac(link.endpoint))


def _plug_into(wire: Netlink, link: Link, name: str, mtu_bytes: int) -> links.Device:
    """Return the host side of the pair whose far end stands in the link's namespace with all that it needs there."""
    with netlink.inside(link.netns):
        pod = Netlink()
    try:
        device = _ensure_pair(wire, link, name, mtu_bytes, pod)
        far = links.find_device(pod, link.interface)
        if far is None:
            raise KernelError(f"{link.interface} in {link.netns} vanished while it was being made")
        with netlink.inside(link.netns):
            links.allow_ipv6(link)
        pod.send(links.pod_side(link, far, links.addresses_of(pod, far.ifindex), mtu_bytes))
    finally:
        pod.close()
    return device


def _ensure_pair(wire: Netlink, link: Link, name: str, mtu_bytes: int, pod: Netlink) -> links.Device:
    near, far = links.find_device(wire, name), links.find_device(pod, link.interface)
    if near is not None and far is not None and far.peer_ifindex == near.ifindex:
        return near
    if far is not None:
        raise KernelError(f"{link.netns} has another {link.interface} already: choose another interface name")
    if near is not None:
        wire.send([links.remove_device(name)])  # its far end is in a namespace of the past
    with netlink.namespace(link.netns) as fd:
        return _make_pair(wire, link, name, mtu_bytes, fd)


def _make_pair(wire: Netlink, link: Link, name: str, mtu_bytes: int, netns_fd: int | None) -> links.Device:
    peer = links.veth_peer(link.interface, links.pod_mac(link.endpoint), mtu_bytes, netns_fd)
    wire.send([links.add_veth(name, abi.GATEWAY_MAC, mtu_bytes, peer)])
    made = links.find_device(wire, name)
    if made is None:
        raise KernelError(f"{name} vanished while it was being made: is somebody else managing it?")
    return made


def plugged(wire: Netlink) -> dict[int, Plugged]:
    """Return the links that exist now and carry our filter, by endpoint number."""
    found = {}
    for device in links.all_devices(wire):
        endpoint = links.endpoint_of_interface(device.name)
        if endpoint is not None and links.attached(wire, device.ifindex, links.INGRESS) is not None:
            mac = links.pod_mac(endpoint)
            found[endpoint] = Plugged(endpoint, device.name, device.ifindex, device.mac, mac)
    return found


def release_uplink(wire: Netlink, ifindex: int) -> None:
    """Take our filters off an uplink, and the qdisc below them unless somebody else has filters there."""
    hooks = [hook for hook in (links.INGRESS, links.EGRESS) if links.attached(wire, ifindex, hook) is not None]
    wire.send([links.detach(ifindex, hook) for hook in hooks])
    if hooks and not links.has_filters(wire, ifindex):
        wire.send([links.remove_clsact(ifindex)])
