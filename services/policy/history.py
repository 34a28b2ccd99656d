"""Versions of documents: one record beside every change of a document, in the same commit, the newest few kept.

`fairlead/policy-history/<kind>/<namespace or _>/<name>/<version, ten digits>` holds a compressed StoredVersion. The revision of the key is
the revision of the change.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from datetime import datetime

from fairlead import codec
from fairlead.errors import FairleadError, InvalidInput
from fairlead.kv import Check, Delete, Item, Kv, Put
from fairlead.schema.base import Message
from fairlead.schema.policy import PolicyObject, PolicyReference, PolicyVersion

HISTORY = "fairlead/policy-history/"
_MAX_RECORD_BYTES = 300 * 1024
"""Together with the largest document a commit stays below what etcd takes (1.5 MiB)."""
_MAX_PLAIN_BYTES = 4 * 1024 * 1024


class StoredVersion(Message, frozen=True, kw_only=True):
    """One change of a document: what became of it, by whom and when; `document` is None where it is gone, or was too large to keep."""

    action: str
    at: datetime
    author: str = ""
    owner: str = ""
    trace: str = ""
    forced: bool = False
    document: PolicyObject | None = None


def history_prefix(reference: PolicyReference) -> str:
    """Return the prefix of a document's records."""
    return f"{HISTORY}{reference.kind}/{reference.namespace or '_'}/{reference.name}/"


def encode_version(version: StoredVersion) -> bytes:
    """Return the record for the store; a document that takes too much room is left out."""
    packed = zlib.compress(codec.encode(version))
    if len(packed) <= _MAX_RECORD_BYTES:
        return packed
    plain = {field: getattr(version, field) for field in StoredVersion.__struct_fields__ if field != "document"}
    return zlib.compress(codec.encode(StoredVersion(**plain)))


def decode_version(value: bytes) -> StoredVersion:
    """Return the record. Raises InvalidInput."""
    try:
        plain = zlib.decompressobj().decompress(value, _MAX_PLAIN_BYTES)
    except zlib.error as error:
        raise InvalidInput(f"the record of a version cannot be read: {error}") from error
    return codec.decode(plain, StoredVersion)


def next_record(
    reference: PolicyReference, known: Sequence[Item], version: StoredVersion, keep: int
) -> tuple[int, Check, list[Put | Delete]]:
    """Return the number of a new version, what must hold for it, and the changes that record it and drop the oldest."""
    prefix = history_prefix(reference)
    number = 1 + max((_number(item) for item in known), default=0)
    key = f"{prefix}{number:010d}"
    dropped = [Delete(item.key) for item in known if _number(item) <= number - keep]
    return number, Check(key, 0), [Put(key, encode_version(version)), *dropped[:_DROP_AT_ONCE]]


_DROP_AT_ONCE = 50


def _number(item: Item) -> int:
    text = item.key.rpartition("/")[2]
    return int(text) if text.isascii() and text.isdigit() else 0


async def read_versions(kv: Kv, reference: PolicyReference) -> list[PolicyVersion]:
    """Return the versions that are kept, oldest first; a record that cannot be read is left out. Raises Unavailable."""
    listing = await kv.list(history_prefix(reference))
    found = []
    for item in listing.items:
        try:
            record = decode_version(item.value)
        except FairleadError:
            continue  # somebody else's bytes: the others are still good
        found.append(
            PolicyVersion(
                version=_number(item),
                revision=item.revision,
                action=record.action,
                at=record.at,
                author=record.author,
                owner=record.owner,
                trace=record.trace,
                forced=record.forced,
                document=record.document,
            )
        )
    return found


def to_roll_back_to(versions: Sequence[PolicyVersion], wanted: int) -> PolicyVersion:
    """Return the version that is meant; 0: the newest that differs from what stands now. Raises InvalidInput."""
    numbers = [version.version for version in versions]
    if wanted:
        found = next((version for version in versions if version.version == wanted), None)
        if found is None:
            raise InvalidInput(f"`version`: there is no version {wanted}; kept are {numbers or 'none'}")
    else:
        stands = versions[-1].document if versions else None
        found = next((one for one in reversed(versions) if one.document and one.document != stands), None)
        if found is None:
            raise InvalidInput("`version`: no earlier version is kept")
    if found.document is None:
        raise InvalidInput(f"`version`: version {wanted} holds no document ({found.action}): choose another")
    return found
