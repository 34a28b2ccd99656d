"""Looks at the node's devices, filters, routes, rules, settings and pins, and says what is not as the service makes it. Reads only.

It opens everything anew, by name, and trusts nothing that a running service holds open: what the next process would find is what counts.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing
from pathlib import Path

from pyroute2.netlink import rtnl
from pyroute2.netlink.rtnl.fibmsg import fibmsg
from pyroute2.netlink.rtnl.ndmsg import ndmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from fairlead.address import Prefix
from services.datapath.kernel import abi, devices, links, netlink, overlay, pins, routes, syscalls
from services.datapath.kernel.netlink import Message, Netlink, body
from services.datapath.operations import KernelError, Link
from services.datapath.overlay import Overlay
from services.datapath.verify import Difference

_MAIN = 254
_ZERO = struct.pack("=I", 0)
_FAMILIES = {4: 2, 6: 10}


class Surveyor:
    """`verify.Inspector` of the network namespace in which it is called."""

    def __init__(self, pin_directory: Path, uplinks: Sequence[str], tunnels: Overlay | None = None) -> None:
        self._directory = pin_directory
        self._overlay = tunnels
        self._uplinks = tuple(uplinks)

    def node(self, prefixes: Collection[Prefix]) -> list[Difference]:
        """Return what is wrong with what all endpoints share."""
        with closing(Netlink()) as wire:
            found = [*self._pins(wire), *self._host_devices(wire), *self._settings(wire)]
            for name in self._uplinks:
                found += self._filter(wire, name, links.INGRESS, "from_network", "uplink filter")
            found += self._filter(wire, links.HOST_DEVICE, links.EGRESS, "from_host", "host filter")
            found += self._tunnels(wire)
            return [*found, *_routes(wire, prefixes), *_rules(wire, prefixes)]

    def endpoint(self, link: Link) -> list[Difference]:
        """Return what is wrong with one endpoint's plumbing."""
        name, subject = links.host_interface(link.endpoint), f"endpoint {link.endpoint}"
        with closing(Netlink()) as wire:
            near = devices.find_device(wire, name)
            if near is None:
                return [Difference(subject, "host device missing", name, link.endpoint)]
            problems = [] if near.is_up else [("host device down", name)]
            if near.mac != abi.GATEWAY_MAC:
                problems.append(("host device has another MAC", near.mac.hex(":")))
            problems += [
                (one.problem, one.detail) for one in self._filter(wire, name, links.INGRESS, "from_pod", "filter")
            ]
        problems += self._slot(link.endpoint, "cilium_policy_", "policies", "policy map")
        problems += self._slot(link.endpoint, f"{abi.PIN_PREFIX}ranges_", "policy_ranges", "map of port ranges")
        problems += self._pod(link, near)
        return [Difference(subject, problem, detail, link.endpoint) for problem, detail in problems]

    # pins

    def _pins(self, wire: Netlink) -> Iterator[Difference]:
        names = [*abi.map_specs(1, 1), *abi.PROGRAMS]
        for name in names:
            pin = self._directory / f"{abi.PIN_PREFIX}{name}"
            if not pin.exists():
                yield Difference(f"pin {pin.name}", "pin missing", str(pin))
        for pin in pins.foreign_pins(wire, self._directory, self._uplinks):
            yield Difference(f"pin {pin.name}", "pin stands for another map than programs use", str(pin))

    def _slot(self, endpoint: int, prefix: str, array: str, noun: str) -> Iterator[tuple[str, str]]:
        """Compare one of an endpoint's own maps with what the programs find in the array of maps."""
        pin = self._directory / f"{prefix}{endpoint:05d}"
        slots = self._open(self._directory / f"{abi.PIN_PREFIX}{array}")
        if slots is None:
            return  # told as a missing pin
        try:
            shown = syscalls.map_lookup(slots, struct.pack("=I", endpoint), 4)
        finally:
            os.close(slots)
        map_id = pins.pinned_map(pin)
        if map_id is None:
            if shown is not None or array == "policies":
                yield f"pin of {noun} missing", str(pin)
        elif shown != struct.pack("=I", map_id):
            yield f"programs see another {noun} than the pinned one", str(pin)

    def _open(self, pin: Path) -> int | None:
        try:
            return syscalls.object_get(str(pin))
        except OSError:
            return None

    def _settings(self, wire: Netlink) -> Iterator[Difference]:
        fd = self._open(self._directory / f"{abi.PIN_PREFIX}settings")
        device = devices.find_device(wire, links.HOST_DEVICE)
        if fd is None or device is None:
            return  # told elsewhere
        try:
            packed = syscalls.map_lookup(fd, _ZERO, abi.SETTINGS.size) or bytes(abi.SETTINGS.size)
        finally:
            os.close(fd)
        told = abi.Settings(*abi.SETTINGS.unpack(packed))
        yield from self._guards(wire, guarded=bool(told.features & abi.FEATURE_FIREWALL))
        if told.host_ifindex != device.ifindex:
            detail = f"should be {device.ifindex}, is {told.host_ifindex}"
            yield Difference("settings", "programs look for the host at another device", detail)
        tunnel = devices.find_device(wire, overlay.DEVICES[self._overlay.kind]) if self._overlay else None
        if told.tunnel_ifindex != (tunnel.ifindex if tunnel else 0):
            detail = f"should be {tunnel.ifindex if tunnel else 0}, is {told.tunnel_ifindex}"
            yield Difference("settings", "programs look for tunnels at another device", detail)

    # devices and filters

    def _guards(self, wire: Netlink, *, guarded: bool) -> Iterator[Difference]:
        """Look at the filter on what leaves by the uplinks: there exactly while the node itself is filtered."""
        for name in self._uplinks:
            if guarded:
                yield from self._filter(wire, name, links.EGRESS, "to_uplink", "uplink egress filter")
            elif (device := devices.find_device(wire, name)) and links.attached(wire, device.ifindex, links.EGRESS):
                yield Difference(f"device {name}", "uplink egress filter foreign", f"to_uplink on {name}")

    def _filter(self, wire: Netlink, name: str, hook: int, program: str, noun: str) -> Iterator[Difference]:
        device = devices.find_device(wire, name)
        if device is None:
            yield Difference(f"device {name}", "device missing")
            return
        standing = links.attached(wire, device.ifindex, hook)
        if standing is None:
            yield Difference(f"device {name}", f"{noun} missing", f"{program} on {name}")
            return
        fd = self._open(self._directory / f"{abi.PIN_PREFIX}{program}")
        if fd is None:
            return  # told as a missing pin
        try:
            wanted = syscalls.program_id(fd)
        finally:
            os.close(fd)
        if standing.program_id != wanted:
            detail = f"should be {program} ({wanted}), is {standing.program} ({standing.program_id})"
            yield Difference(f"device {name}", f"{noun}: wrong program", detail)

    def _host_devices(self, wire: Netlink) -> Iterator[Difference]:
        for name in (links.HOST_DEVICE, links.HOST_PEER):
            device = devices.find_device(wire, name)
            if device is None and name == links.HOST_PEER:
                yield Difference(f"device {name}", "device missing")
            elif device is not None and not device.is_up:
                yield Difference(f"device {name}", "device down")
        for family in ("ipv4", "ipv6"):
            setting = Path(f"/proc/sys/net/{family}/conf/{links.HOST_DEVICE}/forwarding")
            if setting.exists() and setting.read_text().strip() != "1":
                yield Difference(f"device {links.HOST_DEVICE}", "forwarding is off", str(setting))

    def _tunnels(self, wire: Netlink) -> Iterator[Difference]:
        wanted = overlay.DEVICES[self._overlay.kind] if self._overlay else ""
        for name in overlay.standing(wire):
            if name != wanted:
                yield Difference(f"device {name}", "device foreign", "the option `routing` asks for no such tunnels")
        if self._overlay is None:
            return
        yield from self._filter(wire, wanted, links.INGRESS, "from_overlay", "tunnel filter")
        device = devices.find_device(wire, wanted)
        if device is None:
            return  # told by the filter
        if not device.is_up:
            yield Difference(f"device {wanted}", "device down")
        if not overlay.fits(wire, self._overlay):
            yield Difference(f"device {wanted}", "device has another port or mode", f"UDP {self._overlay.udp_port}")

    # the endpoint's own side

    def _pod(self, link: Link, near: devices.Device) -> Iterator[tuple[str, str]]:
        if not link.netns:
            return  # whoever moved it answers for it
        try:
            with netlink.inside(link.netns):
                wire = Netlink()
        except KernelError as error:
            yield "namespace missing", error.message
            return
        with closing(wire):
            far = devices.find_device(wire, link.interface)
            if far is None or far.peer_ifindex != near.ifindex:
                yield "pod interface missing", f"{link.interface} in {link.netns}"
                return
            if not far.is_up:
                yield "pod interface down", link.interface
            if far.mac != links.pod_mac(link.endpoint):
                yield "pod interface has another MAC", far.mac.hex(":")
            standing = devices.addresses_of(wire, far.ifindex)
            for address in sorted(set(link.addresses) - standing):
                yield "pod address missing", str(address)
            for address in sorted(standing - set(link.addresses)):
                yield "pod address foreign", str(address)
            for family in sorted({int(address.family) for address in link.addresses}):
                yield from _gateway(wire, far.ifindex, family)


