"""What identity keeps in etcd, read and committed by compare-and-swap."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import msgspec

from fairlead import codec
from fairlead.address import Prefix
from fairlead.errors import Conflict, FairleadError, InvalidInput
from fairlead.kv import Check, Delete, Item, Kv, Put
from fairlead.schema.base import Message
from services.identity.cilium import address_name, read_address
from services.identity.keys import Keys
from services.identity.model import Held, Plan, Record


class Raced(FairleadError):
    """Another writer changed what a decision was made from: read again, decide again."""


class Guard(Message, frozen=True, kw_only=True):
    """The number of a label set; only one writer can create it."""

    identity: int
    labels: tuple[str, ...]
    trace: str = ""
    since: str = ""


class Note(Message, frozen=True, kw_only=True):
    """The trace of what last changed a group of addresses."""

    trace: str = ""


@dataclass(frozen=True)
class Stored:
    """A record and the revision of its key; revision 0 and no record when there is none."""

    record: Record | None
    revision: int


class Store:
    """Records and addresses of workloads."""

    def __init__(self, kv: Kv, names: Keys) -> None:
        self.kv = kv
        self.keys = names

    async def record(self, key: str) -> Stored:
        """Return the record under a key."""
        item = await self.kv.get(key)
        return Stored(codec.decode(item.value, Record), item.revision) if item else Stored(None, 0)

    async def held(self, prefixes: Iterable[Prefix]) -> dict[Prefix, Held]:
        """Return who holds these addresses now."""
        wanted = tuple(dict.fromkeys(prefixes))
        items = await asyncio.gather(*(self.kv.get(self.keys.address(prefix)) for prefix in wanted))
        return {prefix: _held(prefix, item) for prefix, item in zip(wanted, items, strict=True)}

    async def commit(
        self, key: str, stored: Stored, plan: Plan, held: Mapping[Prefix, Held], *extra: Check | Put, lease: int = 0
    ) -> int:
        """Make the plan true if nothing it was made from has changed, and return the revision. Raises Raced."""
        names = self.keys
        checks = [Check(names.address(prefix), held[prefix].revision) for prefix in (*plan.puts, *plan.deletes)]
        note = codec.encode(Note(trace=plan.record.trace))
        conditions = [Check(key, stored.revision), *checks, *(entry for entry in extra if isinstance(entry, Check))]
        changes: list[Put | Delete] = [
            Put(key, codec.encode(plan.record), lease),
            *(Put(names.address(prefix), msgspec.json.encode(value)) for prefix, value in plan.puts.items()),
            *(Delete(names.address(prefix)) for prefix in plan.deletes),
            *(Put(names.note(group), note) for group in sorted(plan.groups)),
            *(entry for entry in extra if isinstance(entry, Put)),
        ]
        try:
            return await self.kv.commit(conditions, changes)
        except Conflict as error:
            raise Raced(error.message) from error


def _held(prefix: Prefix, item: Item | None) -> Held:
    if item is None:
        return Held()
    try:
        return Held(item.revision, read_address(address_name(prefix), item.value))
    except InvalidInput:
        # not readable means not in effect: whoever has a right to the address may write over it
        return Held(item.revision, None)
