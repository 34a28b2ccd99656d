"""The device of the tunnels to other nodes: one for all of them, in external mode, so that a packet says where it goes and as whom."""

from __future__ import annotations

import errno

from pyroute2.netlink import nlmsg, rtnl
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from services.datapath.kernel import devices, links, netlink
from services.datapath.kernel.netlink import Message, Netlink, body, nested
from services.datapath.operations import KernelError
from services.datapath.overlay import Overlay

DEVICES = {"vxlan": "fairlead_vxlan", "geneve": "fairlead_geneve"}
_UNKNOWN_KIND = frozenset({errno.EOPNOTSUPP})
_INCOMPLETE = frozenset({errno.EINVAL})


def can_make(wire: Netlink, kind: str) -> bool:
    """Tell whether the kernel knows devices of that kind: it is asked for one that lacks all it needs, so that none is made."""
    info = nested(IFLA_INFO_KIND=kind)
    payload = body(ifinfmsg, {}, IFLA_IFNAME="fairlead_probe", IFLA_LINKINFO=info)
    unknown = Message(rtnl.RTM_NEWLINK, payload, f"probe {kind}", netlink.MAKE, fine=_INCOMPLETE)
    try:
        wire.send([unknown])
    except KernelError:
        return False
    return True


def ensure(wire: Netlink, overlay: Overlay | None, mtu_bytes: int) -> int:
    """Make the device that is wanted be there, and no other of ours. Return its ifindex, 0 without an overlay. Raises KernelError."""
    wanted = DEVICES[overlay.kind] if overlay else ""
    stale = [name for name in standing(wire) if name != wanted or not overlay or not fits(wire, overlay)]
    if stale:
        wire.send([links.remove_device(name) for name in stale])
    if overlay is None:
        return 0
    if devices.find_device(wire, wanted) is None:
        _make(wire, overlay, wanted)
    resize = body(ifinfmsg, {}, IFLA_IFNAME=wanted, IFLA_MTU=mtu_bytes)
    wire.send([Message(rtnl.RTM_SETLINK, resize, f"set MTU of {wanted}")])
    try:
        wire.send(links.set_up(wanted))
    except KernelError as error:
        raise KernelError(_taken(overlay, error.message)) from error
    device = devices.find_device(wire, wanted)
    if device is None:
        raise KernelError(f"{wanted} vanished while it was being made: is somebody else managing it?")
    return device.ifindex


def standing(wire: Netlink) -> list[str]:
    """Return the names of our tunnel devices that exist."""
    return [name for name in DEVICES.values() if devices.find_device(wire, name) is not None]


def fits(wire: Netlink, overlay: Overlay) -> bool:
    """Tell whether the device of that kind has the right port, and is in external mode."""
    ask = body(ifinfmsg, {}, IFLA_IFNAME=DEVICES[overlay.kind])
    answer = wire.ask(Message(rtnl.RTM_GETLINK, ask, f"look for device {DEVICES[overlay.kind]}"))
    info = answer.get_attr("IFLA_LINKINFO") if answer is not None else None
    data = (
        info.get_attr("IFLA_INFO_DATA")
        if info is not None and info.get_attr("IFLA_INFO_KIND") == overlay.kind
        else None
    )
    return data is not None and _external(data, overlay) and _get(data, overlay, "PORT") == overlay.udp_port


def _get(data: nlmsg, overlay: Overlay, name: str) -> object:
    return data.get_attr(f"IFLA_{overlay.kind.upper()}_{name}")


def _external(data: nlmsg, overlay: Overlay) -> bool:
    told = _get(data, overlay, "COLLECT_METADATA")
    return bool(told) if overlay.kind == "vxlan" else told is not None


def _make(wire: Netlink, overlay: Overlay, name: str) -> None:
    if not can_make(wire, overlay.kind):
        raise KernelError(
            f"this kernel cannot make {overlay.kind} devices: install the module `{overlay.kind}` (on Debian and Ubuntu it comes with "
            f"linux-modules), or set the option `routing` to another kind on every node"
        )
    if overlay.kind == "vxlan":
        data = nested(IFLA_VXLAN_COLLECT_METADATA=1, IFLA_VXLAN_LEARNING=0, IFLA_VXLAN_PORT=overlay.udp_port)
    else:
        data = nested(IFLA_GENEVE_COLLECT_METADATA=True, IFLA_GENEVE_PORT=overlay.udp_port)
    payload = body(
        ifinfmsg, {}, IFLA_IFNAME=name, IFLA_LINKINFO=nested(IFLA_INFO_KIND=overlay.kind, IFLA_INFO_DATA=data)
    )
    try:
        wire.send([Message(rtnl.RTM_NEWLINK, payload, f"create {name}", netlink.MAKE)])
    except KernelError as error:
        raise KernelError(_taken(overlay, error.message)) from error


def _taken(overlay: Overlay, refusal: str) -> str:
    hint = f"does another program have UDP port {overlay.udp_port}? Set the option `overlay_port` alike on every node"
    return f"{refusal}; {hint}"
