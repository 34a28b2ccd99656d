"""`Kv` in memory, with etcd's rules for revisions, history, compaction and leases. For tests and simulation.

`away` makes it behave like a store that nobody can reach; `compact` forgets history.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field

from fairlead.clock import SYSTEM, Clock
from fairlead.errors import Conflict, InvalidInput, NotFound, Unavailable
from fairlead.kv import Change, Check, Compacted, Delete, Item, Listing, Put

MAX_CHANGES = 100


@dataclass
class _Lease:
    ttl_s: int
    ends_s: float
    keys: set[str] = field(default_factory=set)


class MemoryKv:
    """A store that lives as long as the object; several services of one test share it."""

    def __init__(self, clock: Clock = SYSTEM) -> None:
        self._clock = clock
        self._items: dict[str, Item] = {}
        self._history: list[tuple[Change, ...]] = []
        self._leases: dict[int, _Lease] = {}
        self._lease_by_key: dict[str, int] = {}
        self._last_lease = 0
        self._compacted = 0
        self._changed = asyncio.Event()
        self._away = False
        self._closed = False
        self.revision = 1
        """The revision of the last commit; an empty store has 1, as etcd does."""

    @property
    def away(self) -> bool:
        """Whether calls fail with Unavailable and watches pause."""
        return self._away

    @away.setter
    def away(self, value: bool) -> None:
        self._away = value
        self._wake()

    async def get(self, key: str) -> Item | None:
        """Return the key, or None."""
        self._begin()
        return self._items.get(key)

    async def list(self, prefix: str) -> Listing:
        """Return every key under `prefix`."""
        self._begin()
        items = sorted((item for key, item in self._items.items() if key.startswith(prefix)), key=lambda item: item.key)
        return Listing(tuple(items), self.revision)

    async def commit(self, checks: Sequence[Check], changes: Sequence[Put | Delete]) -> int:
        """Apply all changes if every check holds."""
        self._begin()
        self._require_valid(checks, changes)
        for check in checks:
            found = self._items[check.key].revision if check.key in self._items else 0
            if found != check.revision:
                raise Conflict(f"{check.key} is at revision {found}, not {check.revision}: another writer was first")
        return self._apply(changes)

    def _require_valid(self, checks: Sequence[Check], changes: Sequence[Put | Delete]) -> None:
        if max(len(checks), len(changes)) > MAX_CHANGES:
            raise InvalidInput(f"{len(checks)} checks and {len(changes)} changes: at most {MAX_CHANGES} of each")
        if len({change.key for change in changes}) != len(changes):
            raise InvalidInput("a key is changed twice in one commit")
        for change in changes:
            if isinstance(change, Put) and change.lease and change.lease not in self._leases:
                raise NotFound(f"lease {change.lease} does not exist")

    def _apply(self, changes: Sequence[Put | Delete]) -> int:
        """Make the changes one revision; deleting what is not there changes nothing."""
        revision = self.revision + 1
        batch = [made for change in changes if (made := self._change(change, revision)) is not None]
        if batch:
            self.revision = revision
            self._history.append(tuple(batch))
            self._wake()
        return self.revision

    def _change(self, change: Put | Delete, revision: int) -> Change | None:
        old = self._items.get(change.key)
        if isinstance(change, Delete) and old is None:
            return None
        self._bind(change.key, change.lease if isinstance(change, Put) else 0)
        if isinstance(change, Delete):
            del self._items[change.key]
            return Change(change.key, None, revision)
        item = Item(change.key, change.value, revision, old.created if old else revision)
        self._items[change.key] = item
        return Change(change.key, item, revision)

    def _bind(self, key: str, lease: int) -> None:
        """Tie the key to the lease, and loose it from the one before."""
        before = self._lease_by_key.pop(key, 0)
        if before:
            self._leases[before].keys.discard(key)
        if lease:
            self._leases[lease].keys.add(key)
            self._lease_by_key[key] = lease

    async def watch(self, prefix: str, after: int) -> AsyncGenerator[tuple[Change, ...], None]:
        """Yield the changes under `prefix` after a revision, one batch per revision, until the store is closed."""
        seen = after
        while not self._closed:
            batch = None if self._away else self._next(prefix, seen)
            if batch is None:
                await self._changed.wait()
                continue
            seen = batch[0].revision
            yield batch

    def _next(self, prefix: str, seen: int) -> tuple[Change, ...] | None:
        """Return the first batch after `seen`, or None. Raises Compacted."""
        self._expire()
        if max(seen, 1) < self._compacted or seen > self.revision:
            raise Compacted(f"history of {prefix} after revision {seen} is gone")
        first = bisect_right(self._history, seen, key=lambda batch: batch[0].revision)
        for batch in self._history[first:]:
            mine = tuple(change for change in batch if change.key.startswith(prefix))
            if mine:
                return mine
        return None

    async def grant(self, ttl_s: int) -> int:
        """Return a new lease."""
        self._begin()
        self._last_lease += 1
        self._leases[self._last_lease] = _Lease(ttl_s, self._clock.monotonic_s() + ttl_s)
        return self._last_lease

    async def keep_alive(self, lease: int) -> bool:
        """Renew the lease; False when it has already ended."""
        self._begin()
        held = self._leases.get(lease)
        if held is not None:
            held.ends_s = self._clock.monotonic_s() + held.ttl_s
        return held is not None

    def compact(self, revision: int) -> None:
        """Forget what happened before `revision`."""
        self._compacted = revision
        self._history = [batch for batch in self._history if batch[0].revision >= revision]

    async def close(self) -> None:
        """End all watches."""
        self._closed = True
        self._wake()

    def _begin(self) -> None:
        if self._away or self._closed:
            raise Unavailable("the store in memory is away")
        self._expire()

    def _expire(self) -> None:
        """Delete what leases held that have ended; each lease is one revision."""
        now = self._clock.monotonic_s()
        for lease in [number for number, held in self._leases.items() if held.ends_s <= now]:
            keys = sorted(self._leases[lease].keys)
            self._apply([Delete(key) for key in keys])
            del self._leases[lease]

    def _wake(self) -> None:
        """Let every watch look again."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
