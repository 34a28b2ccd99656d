"""Keeps the flow table free of flows that are over, and tells their end. The kernel thread is lent a slice at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fairlead.clock import Clock
from services.datapath.operations import Kernel
from services.datapath.reports import Event
from services.datapath.worker import KernelThread

FIRST_S, SHORTEST_S, LONGEST_S = 30.0, 10.0, 120.0
_PRESSURE = 0.9
_BETWEEN_SLICES_S = 0.005
_MANY, _FEW = 0.25, 0.05


@dataclass(frozen=True)
class Collection:
    """What has been collected so far, and how the last pass went."""

    runs: int = 0
    deleted: int = 0
    """Of all passes."""
    alive: int = 0
    """Flows that the last pass left standing."""
    capacity: int = 0
    outer_ends: int = 0
    """Of masqueraded flows, that the last pass left standing."""
    freed: int = 0
    """Outer ends of all passes that no flow had any more."""
    duration_s: float = 0.0
    """Of the last pass, pauses included."""
    interval_s: float = FIRST_S
    """Until the next pass."""

    @property
    def fill(self) -> float:
        """Return how full the table is, 0 to 1."""
        return self.alive / self.capacity if self.capacity else 0.0

    def condition(self) -> tuple[str, bool, str]:
        """Return whether the table has room. The text stays the same while the table fills on."""
        well = self.fill <= _PRESSURE
        text = (
            f"more than {_PRESSURE:.0%} of {self.capacity} places are taken: raise `flows`, or flows will be forgotten"
        )
        return "flow table", well, "" if well else text


def next_interval_s(interval_s: float, deleted: int, alive: int, fill: float) -> float:
    """Return when to look again: sooner when much was over or the table is nearly full, later when next to nothing was."""
    if fill > _PRESSURE:
        return SHORTEST_S
    share = deleted / max(1, deleted + alive)
    if share > _MANY:
        return max(SHORTEST_S, interval_s * (1 - min(share, 0.9)))
    return min(LONGEST_S, interval_s * 1.5) if share < _FEW else interval_s


class Collector:
    """Looks through the flow table for ever."""

    def __init__(
        self, kernel: Kernel, thread: KernelThread, clock: Clock, tell: Callable[[Sequence[Event]], None]
    ) -> None:
        self._kernel, self._thread, self._clock, self._tell = kernel, thread, clock, tell
        self.collection = Collection()

    async def run(self) -> None:
        """Pass after pass, with pauses that fit what they find."""
        while True:
            await self._clock.sleep(self.collection.interval_s)
            await self.once()

    async def once(self) -> None:
        """Look through the whole table."""
        before, began_s = self.collection, self._clock.monotonic_s()
        alive = deleted = held = freed = 0
        while True:
            part = await self._thread.call(self._kernel.sweep)
            alive, deleted = alive + part.alive, deleted + part.deleted
            held, freed = held + part.held, freed + part.freed
            if part.ended:
                self._tell(part.ended)
            if part.last:
                break
            await self._clock.sleep(_BETWEEN_SLICES_S)
        fill = alive / part.capacity if part.capacity else 0.0
        self.collection = Collection(
            runs=before.runs + 1,
            deleted=before.deleted + deleted,
            alive=alive,
            capacity=part.capacity,
            outer_ends=held,
            freed=before.freed + freed,
            duration_s=self._clock.monotonic_s() - began_s,
            interval_s=next_interval_s(before.interval_s, deleted, alive, fill),
        )
