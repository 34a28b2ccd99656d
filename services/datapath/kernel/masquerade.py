"""What the programs must know to masquerade: this node's address per uplink, what is excluded, and the ports; and what stands now."""

from __future__ import annotations

import struct
import time
from collections.abc import Mapping, Sequence

from pyroute2.netlink import rtnl
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg

from fairlead.address import Address, Family, Prefix
from services.datapath.kernel import abi, links
from services.datapath.kernel.maps import Map
from services.datapath.kernel.netlink import Message, Netlink, body
from services.datapath.outside import Masquerade, MasqueradedFlow

FEATURES = {4: 1, 6: 2}
_UNFIT = 0x01 | 0x08 | 0x20 | 0x40
"""Flags of addresses that are second, temporary, doubled, deprecated or not ready."""

WayOut = tuple[int, int]
"""Device number and family."""


def standing_addresses(wire: Netlink, index: int) -> list[Address]:
    """Return the global addresses of a device that it may speak as, in the kernel's order."""
    answers = wire.dump(Message(rtnl.RTM_GETADDR, body(ifaddrmsg, {"index": index}), "list addresses"))
    return [
        Address(answer.get_attr("IFA_LOCAL") or answer.get_attr("IFA_ADDRESS"))
        for answer in answers
        if answer["index"] == index
        and answer["scope"] == rtnl.rt_scope["universe"]
        and not (answer.get_attr("IFA_FLAGS") or answer["flags"]) & _UNFIT
    ]


def own_addresses(wire: Netlink, uplinks: Sequence[str], stated: Sequence[Address]) -> dict[WayOut, Address]:
    """Return as whom flows leave by each uplink. Raises KernelError for an uplink that is missing."""
    indexes = [links.find_uplink(wire, name).ifindex for name in uplinks]
    return choose({index: standing_addresses(wire, index) for index in indexes}, stated)


def choose(standing: Mapping[int, Sequence[Address]], own: Sequence[Address]) -> dict[WayOut, Address]:
    """Return as whom flows leave by each device: its first address, one of the node's stated ones before others; without any, the node's."""
    found: dict[WayOut, Address] = {}
    for index, addresses in standing.items():
        for family in (4, 6):
            here = [address for address in addresses if address.family == family]
            stated = [address for address in own if address.family == family]
            candidates = [*(address for address in here if address in stated), *here, *stated]
            if candidates:
                found[index, family] = candidates[0]
    return found


class MasqueradeTables:
    """The maps of masquerade; the settings that turn it on are written by `Tables`, after these."""

    def __init__(self, maps: Mapping[str, Map]) -> None:
        self._addresses, self._exclusions = maps["masquerade_addresses"], maps["masquerade_exclusions"]
        self._flows = maps["masquerade"]

    def set_addresses(self, wanted: Mapping[WayOut, Address]) -> None:
        """Make these, and no others, be the addresses that flows leave with."""
        rows = {struct.pack("=II", *way): abi.pack_address(address) for way, address in wanted.items()}
        _make(self._addresses, rows)

    def addresses(self) -> dict[WayOut, Address]:
        """Return the addresses that flows leave with."""
        rows = self._addresses.items().items()
        return {struct.unpack("=II", key): abi.unpack_address(value) for key, value in rows}

    def set_exclusions(self, wanted: frozenset[Prefix]) -> None:
        """Make these prefixes, and no others, be excluded."""
        _make(self._exclusions, {abi.pack_prefix(prefix): bytes(4) for prefix in wanted})

    def exclusions(self) -> frozenset[Prefix]:
        """Return the excluded prefixes."""
        return frozenset(abi.unpack_prefix(key) for key in self._exclusions.items())

    def flows(self, jiffies_per_second: int) -> list[MasqueradedFlow]:
        """Return the outer ends that are held, sorted."""
        now = _jiffies(jiffies_per_second)
        rows = self._flows.items().items()
        return sorted(_flow(key, value, now, jiffies_per_second) for key, value in rows)


def keep(stands: abi.Settings, wanted: abi.Settings) -> int:
    """Return the wanted features, with masquerade as it stands."""
    ours = FEATURES[4] | FEATURES[6]
    return wanted.features & ~ours | stands.features & ours


def settings_with(settings: abi.Settings, wanted: Masquerade) -> abi.Settings:
    """Return the settings with masquerade as wanted, all else the same."""
    features = settings.features & ~(FEATURES[4] | FEATURES[6])
    features |= sum(FEATURES[family] for family in wanted.families)
    return settings._replace(features=features, nat_first_port=wanted.first_port, nat_last_port=wanted.last_port)


def standing(settings: abi.Settings, tables: MasqueradeTables) -> Masquerade:
    """Return what the programs are told."""
    families = frozenset(Family(family) for family, bit in FEATURES.items() if settings.features & bit)
    ports = settings.nat_first_port, settings.nat_last_port
    return Masquerade(families, *ports, tables.exclusions(), tuple(sorted(set(tables.addresses().values()))))


def _make(table: Map, rows: Mapping[bytes, bytes]) -> None:
    have = table.items()
    table.put_all({key: value for key, value in rows.items() if have.get(key) != value})
    table.delete_all(sorted(have.keys() - rows.keys()))


def _flow(key: bytes, value: bytes, now: int, jiffies_per_second: int) -> MasqueradedFlow:
    remote, own, remote_port, own_port, protocol = abi.MASQUERADE_KEY.unpack(key)
    last_seen, pod, pod_port = abi.MASQUERADE.unpack(value)
    return MasqueradedFlow(
        protocol=protocol,
        pod=abi.unpack_address(pod),
        pod_port=int.from_bytes(pod_port, "big"),
        own=abi.unpack_address(own),
        own_port=int.from_bytes(own_port, "big"),
        remote=abi.unpack_address(remote),
        remote_port=int.from_bytes(remote_port, "big"),
        idle_s=max(0.0, ((now - last_seen) & 0xFFFFFFFFFFFFFFFF) / jiffies_per_second),
    )


def _jiffies(per_second: int) -> int:
    """Return what the programs' clock says: at boot it began five minutes before 32 bits overflow."""
    began: int = (-300 * per_second) & 0xFFFFFFFF
    return began + int(time.monotonic() * per_second)
