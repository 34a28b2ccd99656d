"""The address map on the event loop's side: what the sources say, what should stand, and the reconciler's operations.

Removals happen on positive evidence alone, and not when too many would go at once: those are held until their addresses are claimed
again, or until a person lets them go (by making the file `release-held` in the state folder).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from fairlead import telemetry
from fairlead.address import Prefix
from fairlead.clock import Clock
from fairlead.errors import FairleadError
from fairlead.table import Table
from services.datapath.directory import AddressBook, Rank, Source
from services.datapath.operations import Kernel
from services.datapath.plan import too_many
from services.datapath.store import Store
from services.datapath.worker import KernelThread

_LOG = logging.getLogger("datapath.addresses")


@dataclass(frozen=True, slots=True)
class Mapped:
    """The identity of a prefix, and the event it came with."""

    identity: int
    trace: str = field(default="", compare=False)


class Addresses:
    """Every address that this node knows."""

    def __init__(self, clock: Clock, store: Store) -> None:
        self._clock = clock
        self._store = store
        self._kept_version = 0
        """The version of the book whose ages are on disk."""
        self.book = AddressBook()
        self.table: Table[Prefix, Mapped] = Table("addresses")
        self.held: set[Prefix] = set()
        """Removals that were not executed, because they were too many at once."""

    def hear(self, source: Source, trace: str = "") -> None:
        """Take a source's word, and want what follows from it."""
        changed = self.book.put(source, self._clock.now())
        gone = {prefix for prefix, owner in changed.items() if owner is None}
        if source.rank not in (Rank.LOCAL, Rank.HOST) and self.hold(gone, len(self.table)):
            gone = set()
        identities = {owner.identity for owner in changed.values() if owner}
        mapped = {identity: Mapped(identity, trace) for identity in identities}
        wanted = {prefix: mapped[owner.identity] for prefix, owner in changed.items() if owner}
        self.held.difference_update(wanted)
        self.table.put_all(wanted)
        for prefix in gone:
            self.table.remove(prefix)

    def hold(self, gone: Collection[Prefix], present: int) -> bool:
        """Tell whether these removals are too many at once; then they are held."""
        if not too_many(gone, present):
            return False
        _LOG.error("%d of %d addresses would go at once: they are held", len(gone), present)
        self.held.update(gone)
        return True

    def release(self) -> None:
        """Let the held removals happen."""
        for prefix in self.held:
            if self.book.owner(prefix) is None:
                self.table.put(prefix, Mapped(0))  # it may stand in the kernel alone, from an earlier process
                self.table.remove(prefix)
        self.held.clear()

    def initialise(self) -> None:
        """Hear that every source has been heard."""
        if not self.table.initialised:
            self.book.recall(self._store.ages())
            self.table.initialise()

    async def keep_ages(self) -> None:
        """Keep on disk since when identities are known, if that has changed."""
        if self._kept_version != self.book.version:
            self._kept_version = self.book.version
            await asyncio.to_thread(self._store.save_ages, self.book.since())


class AddressOperations:
    """What the reconciler does to the address map. The map itself is the record of what stands: it is asked before it is changed."""

    def __init__(self, addresses: Addresses, kernel: Kernel, thread: KernelThread) -> None:
        self._addresses = addresses
        self._kernel = kernel
        self._thread = thread

    async def update(self, rows: Mapping[Prefix, Mapped]) -> Mapping[Prefix, str]:
        """Write those of these rows that do not stand, in as few calls as the kernel accepts."""
        return await self._write({prefix: mapped.identity for prefix, mapped in rows.items()}, (), _trace(rows))

    async def delete(self, rows: Mapping[Prefix, Mapped]) -> Mapping[Prefix, str]:
        """Remove these rows."""
        return await self._write({}, tuple(rows), _trace(rows))

    async def unlike(self, desired: Mapping[Prefix, Mapped]) -> Collection[Prefix]:
        """Return the rows that do not stand as they should; once everything is known, remove what nobody claims, but never too much at once."""
        wanted = {prefix: mapped.identity for prefix, mapped in desired.items()}
        found, missing = await self._thread.call(self._kernel.compare_addresses, wanted)
        if self._addresses.table.initialised:
            await self._remove_unclaimed(found, len(desired))
        return [*missing, *(found.keys() & desired.keys())]

    async def prune(self, desired: Mapping[Prefix, Mapped]) -> None:
        """Remove what nobody claims, and write what is missing or wrong."""
        self._addresses.table.touch(await self.unlike(desired))

    async def _remove_unclaimed(self, found: Iterable[Prefix], wanted: int) -> None:
        table = self._addresses.table
        gone = {prefix for prefix in found if table.get(prefix) is None and prefix not in self._addresses.held}
        if gone and not self._addresses.hold(gone, wanted + len(gone)):
            _LOG.info("%d addresses in the kernel belong to nobody: removing", len(gone))
            await self._thread.call(self._apply, {}, gone, "")

    async def _write(self, puts: Mapping[Prefix, int], deletes: Collection[Prefix], trace: str) -> dict[Prefix, str]:
        try:
            await self._thread.call(self._apply, puts, deletes, trace)
        except FairleadError as error:
            return await self._halve(puts, deletes, trace, error)
        return {}

    async def _halve(
        self, puts: Mapping[Prefix, int], deletes: Collection[Prefix], trace: str, error: FairleadError
    ) -> dict[Prefix, str]:
        """Find the guilty rows, so that they do not hinder the others."""
        if len(puts) + len(deletes) <= 1:
            return dict.fromkeys([*puts, *deletes], error.message)
        items, gone = list(puts.items()), list(deletes)
        first = await self._write(dict(items[: len(items) // 2]), gone[: len(gone) // 2], trace)
        return first | await self._write(dict(items[len(items) // 2 :]), gone[len(gone) // 2 :], trace)

    def _apply(self, puts: Mapping[Prefix, int], deletes: Collection[Prefix], trace: str) -> None:
        new = {prefix: puts[prefix] for prefix in self._kernel.unlike_addresses(puts)}
        if new or deletes:
            with telemetry.span("datapath.addresses.write", parent=trace, puts=len(new), deletes=len(deletes)):
                self._kernel.apply_addresses(new, deletes)


def _trace(rows: Mapping[Prefix, Mapped]) -> str:
    return next((mapped.trace for mapped in rows.values() if mapped.trace), "")


class PrefixOperations:
    """What the reconciler does about the prefixes of this node's workloads; the table has one row, `own`."""

    def __init__(self, kernel: Kernel, thread: KernelThread) -> None:
        self._kernel = kernel
        self._thread = thread

    async def update(self, rows: Mapping[str, tuple[Prefix, ...]]) -> Mapping[str, str]:
        """Tell the kernel which prefixes are ours."""
        return await self._set(rows)

    async def delete(self, rows: Mapping[str, tuple[Prefix, ...]]) -> Mapping[str, str]:
        """Tell the kernel that none is ours."""
        return await self._set(dict.fromkeys(rows, ()))

    async def _set(self, rows: Mapping[str, tuple[Prefix, ...]]) -> Mapping[str, str]:
        try:
            for prefixes in rows.values():
                await self._thread.call(self._kernel.set_prefixes, prefixes)
        except FairleadError as error:
            return dict.fromkeys(rows, error.message)
        return {}

    async def prune(self, desired: Mapping[str, tuple[Prefix, ...]]) -> None:
        """Say it again: a route that somebody removed comes back."""
        await self._set(desired)
