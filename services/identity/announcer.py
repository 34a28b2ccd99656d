"""From the store to the buckets: follows what anybody commits under the announced root, and keeps the rows equal to it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import TypeVar

from fairlead import codec
from fairlead.announce import Follower, Projector
from fairlead.bus import Bus
from fairlead.clock import Clock
from fairlead.errors import InvalidInput, Unavailable
from fairlead.kv import Change, Item, Kv
from fairlead.schema.base import Row
from fairlead.schema.identity import ADDRESSES, IDENTITIES, NODES, AddressGroup, IdentityRow, NodeRow
from services.identity.catalogue import Catalogue, Touched
from services.identity.keys import EXTERNALS, Keys
from services.identity.model import FULL_AT, LOSS_MIN, NUMBERS, LossGuard, Record, is_overdue

_LOOK_S = 5.0
_NAMED = 3
"""How many of many are named in a condition."""

V = TypeVar("V", bound=Row)

SetCondition = Callable[[str, bool, str], None]


class Announcer:
    """Keeps the buckets `identities`, `addresses` and `nodes` equal to etcd. Every replica does, and all write the same."""

    def __init__(
        self, kv: Kv, bus: Bus, names: Keys, catalogue: Catalogue, condition: SetCondition, clock: Clock
    ) -> None:
        self._catalogue = catalogue
        self._condition = condition
        self._clock = clock
        self._keys = names
        self._guard = LossGuard()
        self._logged: set[str] = set()
        self._identities, self._addresses = bus.bucket(IDENTITIES), bus.bucket(ADDRESSES)
        self.identities = Projector[IdentityRow](self._identities, clock=clock)
        self.addresses = Projector[AddressGroup](self._addresses, clock=clock)
        self.nodes = Projector[NodeRow](bus.bucket(NODES), clock=clock)
        self.follower = Follower(
            kv, [names.state], on_snapshot=self._on_snapshot, on_changes=self._on_changes, clock=clock
        )
        condition("store", False, "identity has not read the store yet")

    async def _on_snapshot(self, items: dict[str, Item], revision: int) -> None:
        before = self._catalogue.members or await self._announced()
        for _ in self._catalogue.load(items):
            await self._clock.sleep(0)
        self._condition("store", True, "")
        self._guard.look(before, self._catalogue.members)
        self._project_all(revision)
        self._report()

    async def _announced(self) -> frozenset[str]:
        """Return what the buckets hold from before our start; nothing if the hub is away."""
        try:
            identities, groups = await self._identities.rows(), await self._addresses.rows()
        except Unavailable:
            return frozenset()
        return frozenset({*identities, *(entry.prefix for group in groups.values() for entry in group.entries)})

    async def _on_changes(self, changes: tuple[Change, ...]) -> None:
        was_held = self._guard.held
        # the sets are large, so they are only made where they can matter; our own commits carry a note
        ours = any(change.key.startswith(self._keys.notes) for change in changes)
        many = not ours and sum(change.item is None for change in changes) >= LOSS_MIN
        before = self._catalogue.members if many else frozenset()
        touched = self._catalogue.apply(changes)
        if many or was_held:
            self._guard.look(before, self._catalogue.members)
        if any(change.key == self._keys.accept_loss and change.item for change in changes):
            self._guard.accept()
        if was_held:
            self._project_all(changes[-1].revision)
        else:
            self._project(touched)
        self._report()

    def _project_all(self, revision: int) -> None:
        """Want every row as it follows from the store, unless too much has vanished at once."""
        if self._guard.held:
            return
        self.identities.replace(self._catalogue.identity_rows(), revision)
        self.addresses.replace(self._catalogue.places.group_rows(), revision)
        self.nodes.replace(self._catalogue.places.node_rows(), revision)

    def _project(self, touched: Touched) -> None:
        if self._guard.held:
            return
        places = self._catalogue.places
        for number in touched.identities:
            _set(self.identities, str(number), self._catalogue.identity_row(number))
        for node in touched.nodes:
            _set(self.nodes, node, places.node_row(node))
        for group in touched.groups:
            _set(self.addresses, group, places.group_row(group))

    def _report(self) -> None:
        """State how identity numbers, entries and losses stand."""
        self._report_numbers()
        self._report_bad()
        command = f"restore etcd, or accept it with: etcdctl put {self._keys.accept_loss} yes"
        lost = f"{len(self._guard.lost)} entries vanished from etcd at once; rows stay as they were: {command}"
        self._condition("mass loss", not self._guard.held, lost if self._guard.held else "")

    def _report_numbers(self) -> None:
        used = self._catalogue.used
        full = used >= NUMBERS * FULL_AT
        advice = ": unused ones are not collected yet; reduce the labels that make workloads different" if full else ""
        self._condition("identity numbers", not full, f"{used} of {NUMBERS} in use{advice}")

    def _report_bad(self) -> None:
        bad = self._catalogue.bad
        for key in bad.keys() - self._logged:
            self._condition("entries", False, f"left out: {key}: {bad[key]}")
        self._logged = set(bad)
        named = "; ".join(f"{key}: {bad[key]}" for key in sorted(bad)[:_NAMED])
        self._condition("entries", not bad, f"{len(bad)} left out: {named}" if bad else "")


def _set(projector: Projector[V], key: str, row: V | None) -> None:
    """Want the row, or none; a row that stands already is left alone."""
    if row is None:
        projector.remove(key)
    elif projector.rows.get(key) != row:
        projector.set(key, row)


class LeaseWatch:
    """Says which leased external workloads were not heard of in time. It never removes one."""

    def __init__(self, kv: Kv, condition: SetCondition, clock: Clock) -> None:
        self._condition = condition
        self._clock = clock
        self._leased: dict[str, Record] = {}
        self.follower = Follower(
            kv, [EXTERNALS], on_snapshot=self._on_snapshot, on_changes=self._on_changes, clock=clock
        )

    async def _on_snapshot(self, items: dict[str, Item], _revision: int) -> None:
        self._leased.clear()
        for item in items.values():
            self._take(item.key, item)

    async def _on_changes(self, changes: tuple[Change, ...]) -> None:
        for change in changes:
            self._take(change.key, change.item)

    def _take(self, key: str, item: Item | None) -> None:
        self._leased.pop(key, None)
        record = _readable(item) if item else None
        if record is not None and record.lease_s and not record.withdrawn:
            self._leased[key] = record

    async def run(self) -> None:
        """Look every few seconds, for ever."""
        while True:
            self.look(self._clock.now())
            await self._clock.sleep(_LOOK_S)

    def look(self, now: datetime) -> None:
        """State how the leases stand at `now`."""
        overdue = sorted(key.removeprefix(EXTERNALS) for key, record in self._leased.items() if is_overdue(record, now))
        named = ", ".join(overdue[:_NAMED])
        detail = f"{len(overdue)} not heard of in time, kept as they are: {named}" if overdue else ""
        self._condition("external leases", not overdue, detail)


def _readable(item: Item) -> Record | None:
    try:
        return codec.decode(item.value, Record)
    except InvalidInput:
        return None
