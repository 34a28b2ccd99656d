"""Desired rows, each with the status of its realisation inside.

Whoever wants something puts a row and walks away; a `fairlead.reconcile.Reconciler` makes rows real and settles them. A result is
accepted only for the revision it was computed from, so a row that changed meanwhile stays pending. A removed row stays as doomed
until its removal is done. `initialised` says that the whole desired state is known: only then may anything be pruned.

Most rows of a large table are done and stay so: only their value is kept. What is more to say of a row is kept while there is work on it.

Tables belong to one event loop; they do no I/O and know no clock.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping
from enum import StrEnum
from itertools import chain, islice
from typing import Generic, NamedTuple, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class StatusKind(StrEnum):
    """Where a row is on its way into the world."""

    PENDING = "pending"
    DONE = "done"
    FAILED = "failed"


class Status(NamedTuple):
    """How the realisation of a row stands; `retry_at_s` is monotonic and means something for failed rows only."""

    kind: StatusKind = StatusKind.PENDING
    detail: str = ""
    attempts: int = 0
    retry_at_s: float = 0.0


PENDING, DONE = Status(), Status(StatusKind.DONE)


class TableRow(NamedTuple, Generic[K, V]):
    """One desired object. `doomed` rows are to be removed from the world, and then leave the table."""

    key: K
    value: V
    revision: int
    status: Status = PENDING
    doomed: bool = False


class Table(Generic[K, V]):
    """Desired rows by key."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.initialised = False
        self._desired: dict[K, V] = {}
        self._doomed: dict[K, V] = {}
        self._open: dict[K, int] = {}
        """The revision of each wish that is not done, oldest first; wishes that came together share one."""
        self._failed: dict[K, Status] = {}
        """How it went with open rows that could not be made real."""
        self._revision = 0
        self._listeners: list[Callable[[], None]] = []

    def listen(self, listener: Callable[[], None]) -> None:
        """Call `listener` whenever there may be work."""
        self._listeners.append(listener)

    def get(self, key: K) -> TableRow[K, V] | None:
        """Return the row, doomed ones too, or None."""
        return self._row(key) if key in self._desired or key in self._doomed else None

    def _row(self, key: K) -> TableRow[K, V]:
        revision = self._open.get(key)
        if revision is None:
            return TableRow(key, self._desired[key], 0, DONE)
        status = self._failed.get(key, PENDING)
        if key in self._doomed:
            return TableRow(key, self._doomed[key], revision, status, doomed=True)
        return TableRow(key, self._desired[key], revision, status)

    def __iter__(self) -> Iterator[TableRow[K, V]]:
        """Iterate over all rows, doomed ones too."""
        return iter([self._row(key) for key in (*self._desired, *self._doomed)])

    def __len__(self) -> int:
        return len(self._desired) + len(self._doomed)

    def desired(self) -> dict[K, V]:
        """Return what should be: every row that is not doomed."""
        return self._desired.copy()

    def put(self, key: K, value: V) -> bool:
        """Want `value` under `key`; False when that is wanted already."""
        return self.put_all({key: value}) > 0

    def put_all(self, rows: Mapping[K, V]) -> int:
        """Want all these values under their keys; return how many were not wanted already."""
        new = {key: value for key, value in rows.items() if key not in self._desired or self._desired[key] != value}
        for key in new.keys() & self._doomed.keys():
            del self._doomed[key]
        self._desired.update(new)
        self._reopen(new)
        return len(new)

    def remove(self, key: K) -> bool:
        """Want nothing under `key`; False when that is so already."""
        if key not in self._desired:
            return False
        self._doomed[key] = self._desired.pop(key)
        self._reopen((key,))
        return True

    def touch(self, keys: Iterable[K]) -> None:
        """Have these rows realised again, for instance because the world drifted or what hindered them is gone."""
        self._reopen([key for key in keys if key in self._desired or key in self._doomed])

    def initialise(self) -> None:
        """Tell that every row that should be there is there."""
        if not self.initialised:
            self.initialised = True
            self._tell()

    def due(self, now_s: float, most: int | None = None) -> list[TableRow[K, V]]:
        """Return the rows to work on now, at most so many: pending ones, and failed ones whose time has come; doomed ones first."""
        ordered = chain(self._doomed, (key for key in self._open if key not in self._doomed))
        ripe = (key for key in ordered if key not in self._failed or self._failed[key].retry_at_s <= now_s)
        return [self._row(key) for key in islice(ripe, most)]

    def next_due_s(self) -> float | None:
        """Return when the first failed row may be tried again; None without failed rows."""
        return min((status.retry_at_s for status in self._failed.values()), default=None)

    def failed(self) -> dict[K, str]:
        """Return what stands in the way, by key."""
        return {key: status.detail for key, status in self._failed.items()}

    def settle(self, row: TableRow[K, V], status: Status) -> bool:
        """Record what became of `row`; False when the row has changed since, and stays pending."""
        if self._open.get(row.key) != row.revision:
            return False
        if status.kind is StatusKind.FAILED:
            self._failed[row.key] = status
            return True
        self._failed.pop(row.key, None)
        del self._open[row.key]
        self._doomed.pop(row.key, None)
        return True

    def settle_standing(self, rows: Mapping[K, V], unlike: Collection[K]) -> None:
        """Record that these values stand in the world as they are, but for the keys in `unlike`; what changed since stays pending."""
        desired, still = self._desired, {*unlike}
        still.update(key for key, value in rows.items() if desired.get(key) is not value)
        self._open = {key: revision for key, revision in self._open.items() if key in still or key not in rows}
        self._failed = {key: status for key, status in self._failed.items() if key in self._open}

    def _reopen(self, keys: Collection[K]) -> None:
        self._revision += 1
        for known in (self._failed, self._open):
            for key in known.keys() & keys:
                del known[key]
        self._open.update(dict.fromkeys(keys, self._revision))  # the newest wish is the last in the row
        if keys:
            self._tell()

    def _tell(self) -> None:
        for listener in self._listeners:
            listener()
