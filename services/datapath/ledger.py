"""What was ordered of each policy map: by it the service tells its own entries from foreign ones, after any crash.

All ledgers are in one file that only grows at its end, since every change of a policy map costs two records; now and then it is
written anew. Entries stand in it once, however many endpoints share them. A record counts when it is whole, so that a kill at
any instant costs nothing that was confirmed. The file need not reach the disk: it describes maps that a power failure clears too.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import struct
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from io import FileIO
from pathlib import Path

import msgspec

from fairlead import codec
from fairlead.errors import InvalidInput
from services.datapath.model import PolicyMap
from services.datapath.operations import PolicyKey, PolicyValue

_LOG = logging.getLogger("datapath.ledger")
_DIGESTS_KEPT = 8
_GROWS_BYTES = 4 << 20
_FRAME = struct.Struct(">II")
"""Before each record: its bytes, and their checksum."""
_ENTRY = struct.Struct(">IHBB?BHI")
"""The fourth is the direction in bit 0 and the bits of a block of ports above it."""

Entry = tuple[PolicyKey, PolicyValue]
Entries = Mapping[PolicyKey, PolicyValue]


class Ledger(msgspec.Struct, frozen=True):
    """What was ordered of one policy map: the policy that stands, and entries of orders that were given but not confirmed."""

    policy: PolicyMap | None = None
    others: frozenset[Entry] = frozenset()

    def ordered(self) -> set[Entry]:
        """Return every entry that may stand in the kernel because we ordered it."""
        return {*(self.policy.entries.items() if self.policy else ()), *self.others}


class _EntriesRecord(msgspec.Struct, frozen=True, tag="entries"):
    digest: bytes
    rows: bytes


class _GoneRecord(msgspec.Struct, frozen=True, tag="gone"):
    endpoint: int


class _LedgerRecord(msgspec.Struct, frozen=True, tag="ledger"):
    endpoint: int
    others: bytes
    applied: bytes = b""
    """Digests of entries; without `applied` no policy stands."""
    identity: int = 0
    revision: int = 0
    ingress_default_deny: int = 0
    egress_default_deny: int = 0
    audit_ingress: bool = False
    audit_egress: bool = False
    trace: str = ""


_POLICY_FIELDS = tuple(field.name for field in dataclasses.fields(PolicyMap) if field.name != "entries")
_Record = _EntriesRecord | _GoneRecord | _LedgerRecord


class Journal:
    """The file of all ledgers of a node."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: FileIO | None = None
        self._size = self._size_anew = 0
        self._entries: dict[bytes, _EntriesRecord] = {}
        self._records: dict[int, _LedgerRecord] = {}
        self._digests: dict[int, tuple[object, bytes]] = {}
        for record in _read(path):
            self._take(record)

    def ledgers(self) -> dict[int, Ledger]:
        """Return the ledger of each endpoint; those with the same policy share its entries."""
        shared = {digest: dict(_unpack(record.rows)) for digest, record in self._entries.items()}
        return {endpoint: _ledger(record, shared) for endpoint, record in self._records.items()}

    def save(self, endpoint: int, ledger: Ledger) -> None:
        """Keep what was ordered. Raises OSError when the disk refuses."""
        policy, others = ledger.policy, self._digest(ledger.others)
        record = _LedgerRecord(endpoint, others)
        if policy is not None:
            applied = {name: getattr(policy, name) for name in _POLICY_FIELDS}
            record = msgspec.structs.replace(record, applied=self._digest(policy.entries), **applied)
        self._append(record)

    def drop(self, endpoint: int) -> None:
        """Forget what was ordered."""
        if endpoint in self._records:
            self._append(_GoneRecord(endpoint))

    def _take(self, record: _Record) -> None:
        match record:
            case _EntriesRecord():
                self._entries[record.digest] = record
            case _GoneRecord():
                self._records.pop(record.endpoint, None)
            case _LedgerRecord():
                self._records[record.endpoint] = record

    def _digest(self, entries: Entries | frozenset[Entry]) -> bytes:
        """Have these entries in the file, and return their digest. Neither policies nor orders ever change: the same object is the same."""
        known = self._digests.get(id(entries))
        if known is None or known[0] is not entries:
            items: Collection[Entry] = entries.items() if isinstance(entries, Mapping) else entries
            rows = _pack(items)
            known = self._digests[id(entries)] = entries, hashlib.blake2b(rows, digest_size=16).digest()
            if known[1] not in self._entries:
                self._append(_EntriesRecord(known[1], rows))
            while len(self._digests) > _DIGESTS_KEPT:
                del self._digests[next(iter(self._digests))]
        return known[1]

    def _append(self, record: _Record) -> None:
        self._take(record)
        if self._file is None or self._size > _GROWS_BYTES + 2 * self._size_anew:
            self._write_anew()
            return
        data = _frame(record)
        if self._file.write(data) != len(data):
            self._file = None  # what follows half a record would not be read
            raise OSError(f"{self._path} takes no more: is the disk full?")
        self._size += len(data)

    def _write_anew(self) -> None:
        """Write what counts into a new file, and put that in the place of the old one."""
        used = {digest for record in self._records.values() for digest in (record.applied, record.others)}
        used |= {digest for _, digest in self._digests.values()}
        self._entries = {digest: record for digest, record in self._entries.items() if digest in used}
        partial = self._path.with_suffix(".partial")
        data = b"".join([*map(_frame, self._entries.values()), *map(_frame, self._records.values())])
        partial.write_bytes(data)
        partial.replace(self._path)
        self._file = FileIO(self._path, "ab")
        self._size = self._size_anew = len(data)


def _frame(record: _Record) -> bytes:
    data = codec.pack(msgspec.to_builtins(record, builtin_types=(bytes,)))
    return _FRAME.pack(len(data), zlib.crc32(data)) + data


def _read(path: Path) -> Iterator[_Record]:
    data, place = path.read_bytes() if path.exists() else b"", 0
    while place + _FRAME.size <= len(data):
        length, checksum = _FRAME.unpack_from(data, place)
        place += _FRAME.size
        body = data[place : place + length]
        if len(body) < length or zlib.crc32(body) != checksum:
            break
        place += length
        try:
            yield codec.decode(body, _Record, max_bytes=codec.MAX_FILE_BYTES)  # type: ignore[arg-type] # a union
        except InvalidInput as error:
            _LOG.error("%s: a record of another version is left out: %s", path, error.message)
    if place < len(data):
        _LOG.warning("%s: the end is not whole and is left out", path)


def _ledger(record: _LedgerRecord, shared: Mapping[bytes, Entries]) -> Ledger:
    others = frozenset(shared.get(record.others, {}).items())
    if not record.applied:
        return Ledger(None, others)
    applied = {name: getattr(record, name) for name in _POLICY_FIELDS}
    return Ledger(PolicyMap(entries=shared.get(record.applied, {}), **applied), others)


def _pack(entries: Iterable[Entry]) -> bytes:
    return b"".join(
        _ENTRY.pack(
            *(key.identity, key.port, key.protocol, key.direction | key.port_bits << 1),
            *(v.deny, v.precedence, v.proxy_port, v.provenance),
        )
        for key, v in entries
    )


def _unpack(data: bytes) -> Iterator[Entry]:
    for identity, port, protocol, flags, deny, precedence, proxy_port, provenance in _ENTRY.iter_unpack(data):
        key = PolicyKey(identity, port, protocol, flags & 1, flags >> 1)
        yield key, PolicyValue(deny, precedence, proxy_port, provenance)
