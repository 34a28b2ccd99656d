"""What can be asked of a kernel about addresses and their identities: the part of `operations.Kernel` about them.

There are hundreds of thousands of rows. The kernel's maps themselves are the record of what stands: they are compared where they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from fairlead.address import Address, Prefix

AddressDrift = tuple[dict[Prefix, int], tuple[Prefix, ...]]
"""Rows that stand with another identity or are not wanted, and wanted ones that are missing."""


class AddressMaps(Protocol):
    """Prefix to identity, as the programs look it up."""

    def addresses(self) -> dict[Prefix, int]:
        """Return prefix to identity as the maps have it: there are hundreds of thousands."""

    def compare_addresses(self, want: Mapping[Prefix, int]) -> AddressDrift:
        """Compare the whole maps with what should be there."""

    def unlike_addresses(self, rows: Mapping[Prefix, int]) -> dict[Prefix, int | None]:
        """Return what stands in the place of those rows that do not stand as they are given; None: nothing."""

    def apply_addresses(self, puts: Mapping[Prefix, int], deletes: Iterable[Prefix]) -> None:
        """Change prefix to identity, then have flows judged anew if any mapping changed or went."""

    def lookup_address(self, address: Address) -> tuple[Prefix, int] | None:
        """Return what the programs would find for the address, or None (then it is world)."""
