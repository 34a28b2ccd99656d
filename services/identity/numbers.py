"""Label set to number, unique over any number of replicas.

Two keys guard a number: `id/<number>` says which labels it stands for, and the guard of the label set says which number they have.
Both are created in one transaction that demands that neither exists, so no two writers can give one number to two label sets or two
numbers to one. Numbers that people or Cilium agents made are found through `id/` and `value/` and are adopted.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from fairlead import codec, telemetry
from fairlead.clock import Clock
from fairlead.errors import Conflict, InvalidInput, Unavailable
from fairlead.kv import Check, Item, Kv, Put
from fairlead.schema.identity import FIRST_CLUSTER_IDENTITY
from services.identity.catalogue import Catalogue
from services.identity.cilium import label_string, labels_of
from services.identity.keys import Keys
from services.identity.model import candidate
from services.identity.store import Guard

_ATTEMPTS = 32
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Numbered:
    """A label set's number, and the condition under which it is still true."""

    identity: int
    check: Check


class Numbers:
    """Finds or makes the number of a label set."""

    def __init__(self, kv: Kv, names: Keys, catalogue: Catalogue, clock: Clock) -> None:
        self._kv = kv
        self._keys = names
        self._catalogue = catalogue
        self._clock = clock
        self._one_at_a_time = asyncio.Lock()

    async def ensure(self, labels: tuple[str, ...]) -> Numbered:
        """Return the number of `labels` (in normal form), made on first use. Raises Exhausted, Unavailable."""
        if not self._catalogue.complete:
            raise Unavailable("identity has not read the store yet")
        known = self._catalogue.number_of(labels)
        if known is not None:
            return Numbered(known.number, Check(self._keys.id(known.number), known.revision))
        # one at a time: fifty endpoints with the same new labels make one number and forty-nine look-ups
        async with self._one_at_a_time:
            return await self._find_or_make(labels)

    async def _find_or_make(self, labels: tuple[str, ...]) -> Numbered:
        tried: set[int] = set()
        for _ in range(_ATTEMPTS):
            guard = await self._kv.get(self._keys.guard(labels))
            number = codec.decode(guard.value, Guard).identity if guard else await self._foreign(labels)
            found = await self._standing(labels, number) if number else None
            if found is not None:
                return found
            try:
                return await self._make(labels, guard, number, tried)
            except Conflict as error:
                _LOG.debug("number of %s: %s", labels, error.message)
        raise Unavailable(f"no number for {label_string(labels)} in {_ATTEMPTS} attempts: too many writers, try again")

    async def _standing(self, labels: tuple[str, ...], number: int) -> Numbered | None:
        """Return the number if it stands for these labels now."""
        item = await self._kv.get(self._keys.id(number))
        if item is None or not _means(item, labels):
            return None
        return Numbered(number, Check(item.key, item.revision))

    async def _foreign(self, labels: tuple[str, ...]) -> int:
        """Return the number that somebody without our guard noted for these labels, or 0."""
        prefix = self._keys.values(labels)
        for item in (await self._kv.list(prefix)).items:
            text = item.value.decode(errors="replace").strip()
            if "/" not in item.key.removeprefix(prefix) and text.isdecimal():
                return int(text) if int(text) >= FIRST_CLUSTER_IDENTITY else 0
        return 0

    async def _make(self, labels: tuple[str, ...], guard: Item | None, number: int, tried: set[int]) -> Numbered:
        """Create the number: the guard's own if nobody took it meanwhile, else a free one. Raises Conflict."""
        wanted = number if number and number not in tried else candidate(labels, self._catalogue.numbers | tried)
        tried.add(wanted)
        key, guard_key = self._keys.id(wanted), self._keys.guard(labels)
        made = Guard(identity=wanted, labels=labels, trace=telemetry.traceparent(), since=self._clock.now().isoformat())
        revision = await self._kv.commit(
            [Check(key, 0), Check(guard_key, guard.revision if guard else 0)],
            [Put(key, label_string(labels).encode()), Put(guard_key, codec.encode(made))],
        )
        return Numbered(wanted, Check(key, revision))


def _means(item: Item, labels: Sequence[str]) -> bool:
    try:
        return labels_of(item.value.decode(errors="replace")) == tuple(labels)
    except InvalidInput:
        return False
