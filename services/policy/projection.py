"""Keeps the buckets equal to what the store comes to: the only place where rows get their revision and trace.

Order on the bus: a prefix is announced only after the rows that know its identity are written, and keeps its identity in the rows for a
while after it is announced no more. A node may read the two buckets in any order in between; it never meets an identity that its
rows do not know.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping

from msgspec.structs import replace

from fairlead import telemetry
from fairlead.announce import Projector
from fairlead.bus import Bucket
from fairlead.clock import Clock
from fairlead.errors import Unavailable
from fairlead.kv import Change, Item
from fairlead.schema.policy import CidrRows, PolicyRow
from services.policy.packed import PackedBucket, PackedRow
from services.policy.store import POLICIES, PolicyStore
from services.policy.subjects import is_subject
from services.policy.told import ALL, Report, Told, newest, opens, same
from services.policy.view import View

_READY_S = 2.0
_UNKNOWN_S = 5.0
_HELD_ROWS = 20
_HELD_SHARE = 0.5


class Projection:
    """Rows and prefixes, from the store to the bus."""

    def __init__(
        self,
        new_view: Callable[[], View],
        store: PolicyStore,
        rows: Bucket[PolicyRow],
        cidrs: Bucket[CidrRows],
        *,
        clock: Clock,
        report: Report,
        accept_mass_change: bool = False,
    ) -> None:
        self._new_view = new_view
        self._store = store
        packed = PackedBucket(rows)
        self._told = Told(packed, cidrs, clock=clock, report=report)
        self.rows = Projector(packed, clock=clock)
        self.cidrs = Projector(cidrs, clock=clock)
        self._clock = clock
        self._report = report
        self._accept_mass_change = accept_mass_change
        self.view = new_view()
        self._read = False
        self._ready = asyncio.Event()
        self._held = False
        self.leading = False
        """Whether this replica announces."""
        self._dropped: set[str] = set()
        """Rows that this replica has removed on purpose."""
        self._turn = asyncio.Lock()
        """One change at a time, time included."""
        self._revision = 0
        self._resolved = asyncio.Condition()
        self._wanted_cidrs = CidrRows()
        self._cidrs_wanted = asyncio.Event()
        self._cidrs_told = asyncio.Event()

    @property
    def revision(self) -> int:
        """Return the newest revision of documents that is resolved into rows."""
        return self._revision

    async def on_snapshot(self, items: Mapping[str, Item], revision: int) -> None:
        """Make everything anew from a complete listing; rows that come to the same keep revision and trace."""
        if not self._read:
            rows, self._wanted_cidrs = await self._told.everything()
            for key, row in rows.items():
                self.rows.set(key, row)
            self._read = True
        async with self._turn:
            await self._take_all(items, revision)

    async def _take_all(self, items: Mapping[str, Item], revision: int) -> None:
        view = self._new_view()
        view.take_items(items.values())
        view.number_prefixes(await self._store.number(view.unnumbered))
        view.pass_time(self._clock.now())
        view.model.take_pending()
        self.view = view
        documents = view.documents.values()
        newest = max(documents, key=lambda stored: stored.revision, default=None)
        self._replace(revision, newest.trace if newest else "")
        self._ready.set()
        await self._advance(revision)

    async def on_changes(self, changes: tuple[Change, ...]) -> None:
        """Work one batch of changes into the rows that they concern."""
        async with self._turn:
            await self._take_some(changes)

    async def _take_some(self, changes: tuple[Change, ...]) -> None:
        trace = self.view.take_changes(changes)
        missing = self.view.unnumbered
        if missing:
            self.view.number_prefixes(await self._store.number(missing))
        revision = changes[-1].revision
        self._work(revision, trace)
        if any(change.key.startswith(POLICIES) for change in changes):
            await self._advance(revision)

    def _work(self, revision: int, trace: str) -> None:
        self.view.pass_time(self._clock.now())
        if self._held:
            self._replace(revision, trace)
        else:
            self._update(self.view.model.take_pending(), revision, trace)

    async def pass_time(self) -> None:
        """End the audits whose time is over."""
        if self._ready.is_set():
            async with self._turn:
                if self.view.pass_time(self._clock.now()):
                    self._work(self._revision, "")

    async def ready(self) -> None:
        """Return when the store has been read once. Raises Unavailable when that takes long."""
        try:
            async with asyncio.timeout(_READY_S):
                await self._ready.wait()
        except TimeoutError as error:
            raise Unavailable("policies have not been read yet: the store or the bus is away") from error

    async def caught_up(self, revision: int) -> None:
        """Wait until documents as of `revision` have been read. Raises Unavailable when that takes long."""
        try:
            async with asyncio.timeout(_READY_S), self._resolved:
                await self._resolved.wait_for(lambda: self._revision >= revision)
        except TimeoutError as error:
            raise Unavailable(f"policies as of revision {revision} have not been read yet") from error

    async def settled(self, revision: int) -> None:
        """Wait until documents as of `revision` are resolved, and rows and prefixes are written, by whoever leads."""
        async with self._resolved:
            await self._resolved.wait_for(lambda: self._revision >= revision and not self._held)
        if self.leading:
            await self.rows.flushed()
            await self._cidrs_told.wait()
            await self.cidrs.flushed()
            return
        await self._told.prefixes(lambda: self._wanted_cidrs)

    async def revisions(self, keys: Iterable[str]) -> dict[str, int]:
        """Return the revision of each of these rows on the bus, once it says there what it says here."""
        wanted = self.rows.rows
        mine = [key for key in keys if key in wanted]
        if self.leading:
            return {key: wanted[key].revision for key in mine}
        told = {key: await self._told.row(key, lambda: self.rows.rows) for key in mine}
        return {key: revision for key, revision in told.items() if revision}

    async def announce(self) -> None:
        """Announce rows and prefixes while this replica leads."""
        await self._ready.wait()
        unknown = await self._adopt()
        self.leading = True
        self._report("lead", True, "this replica announces")
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self.rows.run())
                group.create_task(self.cidrs.run())
                group.create_task(self.announce_cidrs())
                group.create_task(self._drop(unknown))
        finally:
            self.leading = False
            self._report("lead", True, "another replica announces")

    async def _adopt(self) -> list[str]:
        """Take over what the leader before has announced; return the rows of subjects that are not known here.

        A row with a larger revision was made of something that this replica has yet to hear of: it stays until then.
        """
        rows, cidrs = await self._told.everything()
        async with self._turn:
            unknown = [key for key in rows if key not in self.rows.rows and key not in self._dropped]
            for key in rows.keys() - self._dropped:
                self.rows.set(key, newest(self.rows.rows.get(key), rows[key]))
            if cidrs.rows == self._wanted_cidrs.rows or cidrs.revision > self._wanted_cidrs.revision:
                self._wanted_cidrs = cidrs
            self._cidrs_told.clear()
            self._cidrs_wanted.set()
        return unknown

    async def _drop(self, unknown: Iterable[str]) -> None:
        """Remove rows of subjects that are still not known after a while: by then it is no delay."""
        await self._clock.sleep(_UNKNOWN_S)
        known = self.view.model.row_keys
        for key in unknown:
            if not self._held and key not in known:
                self.rows.remove(key)

    async def announce_cidrs(self) -> None:
        """Announce prefixes after the rows that know them, for ever."""
        while True:
            await self._cidrs_wanted.wait()
            self._cidrs_wanted.clear()
            await self.rows.flushed()
            self.cidrs.replace({ALL: self._wanted_cidrs}, self._wanted_cidrs.revision)
            if not self._cidrs_wanted.is_set():
                self._cidrs_told.set()

    def _replace(self, revision: int, trace: str) -> None:
        """Make every row anew, unless that would open or remove too many at once."""
        model = self.view.model
        old = dict(self.rows.rows)
        with telemetry.span("policy.resolve", parent=trace, revision=revision):
            wanted = {
                key: self._stamped(key, row, revision)
                for number in sorted(model.identities)
                if is_subject(number) and (row := model.packed(number)) is not None and (key := model.row_key(number))
            }
        opened = sum(opens(row, wanted.get(key)) for key, row in old.items())
        limit = max(_HELD_ROWS, _HELD_SHARE * len(old))
        self._held = opened > limit and not self._accept_mass_change
        detail = (
            f"{opened} of {len(old)} subjects would lose their policy at once; the rows announced before are kept. If this is "
            "meant, restart with accept_mass_change"
        )
        self._report("mass change", not self._held, detail if self._held else "")
        if not self._held:
            model.take_pending()
            self._dropped |= old.keys() - wanted.keys()
            self._dropped -= wanted.keys()
            self.rows.replace(wanted, revision)
        self._conclude(revision, trace)

    def _update(self, numbers: Iterable[int], revision: int, trace: str) -> None:
        pending = sorted(numbers)
        if pending:
            with telemetry.span("policy.resolve", parent=trace, revision=revision, subjects=len(pending)):
                for number in pending:
                    self._update_row(number, revision)
        self._conclude(revision, trace)

    def _update_row(self, number: int, revision: int) -> None:
        key, row = self.view.model.row_key(number), self.view.model.packed(number)
        if row is None:
            self._dropped.add(key)
            self.rows.remove(key)
            return
        self._dropped.discard(key)
        stamped = self._stamped(key, row, revision)
        if stamped is not self.rows.rows.get(key):
            self.rows.set(key, stamped)

    def _stamped(self, key: str, row: PackedRow, revision: int) -> PackedRow:
        """Return the row announced before if it says the same, else the new one with a larger revision."""
        old = self.rows.rows.get(key)
        if old is not None and same(old, row):
            return old
        # Prefixes of the store are watched one by one, so that a change may come after one with a larger revision.
        newer = max(revision, old.revision + 1 if old else 0)
        return replace(row, revision=newer, trace=telemetry.traceparent())

    def _conclude(self, revision: int, trace: str) -> None:
        unreadable = self.view.unreadable
        detail = "; ".join(f"{key}: {problem}" for key, problem in sorted(unreadable.items())[:3])
        self._report("store contents", not unreadable, f"{len(unreadable)} unusable: {detail}" if unreadable else "")
        audited = self.view.audited()
        self._report("audit", not audited, f"denying nothing: {'; '.join(audited)}" if audited else "")
        self._want_cidrs(revision, trace)

    def _want_cidrs(self, revision: int, trace: str) -> None:
        rows = self.view.cidr_rows()
        if not self._held and (rows != self._wanted_cidrs.rows or not self.cidrs.rows):
            newer = max(revision, self._wanted_cidrs.revision + 1 if rows != self._wanted_cidrs.rows else 0)
            self._wanted_cidrs = CidrRows(rows=rows, revision=newer, trace=trace)
            self._cidrs_told.clear()
            self._cidrs_wanted.set()

    async def _advance(self, revision: int) -> None:
        async with self._resolved:
            self._revision = max(self._revision, revision)
            self._resolved.notify_all()
