"""A local copy of a bucket that only grows wiser.

The copy is kept on disk, so that a restart without the bus serves what was known. Rows go away on positive evidence alone: a deletion
by the owner, or a complete listing (the owner vouches for it) in which they are missing - and even then not when too many would go at
once: those are `held` until a person or the owner speaks. Rows with an older revision than ours are ignored.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import functools
import logging
import os
import zlib
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Generic, TypeVar

from fairlead import codec
from fairlead.bus import Bucket, Changed, Deleted, Keys, Restarted, Synced
from fairlead.clock import SYSTEM, Clock
from fairlead.errors import FairleadError
from fairlead.schema.base import Row
from fairlead.tasks import stop

V = TypeVar("V", bound=Row)

_LOG = logging.getLogger(__name__)
_HELD_ROWS = 20
_HELD_SHARE = 0.2
_SAVE_EVERY_S = 0.25

OnChange = Callable[[str, V | None], Awaitable[None]]
"""Called with the key and the new row, or None when the row is gone."""


class Rows(Mapping[str, V]):
    """Rows by key: packed, with addresses in canonical text, and read."""

    def __init__(self, kind: type[V], *, lazily: bool) -> None:
        self.packed: dict[str, bytes] = {}
        self._kind = kind
        self.lazily = lazily
        self.proven = True
        """Whether everything in `packed` was read and accepted before; so it need not be checked again."""
        self._read: dict[str, V] = {}

    def __getitem__(self, key: str) -> V:
        """Return the row. Raises KeyError, and InvalidInput when it cannot be read."""
        row = self._read.get(key)
        if row is None:
            data = self.packed[key]
            row = codec.decode(data, self._kind, checked=self.proven)
            if self.proven:
                self._keep(key, row)
            else:
                self.put(key, row)
        return row

    def __iter__(self) -> Iterator[str]:
        return iter(self.packed)

    def __len__(self) -> int:
        return len(self.packed)

    def put(self, key: str, row: V) -> None:
        """Have the row, in our own words whoever wrote it: so its text need not be checked again."""
        self.packed[key] = codec.encode(row)
        self._keep(key, row)

    def _keep(self, key: str, row: V) -> None:
        if not self.lazily:
            self._read[key] = row

    def drop(self, key: str) -> bool:
        """Forget the row; False when there was none."""
        self._read.pop(key, None)
        return self.packed.pop(key, None) is not None


class Mirror(Generic[V]):
    """The rows of a bucket as this process knows them."""

    def __init__(
        self,
        bucket: Bucket[V],
        *,
        on_change: OnChange[V] | None = None,
        cache: Path | None = None,
        clock: Clock = SYSTEM,
        keys: set[str] | None = None,
        lazily: bool = False,
    ) -> None:
        """Follow `keys` or, if None, all. `lazily`: rows are large and seldom asked for, and are read anew each time."""
        self._bucket = bucket
        self._on_change = on_change
        self._cache = cache
        self._clock = clock
        self._keys = None if keys is None else Keys(keys)
        self._rows: Rows[V] = Rows(bucket.spec.row, lazily=lazily)
        self._seen: set[str] = set()
        self._listing: Restarted | None = None
        self._dirty = asyncio.Event()
        self.complete = False
        """Whether all rows are known: listed from the bucket, or read from disk."""
        self.synced_at: datetime | None = None
        """When the bucket was last heard to be complete; None: not since this process began."""
        self.held: frozenset[str] = frozenset()
        """Rows that a complete listing no longer had, kept because they were too many."""
        self._load()

    @property
    def rows(self) -> Mapping[str, V]:
        """Return the rows by key; a live read-only view."""
        return self._rows

    @property
    def keys(self) -> frozenset[str] | None:
        """Return the keys that are followed; None: all."""
        return None if self._keys is None else self._keys.wanted

    def want(self, keys: Iterable[str]) -> None:
        """Follow just these keys from now on. Rows of other keys stay in the copy, no longer updated."""
        if self._keys is None:
            raise ValueError(f"this mirror of {self._bucket.spec.name} follows all keys")
        self._keys.want(keys)

    async def recall(self) -> None:
        """Tell of every row of the copy on disk."""
        for key, row in self._readable():
            if self._on_change:
                await self._on_change(key, row)

    def _readable(self) -> Iterator[tuple[str, V]]:
        """Yield the rows of the copy on disk. One that cannot be read is dropped, and then not all is known."""
        for key in tuple(self._rows):
            try:
                row = self._rows[key]
            except FairleadError as error:
                _LOG.warning("%s: row %s cannot be read (%s): going on without it", self._cache, key, error.message)
                self._rows.drop(key)
                self.complete = False
            else:
                yield key, row

    async def release_held(self) -> None:
        """Let go of the held rows, because a person said so."""
        for key in sorted(self.held):
            await self._drop(key)

    async def run(self) -> None:
        """Follow the bucket for ever."""
        saver = asyncio.create_task(self._save_forever(), name="mirror-cache")
        try:
            async with contextlib.aclosing(self._bucket.watch(self._keys)) as events:
                async for event in events:
                    await self._apply(event)
        finally:
            await stop(saver)
            self._save()

    async def _apply(self, event: object) -> None:
        match event:
            case Changed(key=key, data=data):
                await self._put(key, data)
            case Deleted(key=key):
                self._seen.discard(key)
                await self._drop(key)
            case Restarted():
                self._seen, self._listing = set(), event
            case Synced(complete=True):
                await self._finish_listing()
            case _:
                pass  # a listing that nobody vouches for proves nothing

    async def _put(self, key: str, data: bytes) -> None:
        self._seen.add(key)
        self.held -= {key}
        if self._rows.packed.get(key) == data:
            return
        try:
            row = codec.decode(data, self._bucket.spec.row)
        except FairleadError as error:
            _LOG.error("%s: row %s cannot be read and is ignored: %s", self._bucket.spec.name, key, error.message)
            return
        known = self._rows.get(key)
        if known is not None and (row == known or row.revision < known.revision):
            return
        self._rows.put(key, row)
        await self._tell(key, row)

    async def _drop(self, key: str) -> None:
        self.held -= {key}
        if self._rows.drop(key):
            await self._tell(key, None)

    async def _finish_listing(self) -> None:
        self.synced_at = self._clock.now()
        if self._listing:
            listed, self._listing = Keys(self._listing.keys), None
            missing = {key for key in self._rows if key not in self._seen and key in listed}
            if len(missing) > max(_HELD_ROWS, _HELD_SHARE * len(self._rows)):
                _LOG.error(
                    "%d of %d rows are gone at once; they are kept until confirmed", len(missing), len(self._rows)
                )
                self.held = frozenset(missing)
            else:
                for key in sorted(missing):
                    await self._drop(key)
        if not self.complete:
            self.complete = True
            self._dirty.set()

    async def _tell(self, key: str, row: V | None) -> None:
        self._dirty.set()
        if self._on_change:
            await self._on_change(key, row)

    async def _save_forever(self) -> None:
        while True:
            await self._dirty.wait()
            await self._clock.sleep(_SAVE_EVERY_S)
            self._dirty.clear()
            await asyncio.to_thread(self._save)

    def _save(self) -> None:
        if self._cache is None or not (self.complete or self._rows):
            return
        rows = self._rows.packed.copy()
        checksum = _checksum(rows)
        self._cache.parent.mkdir(parents=True, exist_ok=True)
        partial = self._cache.with_suffix(".tmp")
        with partial.open("wb") as file:
            file.write(codec.pack_map_header(3) + codec.pack("complete") + codec.pack(self.complete))
            file.write(codec.pack("checksum") + codec.pack(checksum))
            file.write(codec.pack("rows") + codec.pack_map_header(len(rows)))
            file.writelines(codec.pack(part) for row in rows.items() for part in row)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self._cache)

    def _load(self) -> None:
        if self._cache is None or not self._cache.exists():
            return
        try:
            value = codec.unpack(self._cache.read_bytes(), max_bytes=codec.MAX_FILE_BYTES)
            for key, data in value["rows"].items():
                self._rows.packed[key] = (
                    data if isinstance(data, bytes) else codec.pack(data)
                )  # once they were not packed
            self.complete = bool(value["complete"])
            self._rows.proven = value.get("checksum") == _checksum(self._rows.packed)
            if not self._rows.proven:
                self._dirty.set()
            if not self._rows.proven or not self._rows.lazily:
                collections.deque(self._readable(), maxlen=0)
            self._rows.proven = True
        except (FairleadError, KeyError, TypeError, AttributeError, OSError) as error:
            _LOG.warning("%s cannot be read (%s): starting without it", self._cache, error)


def _checksum(rows: Mapping[str, bytes]) -> int:
    """Return what tells whether a copy on disk is as this process or an earlier one wrote it, out of rows that it had read."""
    return functools.reduce(lambda checksum, data: zlib.crc32(data, checksum), rows.values(), 0)
