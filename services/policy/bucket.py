"""The bucket of rows with packed rows on this side of it."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from fairlead.bus import Bucket, BucketEvent, Keys
from fairlead.clock import Clock
from fairlead.schema.base import BucketSpec
from fairlead.schema.identity import HOST
from fairlead.schema.policy import HOST_ROWS, PolicyRow
from services.policy.packed import PackedRow, pack, unpack


class PackedBucket:
    """Packs what is read, and unpacks what is written."""

    def __init__(self, bucket: Bucket[PolicyRow], clock: Clock) -> None:
        self._bucket = bucket
        self._clock = clock
        spec = bucket.spec
        self.spec = BucketSpec(spec.name, PackedRow, owner=spec.owner, summary=spec.summary)

    async def put(self, key: str, row: PackedRow) -> None:
        """Set the row. Raises Unavailable."""
        await self._bucket.put(key, unpack(row, HOST if key.startswith(HOST_ROWS) else int(key)))

    async def get(self, key: str) -> PackedRow | None:
        """Return the row, or None. Raises Unavailable."""
        row = await self._bucket.get(key)
        return None if row is None else pack(row)

    async def delete(self, key: str) -> None:
        """Remove the row. Raises Unavailable."""
        await self._bucket.delete(key)

    async def rows(self) -> dict[str, PackedRow]:
        """Return every row. Raises Unavailable."""
        found = {}
        for key, row in (await self._bucket.rows()).items():
            found[key] = pack(row)
            await self._clock.sleep(0)  # there may be millions of entries
        return found

    async def ensure(self) -> str:
        """Create the bucket if it does not exist; return its incarnation. Raises Unavailable."""
        return await self._bucket.ensure()

    async def mark_complete(self, revision: int) -> None:
        """Vouch that the bucket holds everything as of `revision`."""
        await self._bucket.mark_complete(revision)

    def watch(self, keys: Keys | None = None) -> AsyncGenerator[BucketEvent[PackedRow], None]:
        """Nobody watches packed rows. Raises NotImplementedError."""
        raise NotImplementedError(f"rows of {self.spec.name} are read, not watched, by their owner ({keys})")
