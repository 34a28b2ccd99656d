"""The store of truth, as the services see it: revisions, compare-and-swap, watches.

Two implementations pass the same suite: `kv_etcd` (etcd v3) and `kv_memory` (tests, simulation). Revisions are etcd's: one counter
for the whole store, growing by one with every commit.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Protocol

from fairlead.errors import FairleadError


class Compacted(FairleadError):
    """The revision asked for is no longer in the store's history: list again, then watch from there."""

    code = "compacted"


@dataclass(frozen=True, slots=True)
class Item:
    """One key; `revision` is that of its last change, `created` that of its creation."""

    key: str
    value: bytes
    revision: int
    created: int


@dataclass(frozen=True, slots=True)
class Listing:
    """All keys under a prefix as they stood at `revision`, sorted by key."""

    items: tuple[Item, ...]
    revision: int


@dataclass(frozen=True, slots=True)
class Check:
    """A condition: the key's last change has this revision; 0 means that the key does not exist."""

    key: str
    revision: int


@dataclass(frozen=True, slots=True)
class Put:
    """Set a key; `lease` 0 binds it to no lease."""

    key: str
    value: bytes
    lease: int = 0


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove a key; one that does not exist counts as removed."""

    key: str


@dataclass(frozen=True, slots=True)
class Change:
    """One change seen by a watch; `item` is None for a deletion."""

    key: str
    item: Item | None
    revision: int


class Kv(Protocol):
    """A store with revisions. Every call raises Unavailable when the store does not answer in time."""

    async def get(self, key: str) -> Item | None:
        """Return the key, or None."""

    async def list(self, prefix: str) -> Listing:
        """Return every key that starts with `prefix`, all at one revision, however many there are."""

    async def commit(self, checks: Sequence[Check], changes: Sequence[Put | Delete]) -> int:
        """Apply all changes in one transaction if every check holds, and return its revision. Raises Conflict if one does not.

        Each key may be changed once; at most 100 changes (etcd's limit is 128 operations).
        """

    def watch(self, prefix: str, after: int) -> AsyncGenerator[tuple[Change, ...], None]:
        """Yield the changes under `prefix` with revisions larger than `after`, in order, one batch per revision, without end.

        Reconnects by itself and resumes where it was. Raises Compacted when history is gone. Ends when the store is closed.
        """

    async def grant(self, ttl_s: int) -> int:
        """Return a new lease that ends when nobody has kept it alive for `ttl_s` seconds."""

    async def keep_alive(self, lease: int) -> bool:
        """Renew the lease; False when it has already ended."""

    async def close(self) -> None:
        """Stop everything, and wait for it."""
