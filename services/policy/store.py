"""What policy keeps in etcd: documents, and the number of each prefix that a document names.

`fairlead/policies/<kind>/<namespace or _>/<name>` holds a StoredDocument; `fairlead/cidrs/<prefix>` a number in decimal, and
`fairlead/cidr-numbers/<number>` the prefix, so that no number is given twice.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from msgspec.structs import replace

from fairlead import codec
from fairlead.errors import Conflict, Exhausted, FairleadError, InvalidInput
from fairlead.kv import Check, Delete, Item, Kv, Put
from fairlead.schema.base import Message
from fairlead.schema.identity import FIRST_CIDR_IDENTITY
from fairlead.schema.policy import PolicyObject, PolicyReference, PolicyVersion
from services.policy.history import StoredVersion, history_prefix, next_record, read_versions

POLICIES = "fairlead/policies/"
DELETION = "fairlead/policies/_deletion"
"""Written with every deletion: who caused it. A key that is gone can hold no trace."""
CIDRS = "fairlead/cidrs/"
CIDR_NUMBERS = "fairlead/cidr-numbers/"
MAX_DOCUMENT_BYTES = 1024 * 1024
_LAST_CIDR_IDENTITY = FIRST_CIDR_IDENTITY + 0xFFFFFE
_PREFIXES_AT_ONCE = 40
_TRIES = 10
_UNKNOWN_TIME = datetime(1970, 1, 1, tzinfo=UTC)


class StoredDocument(Message, frozen=True, kw_only=True):
    """A document, who put it there, and the trace of that event."""

    document: PolicyObject
    author: str = ""
    trace: str = ""
    forced: bool = False
    """Whether it was stored against tests that failed, or against its owner."""
    owner: str = ""
    version: int = 0
    at: datetime | None = None


class Deletion(Message, frozen=True, kw_only=True):
    """The event that caused the last deletion."""

    trace: str = ""


@dataclass(frozen=True)
class Found:
    """A document with the revision to compare with."""

    stored: StoredDocument
    revision: int


def policy_key(reference: PolicyReference) -> str:
    """Return the key of a document."""
    return f"{POLICIES}{reference.kind}/{reference.namespace or '_'}/{reference.name}"


def decode_document(item: Item) -> StoredDocument:
    """Return the document in an item. Raises InvalidInput."""
    return codec.decode(item.value, StoredDocument)


def decode_number(item: Item) -> int:
    """Return the number of a prefix. Raises InvalidInput."""
    text = item.value.decode(errors="replace")
    if not text.isascii() or not text.isdigit() or not FIRST_CIDR_IDENTITY <= int(text) <= _LAST_CIDR_IDENTITY:
        raise InvalidInput(f"{item.key} holds {text!r}, which is no number of a prefix")
    return int(text)


class PolicyStore:
    """Documents and prefix numbers, changed by compare-and-swap."""

    def __init__(self, kv: Kv, keep_versions: int = 10) -> None:
        self._kv = kv
        self._keep = keep_versions

    async def get(self, reference: PolicyReference) -> Found | None:
        """Return the document, or None. Raises InvalidInput when what is stored cannot be read."""
        item = await self._kv.get(policy_key(reference))
        return None if item is None else Found(decode_document(item), item.revision)

    async def owned(self, owner: str) -> list[PolicyObject]:
        """Return the documents that stand in this owner's name now, whichever replica stored them; unreadable ones are nobody's."""
        found = []
        for item in (await self._kv.list(POLICIES)).items:
            with suppress(InvalidInput):
                stored = decode_document(item)
                found += [stored.document] if stored.owner == owner and item.key != DELETION else []
        return found

    async def revision(self, reference: PolicyReference) -> int:
        """Return the revision of the document, readable or not; 0 when there is none."""
        item = await self._kv.get(policy_key(reference))
        return item.revision if item else 0

    async def put(
        self, reference: PolicyReference, stored: StoredDocument, expecting: int, action: str = "stored"
    ) -> int:
        """Store the document if its revision is still `expecting` (0: none); return the new one. Raises Conflict."""
        number, check, record = await self._record(reference, stored, action, stored.document)
        key, value = policy_key(reference), codec.encode(replace(stored, version=number))
        if len(value) > MAX_DOCUMENT_BYTES:
            raise InvalidInput(f"`spec`: the policy has {len(value)} bytes; at most {MAX_DOCUMENT_BYTES} fit: split it")
        return await self._kv.commit([Check(key, expecting), check], [Put(key, value), *record])

    async def delete(
        self, reference: PolicyReference, expecting: int, cause: StoredDocument, action: str = "deleted"
    ) -> int:
        """Remove the document if its revision is still `expecting`; return the revision of that. Raises Conflict."""
        _, check, record = await self._record(reference, cause, action, None)
        key = policy_key(reference)
        note = Put(DELETION, codec.encode(Deletion(trace=cause.trace)))
        return await self._kv.commit([Check(key, expecting), check], [Delete(key), note, *record])

    async def versions(self, reference: PolicyReference) -> list[PolicyVersion]:
        """Return the versions that are kept, oldest first."""
        return await read_versions(self._kv, reference)

    async def _record(
        self, reference: PolicyReference, cause: StoredDocument, action: str, document: PolicyObject | None
    ) -> tuple[int, Check, list[Put | Delete]]:
        known = (await self._kv.list(history_prefix(reference))).items
        version = StoredVersion(
            action=action,
            at=cause.at or _UNKNOWN_TIME,
            author=cause.author,
            owner=cause.owner,
            trace=cause.trace,
            forced=cause.forced,
            document=document,
        )
        return next_record(reference, known, version, self._keep)

    async def number(self, prefixes: Iterable[str]) -> dict[str, int]:
        """Return the number of each prefix, given now to those that have none. Raises Conflict, Exhausted."""
        wanted = sorted(set(prefixes))
        conflicts = 0
        while True:
            known = await self._numbers() if wanted else {}
            missing = [prefix for prefix in wanted if prefix not in known]
            if not missing:
                return {prefix: known[prefix] for prefix in wanted}
            try:
                await self._give(missing[:_PREFIXES_AT_ONCE], set(known.values()))
            except Conflict:  # another replica gives numbers now too: look again
                conflicts += 1
                if conflicts == _TRIES:
                    raise

    async def forget(self, prefix: str, number: int) -> None:
        """Take the number back. Raises Conflict when it has changed hands."""
        item = await self._kv.get(CIDRS + prefix)
        if item is None or decode_number(item) != number:
            raise Conflict(f"{prefix} has another number now")
        checks = [Check(CIDRS + prefix, item.revision)]
        await self._kv.commit(checks, [Delete(CIDRS + prefix), Delete(f"{CIDR_NUMBERS}{number}")])

    async def _numbers(self) -> dict[str, int]:
        listing = await self._kv.list(CIDRS)
        numbers: dict[str, int] = {}
        for item in listing.items:
            try:
                numbers[item.key.removeprefix(CIDRS)] = decode_number(item)
            except FairleadError:
                continue  # the follower reports it; the prefix cannot be numbered until a person removes the key
        return numbers

    async def _give(self, prefixes: list[str], taken: set[int]) -> None:
        checks: list[Check] = []
        puts: list[Put | Delete] = []
        for number, prefix in zip(free_numbers(taken, len(prefixes)), prefixes, strict=True):
            checks += [Check(CIDRS + prefix, 0), Check(f"{CIDR_NUMBERS}{number}", 0)]
            puts += [Put(CIDRS + prefix, str(number).encode()), Put(f"{CIDR_NUMBERS}{number}", prefix.encode())]
        await self._kv.commit(checks, puts)


def free_numbers(taken: set[int], count: int) -> list[int]:
    """Return free numbers: those above all others first, so that a number comes back late. Raises Exhausted."""
    above = max(taken, default=FIRST_CIDR_IDENTITY - 1) + 1
    found = list(range(above, min(above + count, _LAST_CIDR_IDENTITY + 1)))
    if len(found) < count:
        gaps = (number for number in range(FIRST_CIDR_IDENTITY, above) if number not in taken)
        found += itertools.islice(gaps, count - len(found))
    if len(found) < count:
        raise Exhausted(f"all {_LAST_CIDR_IDENTITY - FIRST_CIDR_IDENTITY + 1} prefix numbers are in use")
    return found
