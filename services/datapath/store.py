"""What survives a restart of the datapath service, as files under its state folder.

    endpoints/<number>     what was asked for; on disk before the caller hears of it
    ledger/<number>        what was ordered of the endpoint's policy map
    breakglass/<number>    foreign entries that were found, newest twenty; those not published yet among them
    origins                provenance texts, one per line; the line is the number
    known-since            since when the identity of each address is known
    <bucket>.cache         what the bus said last

Files are replaced whole by renaming. The ledger need not reach the disk itself: it describes maps that a power failure clears too.
"""

from __future__ import annotations

import json
import logging
import os
import struct
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import TypeVar

import msgspec

from fairlead import codec
from fairlead.address import Prefix
from fairlead.errors import FairleadError, Unavailable
from fairlead.schema.datapath import BreakGlass
from services.datapath.model import EndpointRecord, PolicyMap
from services.datapath.operations import PolicyKey, PolicyValue

T = TypeVar("T")
_LOG = logging.getLogger("datapath.store")
_BREAK_GLASS_KEPT = 20
_PACKED_KEPT = 4
_ENTRY = struct.Struct(">IHBB?BHI")
"""The fourth is the direction in bit 0 and the bits of a block of ports above it."""

Entry = tuple[PolicyKey, PolicyValue]


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """Foreign entries that were found, and whether the bus has heard of it."""

    number: int
    event: BreakGlass
    published: bool = False


class _LedgerFile(msgspec.Struct, frozen=True, kw_only=True):
    endpoint: int
    applied: bytes
    others: bytes
    identity: int = 0
    revision: int = 0
    ingress_default_deny: int = 0
    egress_default_deny: int = 0
    trace: str = ""
    is_applied: bool = False


class Ledger(msgspec.Struct, frozen=True):
    """What was ordered of one policy map: the policy that stands, and entries of orders that were given but not confirmed."""

    policy: PolicyMap | None = None
    others: frozenset[Entry] = frozenset()

    def ordered(self) -> set[Entry]:
        """Return every entry that may stand in the kernel because we ordered it."""
        return {*(self.policy.entries.items() if self.policy else ()), *self.others}


class Store:
    """The files of one node's datapath service."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._packed = _Packed()
        self.unreadable: list[str] = []
        """Files that were set aside because they made no sense."""
        for name in ("endpoints", "ledger", "breakglass"):
            (folder / name).mkdir(parents=True, exist_ok=True)

    def cache(self, bucket: str) -> Path:
        """Return where the mirror of a bucket keeps its copy."""
        return self._folder / f"{bucket}.cache"

    def endpoints(self) -> list[EndpointRecord]:
        """Return every endpoint that was asked for, detached ones that are not over too."""
        return self._read_all("endpoints", lambda data: codec.decode(data, EndpointRecord))

    def save_endpoint(self, record: EndpointRecord) -> None:
        """Keep the endpoint; on disk when this returns. Raises Unavailable when the disk refuses."""
        path = self._folder / "endpoints" / f"{record.endpoint:05d}"
        try:
            _replace(path, codec.encode(record), durable=True)
        except OSError as error:
            raise Unavailable(f"the state folder cannot be written ({error}): nothing was changed") from error

    def drop_endpoint(self, endpoint: int) -> None:
        """Forget an endpoint."""
        (self._folder / "endpoints" / f"{endpoint:05d}").unlink(missing_ok=True)

    def ledgers(self) -> dict[int, Ledger]:
        """Return what was ordered of each policy map."""
        shared: dict[bytes, Mapping[PolicyKey, PolicyValue]] = {}
        return dict(self._read_all("ledger", lambda data: _ledger_from(data, shared)))

    def save_ledger(self, endpoint: int, ledger: Ledger) -> None:
        """Keep what was ordered."""
        applied = self._packed.bytes_of(ledger.policy.entries) if ledger.policy else b""
        data = codec.encode(_ledger_file(endpoint, ledger, applied))
        _replace(self._folder / "ledger" / f"{endpoint:05d}", data, durable=False)

    def drop_ledger(self, endpoint: int) -> None:
        """Forget what was ordered."""
        (self._folder / "ledger" / f"{endpoint:05d}").unlink(missing_ok=True)

    def findings(self) -> list[Finding]:
        """Return the foreign entries found so far, oldest first."""
        found = self._read_all("breakglass", lambda data: codec.decode(data, Finding))
        return sorted(found, key=lambda finding: finding.number)

    def save_finding(self, finding: Finding) -> None:
        """Keep a finding; published ones beyond the newest twenty go."""
        folder = self._folder / "breakglass"
        _replace(folder / f"{finding.number:09d}", codec.encode(finding), durable=True)
        for old in [found for found in self.findings() if found.published][:-_BREAK_GLASS_KEPT]:
            (folder / f"{old.number:09d}").unlink(missing_ok=True)

    def ages(self) -> dict[Prefix, tuple[int, datetime]]:
        """Return since when the identity of each address was known."""
        path = self._folder / "known-since"
        try:
            return codec.decode(path.read_bytes(), dict[Prefix, tuple[int, datetime]]) if path.exists() else {}
        except FairleadError as error:
            _LOG.warning("%s cannot be read: %s", path, error)
            return {}

    def save_ages(self, ages: Mapping[Prefix, tuple[int, datetime]]) -> None:
        """Keep the ages."""
        _replace(self._folder / "known-since", codec.encode(dict(ages)), durable=False)

    def take_release(self) -> bool:
        """Tell whether a person asked to let held deletions happen (by making the file), and forget the wish."""
        path = self._folder / "release-held"
        asked = path.exists()
        path.unlink(missing_ok=True)
        return asked

    @property
    def origins_path(self) -> Path:
        """Return where provenance texts are kept."""
        return self._folder / "origins"

    def _read_all(self, kind: str, read: Callable[[bytes], T]) -> list[T]:
        values = []
        for path in sorted((self._folder / kind).iterdir()):
            if path.suffix:
                continue
            try:
                values.append(read(path.read_bytes()))
            except FileNotFoundError:
                continue  # another thread has just dropped it
            except (FairleadError, struct.error) as error:
                _LOG.error("%s/%s cannot be read and is set aside: %s", kind, path.name, error)
                path.replace(path.with_suffix(".unreadable"))
                self.unreadable.append(f"{kind}/{path.name}")
        return values


class Origins:
    """Provenance texts and their numbers on this node; a number, once given, means the same for ever."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._texts: list[tuple[str, ...]] = [()]
        written = path.read_text() if path.exists() else ""
        if written and not written.endswith("\n"):
            written += "\n"  # a line was cut short: the next one must not continue it
            path.write_text(written)
        for line in written.split("\n")[:-1]:
            self._texts.append(_texts(line))
        self._numbers = {texts: number for number, texts in enumerate(self._texts) if texts}

    def number(self, texts: tuple[str, ...]) -> int:
        """Return the number of these texts, on file before it is used; no text has 0."""
        if not texts:
            return 0
        number = self._numbers.get(texts)
        if number is None:
            with self._path.open("a") as file:
                file.write(json.dumps(texts) + "\n")
            number = self._numbers[texts] = len(self._texts)
            self._texts.append(texts)
        return number

    def texts(self, number: int) -> tuple[str, ...]:
        """Return what the number stands for; empty when it stands for nothing."""
        return self._texts[number] if 0 <= number < len(self._texts) else ()


