"""Desired rows, each with the status of its realisation inside.

Whoever wants something puts a row and walks away; a `fairlead.reconcile.Reconciler` makes rows real and settles them. A result is
accepted only for the revision it was computed from, so a row that changed meanwhile stays pending. A removed row stays as doomed
until its removal is done. `initialised` says that the whole desired state is known: only then may anything be pruned.

Tables belong to one event loop; they do no I/O and know no clock.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class StatusKind(StrEnum):
    """Where a row is on its way into the world."""

    PENDING = "pending"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Status:
    """How the realisation of a row stands; `retry_at_s` is monotonic and means something for failed rows only."""

    kind: StatusKind = StatusKind.PENDING
    detail: str = ""
    attempts: int = 0
    retry_at_s: float = 0.0


@dataclass(frozen=True, slots=True)
class TableRow(Generic[K, V]):
    """One desired object. `doomed` rows are to be removed from the world, and then leave the table."""

    key: K
    value: V
    revision: int
    status: Status = Status()
    doomed: bool = False


class Table(Generic[K, V]):
    """Desired rows by key."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.initialised = False
        self._rows: dict[K, TableRow[K, V]] = {}
        self._open: set[K] = set()
        self._failed: set[K] = set()
        self._revision = 0
        self._listeners: list[Callable[[], None]] = []

    def listen(self, listener: Callable[[], None]) -> None:
        """Call `listener` whenever there may be work."""
        self._listeners.append(listener)

    def get(self, key: K) -> TableRow[K, V] | None:
        """Return the row, doomed ones too, or None."""
        return self._rows.get(key)

    def __iter__(self) -> Iterator[TableRow[K, V]]:
        """Iterate over all rows, doomed ones too."""
        return iter(tuple(self._rows.values()))

    def __len__(self) -> int:
        return len(self._rows)

    def desired(self) -> dict[K, V]:
        """Return what should be: every row that is not doomed."""
        return {key: row.value for key, row in self._rows.items() if not row.doomed}

    def put(self, key: K, value: V) -> bool:
        """Want `value` under `key`; False when that is wanted already."""
        row = self._rows.get(key)
        if row is not None and not row.doomed and row.value == value:
            return False
        self._store(key, value, doomed=False)
        self._tell()
        return True

    def remove(self, key: K) -> bool:
        """Want nothing under `key`; False when that is so already."""
        row = self._rows.get(key)
        if row is None or row.doomed:
            return False
        self._store(key, row.value, doomed=True)
        self._tell()
        return True

    def touch(self, keys: Iterable[K]) -> None:
        """Have these rows realised again, for instance because the world drifted or what hindered them is gone."""
        for key in keys:
            row = self._rows.get(key)
            if row is not None:
                self._store(key, row.value, doomed=row.doomed)
        self._tell()

    def initialise(self) -> None:
        """Tell that every row that should be there is there."""
        if not self.initialised:
            self.initialised = True
            self._tell()

    def due(self, now_s: float) -> list[TableRow[K, V]]:
        """Return the rows to work on now: pending ones, and failed ones whose time has come; doomed ones first."""
        late = {key for key in self._failed if self._rows[key].status.retry_at_s <= now_s}
        rows = [self._rows[key] for key in (self._open | late)]
        return sorted(rows, key=lambda row: (not row.doomed, row.revision))

    def next_due_s(self) -> float | None:
        """Return when the first failed row may be tried again; None without failed rows."""
        return min((self._rows[key].status.retry_at_s for key in self._failed), default=None)

    def failed(self) -> dict[K, str]:
        """Return what stands in the way, by key."""
        return {key: self._rows[key].status.detail for key in self._failed}

    def is_current(self, row: TableRow[K, V]) -> bool:
        """Tell whether the row is still what is wanted."""
        now = self._rows.get(row.key)
        return now is not None and now.revision == row.revision

    def settle(self, row: TableRow[K, V], status: Status) -> bool:
        """Record what became of `row`; False when the row has changed since, and stays pending."""
        if not self.is_current(row):
            return False
        self._open.discard(row.key)
        self._failed.discard(row.key)
        if row.doomed and status.kind is StatusKind.DONE:
            del self._rows[row.key]
            return True
        if status.kind is StatusKind.FAILED:
            self._failed.add(row.key)
        self._rows[row.key] = replace(row, status=status)
        return True

    def _store(self, key: K, value: V, *, doomed: bool) -> None:
        self._revision += 1
        self._rows[key] = TableRow(key, value, self._revision, doomed=doomed)
        self._failed.discard(key)
        self._open.add(key)

    def _tell(self) -> None:
        for listener in self._listeners:
            listener()
