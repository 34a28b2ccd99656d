"""What of the pods' traffic leaves as the node's own: the option, what the fleet adds to it, and the reconciler's operations.

What is known of the fleet are the prefixes of every node's workloads: they are never masqueraded. Other nodes' own addresses have an
identity that is not the world's, which is enough for the programs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Protocol

from fairlead.address import Address, Family, Prefix
from fairlead.errors import FairleadError, InvalidInput
from fairlead.table import Table
from services.datapath.operations import Kernel
from services.datapath.outside import Masquerade
from services.datapath.worker import KernelThread

FAMILIES = {
    "none": frozenset[Family](),
    "ipv4": frozenset({Family.IPV4}),
    "ipv6": frozenset({Family.IPV6}),
    "both": frozenset({Family.IPV4, Family.IPV6}),
}
_FIRST_PORT = 1024


class Options(Protocol):
    """The options that matter here."""

    @property
    def masquerade(self) -> str:
        """Return `none`, `ipv4`, `ipv6` or `both`."""

    @property
    def masquerade_exclusions(self) -> tuple[Prefix, ...]:
        """Return destinations that see the pods' own addresses."""

    @property
    def masquerade_ports(self) -> str:
        """Return the first and the last port outside, a dash between them."""


def masquerade_of(options: Options, addresses: tuple[Address, ...]) -> Masquerade:
    """Return what the options ask for, for a node with these addresses. Raises InvalidInput for ports that make no range."""
    first, last = (int(part) for part in options.masquerade_ports.split("-"))
    if not _FIRST_PORT <= first <= last <= 0xFFFF:
        raise InvalidInput(
            f"`masquerade_ports`: {options.masquerade_ports} is no range of ports from {_FIRST_PORT} to 65535: "
            "state the first and the last, as in 61000-65535"
        )
    return Masquerade(FAMILIES[options.masquerade], first, last, frozenset(options.masquerade_exclusions), addresses)


def trouble(wanted: Masquerade, local_ports: tuple[int, int] | None) -> str:
    """Return what is wrong with the ports, given those that the node's own sockets choose from; empty: nothing."""
    if not wanted.families or local_ports is None:
        return ""
    first, last = local_ports
    if wanted.last_port < first or wanted.first_port > last:
        return ""
    return (
        f"masquerade_ports {wanted.first_port}-{wanted.last_port} and net.ipv4.ip_local_port_range {first}-{last} overlap: "
        "answers to this node's own connections may go to a pod; set one of them so that they do not"
    )


class MasqueradeWish:
    """What the node wants; told to the kernel once something of the fleet is known, since its prefixes must not be masqueraded."""

    def __init__(self, base: Masquerade) -> None:
        self.base = base
        self.table: Table[str, Masquerade] = Table("masquerade")
        self._fleet: dict[str, tuple[Prefix, ...]] = {}
        self._told = not base.families
        self._want()

    def hear(self, node: str, prefixes: tuple[Prefix, ...]) -> None:
        """Take the prefixes of a node's workloads."""
        self._fleet[node] = prefixes
        self._want()

    def tell(self) -> None:
        """Hear that the fleet is known, if only from the copies on disk."""
        if not self._told:
            self._told = True
            self._want()

    def _want(self) -> None:
        if self._told:
            fleet = frozenset(prefix for prefixes in self._fleet.values() for prefix in prefixes)
            self.table.put("own", dataclasses.replace(self.base, exclusions=self.base.exclusions | fleet))
            self.table.initialise()


class MasqueradeOperations:
    """What the reconciler does about it; the table has one row, `own`."""

    def __init__(self, kernel: Kernel, thread: KernelThread) -> None:
        self._kernel, self._thread = kernel, thread

    async def update(self, rows: Mapping[str, Masquerade]) -> Mapping[str, str]:
        """Tell the kernel."""
        try:
            texts = {name: await self._thread.call(self._set, wanted) for name, wanted in rows.items()}
        except FairleadError as error:
            return dict.fromkeys(rows, error.message)
        return {name: text for name, text in texts.items() if text}

    async def delete(self, rows: Mapping[str, Masquerade]) -> Mapping[str, str]:
        """Turn it off."""
        return await self.update(dict.fromkeys(rows, Masquerade()))

    async def prune(self, desired: Mapping[str, Masquerade]) -> None:
        """Say it again: what somebody changed, and addresses that uplinks have got since."""
        await self.update(desired)

    def _set(self, wanted: Masquerade) -> str:
        self._kernel.set_masquerade(wanted)
        have = {int(address.family) for address in self._kernel.masquerade().addresses}
        missing = sorted(f"IPv{int(family)}" for family in wanted.families if family not in have)
        if not missing:
            return ""
        return f"no uplink has an address of {', '.join(missing)}: what pods send to the world is dropped (167); set `node_addresses`"