def _texts(line: str) -> tuple[str, ...]:
    """Return the texts of one line; a line cut short by a crash keeps its number and means nothing."""
    try:
        return tuple(str(text) for text in json.loads(line))
    except (ValueError, TypeError):
        return ()


def _replace(path: Path, data: bytes, *, durable: bool) -> None:
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        file.write(data)
        if durable:
            file.flush()
            os.fsync(file.fileno())
    partial.replace(path)
    if durable:
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _pack(entries: Iterable[Entry]) -> bytes:
    return b"".join(
        _ENTRY.pack(
            *(key.identity, key.port, key.protocol, key.direction | key.port_bits << 1),
            *(v.deny, v.precedence, v.proxy_port, v.provenance),
        )
        for key, v in entries
    )


def _unpack(data: bytes) -> Iterable[Entry]:
    for identity, port, protocol, flags, deny, precedence, proxy_port, provenance in _ENTRY.iter_unpack(data):
        key = PolicyKey(identity, port, protocol, flags & 1, flags >> 1)
        yield key, PolicyValue(deny, precedence, proxy_port, provenance)


class _Packed:
    """The bytes of the policies packed last: many endpoints share one, and packing costs more than writing."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Mapping[PolicyKey, PolicyValue], bytes]] = {}

    def bytes_of(self, entries: Mapping[PolicyKey, PolicyValue]) -> bytes:
        """Return the packed entries of a policy; policies never change, so the same object is the same policy."""
        known = self._known.get(id(entries))
        if known is None or known[0] is not entries:
            known = self._known[id(entries)] = (entries, _pack(entries.items()))
            while len(self._known) > _PACKED_KEPT:
                del self._known[next(iter(self._known))]
        return known[1]


def _ledger_file(endpoint: int, ledger: Ledger, applied: bytes) -> _LedgerFile:
    policy, others = ledger.policy, _pack(ledger.others)
    if policy is None:
        return _LedgerFile(endpoint=endpoint, applied=b"", others=others)
    return _LedgerFile(
        endpoint=endpoint,
        applied=applied,
        others=others,
        identity=policy.identity,
        revision=policy.revision,
        ingress_default_deny=policy.ingress_default_deny,
        egress_default_deny=policy.egress_default_deny,
        trace=policy.trace,
        is_applied=True,
    )


def _ledger_from(data: bytes, shared: dict[bytes, Mapping[PolicyKey, PolicyValue]]) -> tuple[int, Ledger]:
    """Return the ledger in a file; endpoints with the same policy share its entries, as they did when it was written."""
    file = codec.decode(data, _LedgerFile)
    if not file.is_applied:
        return file.endpoint, Ledger(None, frozenset(_unpack(file.others)))
    if file.applied not in shared:
        shared[file.applied] = dict(_unpack(file.applied))
    policy = PolicyMap(
        identity=file.identity,
        revision=file.revision,
        entries=shared[file.applied],
        ingress_default_deny=file.ingress_default_deny,
        egress_default_deny=file.egress_default_deny,
        trace=file.trace,
    )
    return file.endpoint, Ledger(policy, frozenset(_unpack(file.others)))
