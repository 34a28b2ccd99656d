"""What etcd says, indexed, and the rows that follow from it. Pure: it is fed, and asked.

Bad entries are left out one by one and told with their reason; nothing that somebody wrote by hand stops the rest.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import chain

from fairlead import codec
from fairlead.errors import InvalidInput
from fairlead.kv import Change, Item
from fairlead.schema.base import IdentityId
from fairlead.schema.identity import (
    FIRST_CIDR_IDENTITY,
    FIRST_CLUSTER_IDENTITY,
    LAST_CLUSTER_IDENTITY,
    IdentityRow,
)
from services.identity.cilium import labels_of
from services.identity.keys import Keys
from services.identity.places import Places
from services.identity.store import Guard


@dataclass(frozen=True, slots=True)
class Known:
    """A number, its labels, and the revision of its key."""

    number: int
    labels: tuple[str, ...]
    revision: int


_TURN = 1000
_Put = Callable[[str, Item], None]
_Drop = Callable[[str, int], None]


@dataclass(frozen=True, slots=True)
class Touched:
    """Which rows may have changed. `groups` in the order to write them: those that gain before those that lose."""

    identities: dict[int, None]
    groups: dict[str, None]
    nodes: dict[str, None]


class Catalogue:
    """All identities, addresses and nodes of one cluster."""

    def __init__(self, names: Keys) -> None:
        self._keys = names
        self.complete = False
        self.bad: dict[str, str] = {}
        """Why a key is left out."""
        self._clear()

    def _clear(self) -> None:
        self._known: dict[int, Known] = {}
        self._numbers_by_labels: dict[tuple[str, ...], set[int]] = defaultdict(set)
        self._guards: dict[int, Guard] = {}
        self._changed: dict[int, None] = {}
        self.places = Places(self._keys)
        self._readers: tuple[tuple[str, _Put, _Drop], ...] = (
            (self._keys.ids, self._put_identity, self._drop_identity),
            (self._keys.guards, self._put_guard, _drop_nothing),
            (self._keys.addresses, self.places.put_address, self.places.drop_address),
            (self._keys.nodes, self.places.put_node, self.places.drop_node),
            (self._keys.notes, self.places.put_note, _drop_nothing),
        )

    @property
    def numbers(self) -> frozenset[int]:
        """Return all numbers in use."""
        return frozenset(self._known)

    @property
    def members(self) -> frozenset[str]:
        """Return every number and every prefix, to tell afterwards what vanished."""
        return frozenset({*map(str, self._known), *self.places.prefixes})

    @property
    def used(self) -> int:
        """Return how many of the cluster's own numbers are in use; numbers of other clusters are larger."""
        return sum(number <= LAST_CLUSTER_IDENTITY for number in self._known)

    def number_of(self, labels: tuple[str, ...]) -> Known | None:
        """Return the number of a label set; the smallest where people made several."""
        numbers = self._numbers_by_labels.get(labels)
        return self._known[min(numbers)] if numbers else None

    def load(self, items: Mapping[str, Item]) -> Iterator[None]:
        """Forget everything, and take this; pauses after every thousand, so that the caller can let others have their turn."""
        self.complete = False
        self._clear()
        self.bad.clear()
        # nodes first: they decide where addresses belong
        nodes = [item for key, item in items.items() if key.startswith(self._keys.nodes)]
        others = (item for key, item in items.items() if not key.startswith(self._keys.nodes))
        for number, item in enumerate(chain(nodes, others), start=1):
            self._put(item)
            if number % _TURN == 0:
                yield
        self._take_touched()
        self.complete = True

    def apply(self, changes: Iterable[Change]) -> Touched:
        """Take the changes of one revision, and return which rows they touch."""
        for change in changes:
            if change.item is not None:
                self._put(change.item)
            else:
                self._drop(change)
        return self._take_touched()

    def _take_touched(self) -> Touched:
        touched = Touched(self._changed, self.places.groups, self.places.nodes)
        self._changed, self.places.groups, self.places.nodes = {}, {}, {}
        return touched

    def _put(self, item: Item) -> None:
        for prefix, put, drop in self._readers:
            if item.key.startswith(prefix):
                name = item.key.removeprefix(prefix)
                try:
                    put(name, item)
                    self.bad.pop(item.key, None)
                except InvalidInput as error:
                    self.bad[item.key] = error.message
                    drop(name, item.revision)
                return

    def _drop(self, change: Change) -> None:
        self.bad.pop(change.key, None)
        for prefix, _put, drop in self._readers:
            if change.key.startswith(prefix):
                drop(change.key.removeprefix(prefix), change.revision)

    def _put_identity(self, name: str, item: Item) -> None:
        if not name.isdecimal() or not FIRST_CLUSTER_IDENTITY <= int(name) < FIRST_CIDR_IDENTITY or name[0] == "0":
            raise InvalidInput(f"{name!r} is no cluster identity: use a number from {FIRST_CLUSTER_IDENTITY} on")
        labels = labels_of(_text(item))
        self._drop_identity(name, item.revision)
        self._known[int(name)] = Known(int(name), labels, item.revision)
        self._numbers_by_labels[labels].add(int(name))
        self._changed[int(name)] = None

    def _drop_identity(self, name: str, _revision: int) -> None:
        known = self._known.pop(int(name), None) if name.isdecimal() else None
        if known is not None:
            self._numbers_by_labels[known.labels].discard(known.number)
            self._changed[known.number] = None

    def _put_guard(self, _name: str, item: Item) -> None:
        guard = codec.decode(item.value, Guard)
        self._guards[guard.identity] = guard
        self._changed[guard.identity] = None

    def identity_row(self, number: int) -> IdentityRow | None:
        """Return the row of a number, or None."""
        known = self._known.get(number)
        if known is None:
            return None
        guard = self._guards.get(number)
        mine = guard if guard is not None and guard.labels == known.labels else None
        return IdentityRow(
            identity=IdentityId(number),
            labels=known.labels,
            since=datetime.fromisoformat(mine.since) if mine and mine.since else None,
            revision=known.revision,
            trace=mine.trace if mine else "",
        )

    def identity_rows(self) -> dict[str, IdentityRow]:
        """Return every identity row by key."""
        return {str(number): row for number in self._known if (row := self.identity_row(number)) is not None}


def _drop_nothing(name: str, revision: int) -> None:
    """Guards and notes only explain: without them the rows stand."""


def _text(item: Item) -> str:
    try:
        return item.value.decode()
    except UnicodeDecodeError as error:
        raise InvalidInput("the labels are not text") from error
