"""The loop that makes the rows of one table real.

Rows are worked on in batches, removals first. A failed row is tried again with growing pauses and never blocks the others. Every
`refresh_s` the world is compared with the whole table (`Operations.prune`), but never before the table is initialised.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Generic, Protocol, TypeVar

from fairlead.clock import Clock
from fairlead.errors import FairleadError
from fairlead.table import DONE, K, Status, StatusKind, Table, TableRow, V
from fairlead.tasks import stop

V_contra = TypeVar("V_contra", contravariant=True)
_LOG = logging.getLogger("fairlead.reconcile")
_FOREVER_S = 3600.0


class Operations(Protocol[K, V_contra]):
    """How rows become real. Every call is idempotent; it may come again, with the same or a newer value."""

    async def update(self, rows: Mapping[K, V_contra]) -> Mapping[K, str]:
        """Bring the world to these rows; return what hindered those that could not be made real, by key."""

    async def delete(self, rows: Mapping[K, V_contra]) -> Mapping[K, str]:
        """Remove these rows from the world; absent ones count as removed. Return what hindered, by key."""

    async def prune(self, desired: Mapping[K, V_contra]) -> None:
        """Compare the world with everything that should be: remove what nobody wants, touch rows that drifted."""


@dataclass(frozen=True)
class Pace:
    """How often things are tried: pauses after failures double from `retry_s` to `retry_max_s`, each shortened by chance."""

    retry_s: float = 0.1
    retry_max_s: float = 30.0
    refresh_s: float = 30.0
    batch: int = 1024
    """How many rows one operation is given."""
    at_once: int = 1
    """How many operations are on their way together; each is told as soon as it is done."""

    def pause_s(self, attempts: int, random: Random) -> float:
        """Return the pause after that many failed attempts; chance keeps a fleet from trying in step."""
        full: float = min(self.retry_max_s, self.retry_s * 2.0 ** min(attempts - 1, 32))
        return full * (0.5 + random.random() / 2)


class Reconciler(Generic[K, V]):
    """Makes one table real through its operations."""

    def __init__(
        self,
        table: Table[K, V],
        operations: Operations[K, V],
        clock: Clock,
        *,
        pace: Pace | None = None,
        random: Random | None = None,
        on_settled: Callable[[Sequence[TableRow[K, V]]], None] | None = None,
        unlike: Callable[[Mapping[K, V]], Awaitable[Collection[K]]] | None = None,
    ) -> None:
        """`unlike`, where rows are many: returns those that do not stand in the world. Asked once, at the beginning, in the place of `prune`."""
        self._table = table
        self._operations = operations
        self._clock = clock
        self._pace = pace or Pace()
        self._random = random or Random()  # noqa: S311 - spreads retries, guards no secret
        self._on_settled = on_settled
        self._unlike = unlike
        self._wake = asyncio.Event()
        self._prune_at_s = 0.0
        self.prune_error = ""
        table.listen(self._wake.set)

    async def run(self) -> None:
        """Work for ever."""
        await self._take_over()
        while True:
            self._wake.clear()
            await self.settle_due()
            await self._prune_if_due()
            await self._idle()

    async def _take_over(self) -> None:
        """Settle at once what an earlier process has made real; a row that this cannot tell of is worked on like any other."""
        if self._unlike is None:
            return
        desired, known = self._table.desired(), self._table.initialised
        try:
            self._table.settle_standing(desired, await self._unlike(desired))
            self._prune_at_s = self._clock.monotonic_s() + self._pace.refresh_s if known else 0.0
        except (FairleadError, OSError) as error:
            _LOG.warning("%s: what stands cannot be told, every row is looked at: %s", self._table.name, error)

    async def settle_due(self) -> None:
        """Work on everything that is due now, until nothing is."""
        size = self._pace.batch
        while due := self._table.due(self._clock.monotonic_s(), size * self._pace.at_once):
            alike = [row for row in due if row.doomed is due[0].doomed]
            await asyncio.gather(*(self._work(alike[at : at + size]) for at in range(0, len(alike), size)))

    async def prune(self) -> None:
        """Compare the world with the table now, if the table is initialised."""
        if not self._table.initialised:
            return
        self.prune_error = ""
        try:
            await self._operations.prune(self._table.desired())
        except (FairleadError, OSError) as error:
            self.prune_error = str(error)
            _LOG.warning("%s: the comparison with the world failed: %s", self._table.name, error)

    async def _prune_if_due(self) -> None:
        now_s = self._clock.monotonic_s()
        if self._table.initialised and now_s >= self._prune_at_s:
            await self.prune()
            self._prune_at_s = self._clock.monotonic_s() + self._pace.refresh_s

    async def _work(self, rows: Sequence[TableRow[K, V]]) -> None:
        values = {row.key: row.value for row in rows}
        act = self._operations.delete if rows[0].doomed else self._operations.update
        try:
            hindered = await act(values)
        except Exception as error:  # noqa: BLE001 - no row may stop the others: the text becomes its status
            _LOG.exception("%s: the operation on %s failed", self._table.name, list(values)[:5])
            hindered = dict.fromkeys(values, f"{type(error).__name__}: {error}")
        for row in rows:
            self._table.settle(row, self._status(row, hindered.get(row.key)))
        if self._on_settled is not None:
            self._on_settled(rows)

    def _status(self, row: TableRow[K, V], hindrance: str | None) -> Status:
        if hindrance is None:
            return DONE
        attempts = row.status.attempts + 1
        retry_at_s = self._clock.monotonic_s() + self._pace.pause_s(attempts, self._random)
        return Status(StatusKind.FAILED, hindrance, attempts, retry_at_s)

    async def _idle(self) -> None:
        """Sleep until a row changes, a failed row may be tried again, or the next comparison is due."""
        if self._wake.is_set():
            return
        pause_s = max(0.0, self._next_s() - self._clock.monotonic_s())
        waiters = {asyncio.ensure_future(self._wake.wait()), asyncio.ensure_future(self._clock.sleep(pause_s))}
        try:
            await asyncio.wait(waiters, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await stop(*waiters)

    def _next_s(self) -> float:
        times = [self._table.next_due_s(), self._prune_at_s if self._table.initialised else None]
        return min((at for at in times if at is not None), default=self._clock.monotonic_s() + _FOREVER_S)
