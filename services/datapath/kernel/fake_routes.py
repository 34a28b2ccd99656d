"""Where packets go that are for pods, and who stands behind an address: the part of `fake.FakeKernel` about ways and addresses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from fairlead.address import Address, Prefix
from services.datapath.addressmaps import AddressDrift
from services.datapath.kernel.abi import unpack_address
from services.datapath.kernel.twin.machine import Machine
from services.datapath.outside import Masquerade, MasqueradedFlow


@dataclass
class FakeWays:
    """What outlives a process of it."""

    prefixes: tuple[Prefix, ...] = ()
    tunnels: dict[Prefix, Address] = field(default_factory=dict)
    addresses: dict[Prefix, int] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)
    """The operations that changed something, oldest first."""
    masquerade: Masquerade = field(default_factory=Masquerade)
    machine: Machine = field(init=False)
    """The programs, with the flows that they remember."""


class FakeRoutes:
    """The operations on it."""

    world: FakeWays

    def _enter(self, operation: str, endpoint: int = 0) -> None:
        raise NotImplementedError

    def set_prefixes(self, prefixes: Iterable[Prefix]) -> None:
        """Remember the node's workload prefixes."""
        self._enter("set_prefixes")
        self.world.prefixes = tuple(sorted(set(prefixes)))

    def set_masquerade(self, wanted: Masquerade) -> None:
        """Remember what leaves as the node's, and as which of its stated addresses."""
        self._enter("set_masquerade")
        self.world.masquerade = wanted

    def masquerade(self) -> Masquerade:
        """Return what was set."""
        return self.world.masquerade

    def masqueraded(self) -> list[MasqueradedFlow]:
        """Return the outer ends that packets of this kernel have been given."""
        rows = self.world.machine.outside.rows.items()
        return sorted(
            MasqueradedFlow(
                key.protocol,
                *(unpack_address(pod[0]), pod[1]),
                *(unpack_address(key.own[0]), key.own[1]),
                *(unpack_address(key.remote[0]), key.remote[1]),
                idle_s=0.0,
            )
            for key, pod in rows
        )

    def tunnels(self) -> dict[Prefix, Address]:
        """Return prefix to the node that has it."""
        self._enter("tunnels")
        return dict(self.world.tunnels)

    def apply_tunnels(self, puts: Mapping[Prefix, Address], deletes: Iterable[Prefix]) -> None:
        """Change prefix to node."""
        self._enter("apply_tunnels")
        for prefix in deletes:
            self.world.tunnels.pop(prefix, None)
        self.world.tunnels.update(puts)

    def addresses(self) -> dict[Prefix, int]:
        """Return prefix to identity."""
        self._enter("addresses")
        return dict(self.world.addresses)

    def compare_addresses(self, want: Mapping[Prefix, int]) -> AddressDrift:
        """Compare the whole map with what should be there."""
        have = self.addresses()
        found = {prefix: identity for prefix, identity in have.items() if want.get(prefix) != identity}
        return found, tuple(prefix for prefix in want if prefix not in have)

    def unlike_addresses(self, rows: Mapping[Prefix, int]) -> dict[Prefix, int | None]:
        """Return what stands in the place of those rows that do not stand as they are given."""
        have = self.world.addresses
        return {prefix: have.get(prefix) for prefix, identity in rows.items() if have.get(prefix) != identity}

    def apply_addresses(self, puts: Mapping[Prefix, int], deletes: Iterable[Prefix]) -> None:
        """Change prefix to identity."""
        self._enter("apply_addresses")
        gone = list(deletes)
        for prefix in gone:
            self.world.addresses.pop(prefix, None)
        self.world.addresses.update(puts)
        self.world.log.append(f"apply_addresses +{len(puts)} -{len(gone)}")
