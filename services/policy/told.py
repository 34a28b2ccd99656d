"""What stands on the bus, as against what should: read by a replica that takes over, and by one that waits for the leader."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from msgspec.structs import replace

from fairlead.bus import Bucket
from fairlead.clock import Clock
from fairlead.errors import Unavailable
from fairlead.schema.base import Row
from fairlead.schema.policy import CidrRows
from services.policy.packed import PackedRow

ALL = "all"
_RETRY_S = 0.5
_LOOK_S = 0.05

V = TypeVar("V", bound=Row)
Report = Callable[[str, bool, str], None]
"""States one aspect of this service's health."""


class Told:
    """Reads the two buckets."""

    def __init__(self, rows: Bucket[PackedRow], cidrs: Bucket[CidrRows], *, clock: Clock, report: Report) -> None:
        self._rows = rows
        self._cidrs = cidrs
        self._clock = clock
        self._report = report

    async def everything(self) -> tuple[dict[str, PackedRow], CidrRows]:
        """Return all rows and all prefixes, however long it takes."""
        while True:
            try:
                await self._rows.ensure()
                await self._cidrs.ensure()
                told = await self._rows.rows(), (await self._cidrs.rows()).get(ALL, CidrRows())
            except Unavailable as error:
                self._report("announced rows", False, error.message)
                await self._clock.sleep(_RETRY_S)
                continue
            self._report("announced rows", True, "")
            return told

    async def row(self, key: str, wanted: Callable[[str], PackedRow | None]) -> int:
        """Return the revision of the row, once it says what is wanted; 0 when no such row is wanted any more."""
        while (want := wanted(key)) is not None:
            told = await self._look(self._rows, key)
            if told is not None and same(told, want):
                return told.revision
            await self._clock.sleep(_LOOK_S)
        return 0

    async def prefixes(self, wanted: Callable[[], CidrRows]) -> None:
        """Return once the prefixes are those that are wanted."""
        while (told := await self._look(self._cidrs, ALL)) is None or told.rows != wanted().rows:
            await self._clock.sleep(_LOOK_S)

    async def _look(self, bucket: Bucket[V], key: str) -> V | None:
        try:
            return await bucket.get(key)
        except Unavailable:
            return None  # whoever waits looks again


def same(one: PackedRow, other: PackedRow) -> bool:
    """Tell whether two rows say the same, whenever they were made."""
    return replace(one, revision=0, trace="") == replace(other, revision=0, trace="")


def newest(mine: PackedRow | None, told: PackedRow) -> PackedRow:
    """Return which of two rows of a subject stands; one that differs never keeps the revision of the other."""
    if mine is None or same(mine, told) or told.revision > mine.revision:
        return told
    return replace(mine, revision=max(mine.revision, told.revision + 1))


def opens(old: PackedRow, new: PackedRow | None) -> bool:
    """Tell whether a subject would lose its row, or a default deny."""
    if new is None:
        return True
    return bool(old.ingress_default_deny and not new.ingress_default_deny) or bool(
        old.egress_default_deny and not new.egress_default_deny
    )
