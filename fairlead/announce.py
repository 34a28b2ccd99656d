"""From etcd to the bus: follow prefixes of the store, and keep buckets equal to what is made of them.

The history of the store is the outbox: handlers commit, a `Follower` sees every commit in order (or, after a compaction, the whole
truth again), the service turns it into rows, and a `Projector` makes the bucket hold these rows. Any number of replicas may project
the same rows; equal rows are not written again, and a bucket that was lost is made anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Generic, TypeVar

from fairlead import telemetry
from fairlead.bus import Bucket
from fairlead.clock import SYSTEM, Clock
from fairlead.errors import Unavailable
from fairlead.kv import Change, Compacted, Item, Kv
from fairlead.schema.base import Row

V = TypeVar("V", bound=Row)

_LOG = logging.getLogger(__name__)
_RETRY_S = 0.5
_CHECK_S = 1.0
"""How often the bucket is looked at; a lost one is noticed within this time."""
_CHECK_NODE_S = 5.0
"""The same where every node has to ask for itself."""

OnSnapshot = Callable[[dict[str, Item], int], Awaitable[None]]
OnChanges = Callable[[tuple[Change, ...]], Awaitable[None]]


class Follower:
    """Everything under some prefixes of the store, then every change, for ever.

    `together`: how many commits may be handed on as one, in their order, when they come faster than they are worked in. With 1 every commit is seen alone.
    """

    def __init__(
        self,
        kv: Kv,
        prefixes: Sequence[str],
        *,
        on_snapshot: OnSnapshot,
        on_changes: OnChanges,
        clock: Clock = SYSTEM,
        together: int = 1,
    ) -> None:
        self._kv = kv
        self._together = together
        self._prefixes = tuple(prefixes)
        self._on_snapshot = on_snapshot
        self._on_changes = on_changes
        self._clock = clock
        self.revision = 0
        """The newest revision handed on."""

    async def run(self) -> None:
        """List, hand on, watch; list again when the store's history was compacted away."""
        while True:
            try:
                starts = await self._list()
                waiting: asyncio.Queue[tuple[Change, ...]] = asyncio.Queue(self._together)
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._hand_on(waiting))
                    for prefix, after in starts.items():
                        group.create_task(self._watch(prefix, after, waiting))
            except* Compacted:
                _LOG.info("history is compacted, listing again")
            except* Unavailable as group_error:
                _LOG.info("store: %s", group_error.exceptions[0])
                await self._clock.sleep(_RETRY_S)

    async def _list(self) -> dict[str, int]:
        """Hand on everything; return where each prefix's watch begins. The lists may differ in revision: the watches even it out."""
        listings = {prefix: await self._kv.list(prefix) for prefix in self._prefixes}
        items = {item.key: item for listing in listings.values() for item in listing.items}
        self.revision = max(listing.revision for listing in listings.values())
        await self._on_snapshot(items, self.revision)
        return {prefix: listing.revision for prefix, listing in listings.items()}

    async def _watch(self, prefix: str, after: int, waiting: asyncio.Queue[tuple[Change, ...]]) -> None:
        async for changes in self._kv.watch(prefix, after):
            await waiting.put(changes)

    async def _hand_on(self, waiting: asyncio.Queue[tuple[Change, ...]]) -> None:
        while True:
            changes = await waiting.get()
            for _ in range(min(waiting.qsize(), self._together - 1)):
                changes += waiting.get_nowait()
            await self._on_changes(changes)
            self.revision = max(self.revision, *(change.revision for change in changes))