def _gateway(wire: Netlink, index: int, family: int) -> Iterator[tuple[str, str]]:
    """Say what is missing of the way out: the default route, and the gateway's MAC."""
    gateway, family_number = links._GATEWAYS[family], _FAMILIES[family]  # noqa: SLF001 - the same facts, told once
    ask = Message(rtnl.RTM_GETROUTE, body(rtmsg, {"family": family_number}, RTA_TABLE=_MAIN), "list routes")
    routed = any(
        answer["dst_len"] == 0 and answer.get_attr("RTA_GATEWAY") == gateway and answer.get_attr("RTA_OIF") == index
        for answer in wire.dump(ask)
    )
    if not routed:
        yield "pod default route missing", f"IPv{family}"
    ask = Message(rtnl.RTM_GETNEIGH, body(ndmsg, {"family": family_number}, NDA_IFINDEX=index), "list neighbours")
    known = any(
        answer.get_attr("NDA_DST") == gateway and answer.get_attr("NDA_LLADDR") == abi.GATEWAY_MAC.hex(":")
        for answer in wire.dump(ask)
    )
    if not known:
        yield "pod gateway's MAC missing or wrong", f"IPv{family}"


def _routes(wire: Netlink, prefixes: Collection[Prefix]) -> Iterator[Difference]:
    have = routes.routes(wire).keys()
    for prefix in sorted(set(prefixes) - have):
        yield Difference(f"route {prefix}", "route missing", f"table {routes.TABLE}")
    for prefix in sorted(have - set(prefixes)):
        yield Difference(f"route {prefix}", "route foreign", f"table {routes.TABLE}")


def _rules(wire: Netlink, prefixes: Collection[Prefix]) -> Iterator[Difference]:
    for family in sorted({int(prefix.family) for prefix in prefixes}):
        ask = Message(rtnl.RTM_GETRULE, body(fibmsg, {"family": _FAMILIES[family]}), "list rules")
        if not any(answer.get_attr("FRA_TABLE") == routes.TABLE for answer in wire.dump(ask)):
            yield Difference(f"rule IPv{family}", "rule missing", f"priority {routes.PRIORITY} to table {routes.TABLE}")
