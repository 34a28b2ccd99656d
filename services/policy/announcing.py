"""The rows that the leader announces: made of the view, stamped with revision and trace, compared with what stands on the bus.

Replicas that do not lead make no rows. Whoever comes to lead takes what stands as it is, makes first what changed last, and then
everything else, a little at a time between the changes that go on coming: what says the same stays as it is, and nothing is opened
before it is known that little enough would be.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping

from msgspec.structs import replace

from fairlead import telemetry
from fairlead.announce import Projector
from fairlead.bus import Bucket
from fairlead.clock import Clock
from services.policy.packed import PackedRow
from services.policy.subjects import is_subject
from services.policy.told import Report, newest, opens, same
from services.policy.view import View

_AT_ONCE_S = 0.02
"""How long rows are made before others may have their turn."""
_ROWS_AT_ONCE = 32
"""Rows on their way to the bus together; a row depends on no other."""
_UNKNOWN_S = 5.0
_HELD_ROWS = 20
_HELD_SHARE = 0.5


class Rows:
    """The rows of this replica while it leads; every call but `resolve_all` is made within the turn."""

    def __init__(
        self,
        bucket: Bucket[PackedRow],
        view: Callable[[], View],
        turn: asyncio.Lock,
        *,
        clock: Clock,
        report: Report,
        accept_mass_change: bool,
        at_rest: Callable[[], None],
    ) -> None:
        self._bucket = bucket
        self._view = view
        self._turn = turn
        self._clock = clock
        self._report = report
        self._accept_mass_change = accept_mass_change
        self._at_rest = at_rest
        self.projector = Projector(bucket, clock=clock, at_once=_ROWS_AT_ONCE)
        self.revision = 0
        """The newest revision of the store that the view knows."""
        self.held = False
        """Whether rows are kept because too many would be opened at once."""
        self._owed: dict[int, None] = {}
        """Subjects that may have changed while nobody made rows here; the last ones last."""
        self._everything = asyncio.Event()
        """Set: every row is to be looked at."""
        self._done = asyncio.Event()
        self._leading = False

    @property
    def wanted(self) -> Mapping[str, PackedRow]:
        """Return the rows that should stand on the bus."""
        return self.projector.rows

    def owe(self, numbers: Iterable[int]) -> None:
        """Note subjects whose rows may have changed; nothing is made."""
        for number in numbers:
            self._owed.pop(number, None)
            self._owed[number] = None

    def look_again(self) -> None:
        """Have every row looked at, in its time."""
        self._done.clear()
        self._everything.set()

    async def settled(self) -> None:
        """Return when everything is made and written."""
        await self._done.wait()
        await self.projector.flushed()

    def take_over(self, told: Mapping[str, PackedRow]) -> None:
        """Begin with what stands on the bus."""
        self.projector = Projector(self._bucket, clock=self._clock, at_once=_ROWS_AT_ONCE)
        for key, row in told.items():
            self.projector.set(key, row)
        self._leading = True
        self.look_again()

    def let_go(self) -> None:
        """Lead no more."""
        self._leading = False
        self._done.clear()

    def work(self, numbers: Iterable[int], trace: str) -> None:
        """Make the rows of these subjects, if this replica leads."""
        pending = sorted(numbers)
        if not self._leading:
            self.owe(pending)
        elif self.held:
            self.look_again()
        elif pending:
            with telemetry.span("policy.resolve", parent=trace, revision=self.revision, subjects=len(pending)):
                for number in pending:
                    self._make(number)

    def _make(self, number: int) -> None:
        model = self._view().model
        key, row = model.row_key(number), model.packed(number)
        if row is None:
            self.projector.remove(key)
            return
        stamped = self._stamped(key, row)
        if stamped is not self.wanted.get(key):
            self.projector.set(key, stamped)

    def _stamped(self, key: str, row: PackedRow) -> PackedRow:
        """Return the row announced before if it says the same, else the new one with a larger revision."""
        old = self.wanted.get(key)
        if old is not None and same(old, row):
            return old
        # Prefixes of the store are watched one by one, so that a change may come after one with a larger revision.
        newer = max(self.revision, old.revision + 1 if old else 0)
        return replace(row, revision=newer, trace=telemetry.traceparent())

    async def run(self) -> None:
        """Look at every row whenever that is asked for, while this replica leads."""
        while True:
            await self._everything.wait()
            self._everything.clear()
            await self._look_at_all()

    async def _look_at_all(self) -> None:
        """Make every row; those that would open something wait for the end."""
        recent, self._owed = self._owed, {}
        first = list(reversed(recent))
        left = iter([*first, *(n for n in sorted(self._view().model.identities) if n not in recent and is_subject(n))])
        total = len(self.wanted)
        opening: list[int] = []
        while not self._everything.is_set():
            async with self._turn:
                if not self._some(left, opening):
                    await self._conclude(opening, total)
                    return
            await self._clock.sleep(0)

    def _some(self, left: Iterable[int], opening: list[int]) -> bool:
        """Make rows for a moment; tell whether any are left."""
        until = self._clock.monotonic_s() + _AT_ONCE_S
        model = self._view().model
        for number in left:
            key, row = model.row_key(number), model.packed(number)
            old = self.wanted.get(key)
            if old is not None and opens(old, row):
                opening.append(number)
            elif row is not None:
                told = old and newest(replace(row, revision=self.revision, trace=telemetry.traceparent()), old)
                stamped = told or self._stamped(key, row)
                if stamped is not old:
                    self.projector.set(key, stamped)
            if self._clock.monotonic_s() > until:
                return True
        return False

    async def _conclude(self, opening: list[int], total: int) -> None:
        """Let go what may be let go, and vouch for everything."""
        model = self._view().model
        opened = {model.row_key(number) for number in opening}.union(self._unknown())
        self.held = len(opened) > max(_HELD_ROWS, _HELD_SHARE * total) and not self._accept_mass_change
        detail = (
            f"{len(opened)} of {total} subjects would lose their policy at once; the rows announced before are kept. If "
            "this is meant, restart with accept_mass_change"
        )
        self._report("mass change", not self.held, detail if self.held else "")
        if self.held:
            return
        for number in opening:
            old, row = self.wanted.get(model.row_key(number)), model.packed(number)
            if old is None or row is None or old.revision <= self.revision:
                self._make(number)
        self.projector.vouch(self.revision)
        self._done.set()
        self._at_rest()

    async def drop_unknown(self) -> None:
        """Remove rows of subjects that are still not known after a while: by then it is no delay."""
        await self._done.wait()
        unknown = self._unknown()
        if unknown and not self._accept_mass_change:
            await self._clock.sleep(_UNKNOWN_S)
        async with self._turn:
            for key in unknown & self._unknown() if not self.held else ():
                self.projector.remove(key)

    def _unknown(self) -> set[str]:
        """Return the rows of subjects that are not known here."""
        return self.wanted.keys() - self._view().model.row_keys
