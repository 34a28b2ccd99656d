"""The part of `linux.LinuxKernel` about addresses and their identities."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from fairlead.address import Address, Prefix
from services.datapath.addressmaps import AddressDrift
from services.datapath.kernel.tables import Tables


class LinuxAddresses:
    """The operations on the address maps."""

    _tables: Tables

    def addresses(self) -> dict[Prefix, int]:
        """Return prefix to identity as the maps have it."""
        return self._tables.ipcache.all()

    def compare_addresses(self, want: Mapping[Prefix, int]) -> AddressDrift:
        """Compare the whole maps with what should be there."""
        return self._tables.ipcache.compare(want)

    def unlike_addresses(self, rows: Mapping[Prefix, int]) -> dict[Prefix, int | None]:
        """Return what stands in the place of those rows that do not stand as they are given; None: nothing."""
        return self._tables.ipcache.unlike(rows)

    def apply_addresses(self, puts: Mapping[Prefix, int], deletes: Iterable[Prefix]) -> None:
        """Change prefix to identity, then have flows judged anew if any mapping changed or went."""
        self._tables.apply_addresses(puts, deletes)

    def lookup_address(self, address: Address) -> tuple[Prefix, int] | None:
        """Return what the programs would find for the address, or None (then it is world)."""
        return self._tables.ipcache.find(address)
