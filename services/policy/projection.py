"""Keeps the buckets equal to what the store comes to: documents and identities in, rows and prefixes out.

Order on the bus: a prefix is announced only after the rows that know its identity are written, and keeps its identity in the rows for a
while after it is announced no more. A node may read the two buckets in any order in between; it never meets an identity that its
rows do not know.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping

from fairlead.announce import Projector
from fairlead.bus import Bucket
from fairlead.clock import Clock
from fairlead.errors import Unavailable
from fairlead.kv import Change, Item
from fairlead.schema.policy import CidrRows, PolicyRow
from services.policy.announcing import Rows
from services.policy.bucket import PackedBucket
from services.policy.packed import PackedRow
from services.policy.store import POLICIES, PolicyStore
from services.policy.told import ALL, Report, Told
from services.policy.view import View

_READY_S = 2.0
MOST_TOGETHER = 64
"""Commits that are worked in together while they come faster than one by one: rows that many of them touch are then made once."""


class Projection:
    """What the store says, and what is announced of it."""

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
        at_rest: Callable[[], None] = lambda: None,
    ) -> None:
        """`at_rest` is called whenever every row has been made, and what is there stays for long."""
        self._new_view = new_view
        self._store = store
        self._turn = asyncio.Lock()
        """One change at a time, time included."""
        self.view = new_view()
        packed = PackedBucket(rows, clock)
        self._told = Told(packed, cidrs, clock=clock, report=report)
        self._rows = Rows(
            packed,
            lambda: self.view,
            self._turn,
            clock=clock,
            report=report,
            accept_mass_change=accept_mass_change,
            at_rest=at_rest,
        )
        self.cidrs = Projector(cidrs, clock=clock)
        self._clock = clock
        self._report = report
        self._ready = asyncio.Event()
        self.leading = False
        """Whether this replica makes rows and announces them."""
        self._revision = 0
        self._resolved = asyncio.Condition()
        self._wanted_cidrs = CidrRows()
        self._cidrs_wanted = asyncio.Event()
        self._cidrs_told = asyncio.Event()

    @property
    def revision(self) -> int:
        """Return the newest revision of documents that has been read."""
        return self._revision

    async def on_snapshot(self, items: Mapping[str, Item], revision: int) -> None:
        """Read everything anew from a complete listing; rows that come to the same keep revision and trace."""
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
        self._rows.revision = max(self._rows.revision, revision)
        if self.leading:
            self._rows.look_again()
        self._conclude(revision, newest.trace if newest else "")
        self._ready.set()
        await self._advance(revision)

    async def on_changes(self, changes: tuple[Change, ...]) -> None:
        """Work one batch of changes into what they concern."""
        async with self._turn:
            await self._take_some(changes)

    async def _take_some(self, changes: tuple[Change, ...]) -> None:
        trace = self.view.take_changes(changes)
        missing = self.view.unnumbered
        if missing:
            self.view.number_prefixes(await self._store.number(missing))
        self._work(max(change.revision for change in changes), trace)
        documents = [change.revision for change in changes if change.key.startswith(POLICIES)]
        if documents:  # of other prefixes the watches may be ahead
            await self._advance(max(documents))

    def _work(self, revision: int, trace: str) -> None:
        self.view.pass_time(self._clock.now())
        self._rows.revision = max(self._rows.revision, revision)
        self._rows.work(self.view.model.take_pending(), trace)
        self._conclude(revision, trace)

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
        """Wait until documents as of `revision` are read, and rows and prefixes are written, by whoever leads."""
        async with self._resolved:
            await self._resolved.wait_for(lambda: self._revision >= revision)
        if self.leading:
            await self._rows.settled()
            await self._cidrs_told.wait()
            await self.cidrs.flushed()
            return
        await self._told.prefixes(lambda: self._wanted_cidrs)

    async def revisions(self, keys: Iterable[str]) -> dict[str, int]:
        """Return the revision of each of these rows on the bus, once it says there what it should."""
        if self.leading:
            wanted = self._rows.wanted
            return {key: wanted[key].revision for key in keys if key in wanted}
        told = {key: await self._told.row(key, self._row) for key in keys}
        return {key: revision for key, revision in told.items() if revision}

    def _row(self, key: str) -> PackedRow | None:
        """Return what a row should say, made here for once."""
        return self.view.model.packed(self.view.model.subject(key))

    async def announce(self) -> None:
        """Make rows and announce them, and prefixes, while this replica leads."""
        await self._ready.wait()
        await self._adopt()
        self.leading = True
        self._report("lead", True, "this replica announces")
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._rows.projector.run())
                group.create_task(self._rows.run())
                group.create_task(self._rows.drop_unknown())
                group.create_task(self.cidrs.run())
                group.create_task(self.announce_cidrs())
        finally:
            self.leading = False
            self._rows.let_go()
            self._report("lead", True, "another replica announces")

    async def _adopt(self) -> None:
        """Take over what the leader before has announced.

        What has a larger revision was made of something that this replica has yet to hear of: it stays until then.
        """
        rows, cidrs = await self._told.everything()
        async with self._turn:
            self._rows.take_over(rows)
            if cidrs.rows == self._wanted_cidrs.rows or cidrs.revision > self._wanted_cidrs.revision:
                self._wanted_cidrs = cidrs
            self._cidrs_told.clear()
            self._cidrs_wanted.set()

    async def announce_cidrs(self) -> None:
        """Announce prefixes after the rows that know them, for ever."""
        while True:
            await self._cidrs_wanted.wait()
            self._cidrs_wanted.clear()
            await self._rows.settled()
            self.cidrs.replace({ALL: self._wanted_cidrs}, self._wanted_cidrs.revision)
            if not self._cidrs_wanted.is_set():
                self._cidrs_told.set()

    def _conclude(self, revision: int, trace: str) -> None:
        unreadable = self.view.unreadable
        detail = "; ".join(f"{key}: {problem}" for key, problem in sorted(unreadable.items())[:3])
        self._report("store contents", not unreadable, f"{len(unreadable)} unusable: {detail}" if unreadable else "")
        audited = self.view.audited()
        self._report("audit", not audited, f"denying nothing: {'; '.join(audited)}" if audited else "")
        self._want_cidrs(revision, trace)

    def _want_cidrs(self, revision: int, trace: str) -> None:
        rows = self.view.cidr_rows()
        if rows != self._wanted_cidrs.rows or not self.cidrs.rows:
            newer = max(revision, self._wanted_cidrs.revision + 1 if rows != self._wanted_cidrs.rows else 0)
            self._wanted_cidrs = CidrRows(rows=rows, revision=newer, trace=trace)
            self._cidrs_told.clear()
            self._cidrs_wanted.set()

    async def _advance(self, revision: int) -> None:
        async with self._resolved:
            self._revision = max(self._revision, revision)
            self._resolved.notify_all()