class Projector(Generic[V]):
    """Keeps a bucket equal to the rows it was given.

    Nothing is removed from the bucket before `replace` has told everything once; `set` and `remove` before that are kept. Rows are
    written in the order in which they were last set. In a bucket with one row per node only the keys that were set are read and
    written: the others belong to other nodes, of which there may be thousands. With `at_once` above 1 so many rows are on their way together,
    and their order is lost.
    """

    def __init__(self, bucket: Bucket[V], *, clock: Clock = SYSTEM, at_once: int = 1) -> None:
        self._bucket = bucket
        self._at_once = at_once
        self._clock = clock
        self._check_s = _CHECK_NODE_S if bucket.spec.node_keyed else _CHECK_S
        self._desired: dict[str, V] = {}
        self._written: dict[str, V] | None = None
        """What the bucket holds, as far as we know; None: it must be read first."""
        self._dirty: dict[str, None] = {}
        """Keys to write, in the order in which they were last touched."""
        self._revision = 0
        self._known = False
        self._vouched = False
        self._incarnation = ""
        self._wake = asyncio.Event()
        self._clean = asyncio.Event()

    @property
    def rows(self) -> Mapping[str, V]:
        """Return the rows that should stand in the bucket."""
        return self._desired

    def set(self, key: str, row: V) -> None:
        """Want this row."""
        self._desired[key] = row
        self._touch(key)

    def remove(self, key: str) -> None:
        """Want no such row."""
        self._desired.pop(key, None)
        self._touch(key)

    def replace(self, rows: Mapping[str, V], revision: int) -> None:
        """Want exactly these rows, everything as of `revision`."""
        touched = self._desired.keys() | rows.keys()
        self._desired = dict(rows)
        self._revision = revision
        self._known = True
        self._vouched = False
        self._dirty.update(dict.fromkeys(touched))
        self._written = None
        self._stir()

    def vouch(self, revision: int) -> None:
        """Say that the rows wanted now are all there are, as of `revision`: what else the bucket holds goes."""
        self._revision = revision
        self._known = True
        self._vouched = False
        self._dirty.update(dict.fromkeys((self._written or {}).keys() - self._desired.keys()))
        self._stir()

    async def flushed(self) -> None:
        """Wait until the bucket holds everything asked for so far."""
        await self._clean.wait()

    @property
    def is_flushed(self) -> bool:
        """Tell whether the bucket holds everything asked for so far."""
        return self._clean.is_set()

    def _touch(self, key: str) -> None:
        self._dirty.pop(key, None)
        self._dirty[key] = None
        self._stir()

    def _stir(self) -> None:
        self._clean.clear()
        self._wake.set()

    async def run(self) -> None:
        """Write what differs, for ever; look at the bucket now and then, and make it anew when it was lost."""
        self._written = None  # others may have written since this ran last
        while True:
            try:
                await self._write()
            except Unavailable as error:
                _LOG.info("announcing is waiting: %s", error.message)
                self._written = None
                await self._clock.sleep(_RETRY_S)
                continue
            with contextlib.suppress(TimeoutError):
                # not wait_for: before Python 3.12 it loses a cancellation that comes together with the event
                async with asyncio.timeout(self._check_s):
                    await self._wake.wait()
                continue
            await self._look()

    async def _look(self) -> None:
        with contextlib.suppress(Unavailable):
            if self._incarnation and await self._bucket.ensure() != self._incarnation:
                _LOG.warning("bucket %s was lost; it is filled anew", self._bucket.spec.name)
                self._written, self._vouched = None, False
                self._stir()

    async def _write(self) -> None:
        self._wake.clear()
        if not self._known and not self._dirty and self._written is None and not self._desired:
            return
        if self._written is None:
            self._incarnation = await self._bucket.ensure()
            self._written = await self._read()
            self._dirty.update(dict.fromkeys(self._desired.keys() | (self._written.keys() if self._known else set())))
        while self._dirty:
            some = list(itertools.islice(self._dirty, self._at_once))
            done = await asyncio.gather(*(self._write_one(key, self._written) for key in some), return_exceptions=True)
            for failure in filter(None, done):
                raise failure
        if self._known and not self._vouched and not self._bucket.spec.node_keyed:
            await self._bucket.mark_complete(self._revision)
            self._vouched = True
        if not self._dirty:  # nothing came while we waited
            self._clean.set()

    async def _read(self) -> dict[str, V]:
        """Return the rows that the bucket holds and that are ours to change."""
        if not self._bucket.spec.node_keyed:
            return await self._bucket.rows()
        found = {key: await self._bucket.get(key) for key in {**self._desired, **self._dirty}}
        return {key: row for key, row in found.items() if row is not None}

    async def _write_one(self, key: str, written: dict[str, V]) -> None:
        self._dirty.pop(key, None)
        row, old = self._desired.get(key), written.get(key)
        try:
            if row is not None and row != old:
                with telemetry.span(f"announce {self._bucket.spec.name}", parent=row.trace, key=key):
                    await self._bucket.put(key, row)
                written[key] = row
            elif row is None and old is not None:
                await self._bucket.delete(key)
                written.pop(key, None)
        except Unavailable:
            self._dirty[key] = None
            raise
