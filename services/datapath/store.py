"""What survives a restart of the datapath service, as files under its state folder.

    endpoints/<number>     what was asked for; on disk before the caller hears of it
    ledgers                what was ordered of each policy map
    breakglass/<number>    foreign entries that were found, newest twenty; those not published yet among them
    origins                provenance texts, one per line; the line is the number
    known-since            since when the identity of each address is known
    break-glass.log        who broke the glass, when, until when and why: written by a person's command
    break-glass.told       how many lines of it the bus has
    <bucket>.cache         what the bus said last

Files are replaced whole by renaming; `ledgers` and `origins` grow at their ends.
"""

from __future__ import annotations

import json
import logging
import os
import re
import struct
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import TypeVar

import msgspec

from fairlead import codec
from fairlead.errors import FairleadError, Unavailable
from fairlead.schema.datapath import BreakGlass
from services.datapath.directory import Ages
from services.datapath.ledger import Journal, Ledger
from services.datapath.model import EndpointRecord

T = TypeVar("T")
_LOG = logging.getLogger("datapath.store")
_BREAK_GLASS_KEPT = 20


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """Foreign entries that were found, and whether the bus has heard of it."""

    number: int
    event: BreakGlass
    published: bool = False


class _AgesRow(msgspec.Struct, frozen=True):
    identity: int
    since: datetime
    prefixes: str
    """Separated by blanks."""


class Store:
    """The files of one node's datapath service."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.unreadable: list[str] = []
        """Files that were set aside because they made no sense."""
        for name in ("endpoints", "breakglass"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        self._journal = Journal(folder / "ledgers")

    def cache(self, bucket: str) -> Path:
        """Return where the mirror of a bucket keeps its copy."""
        return self.folder / f"{bucket}.cache"

    def endpoints(self) -> list[EndpointRecord]:
        """Return every endpoint that was asked for, detached ones that are not over too."""
        return self._read_all("endpoints", lambda data: codec.decode(data, EndpointRecord))

    def save_endpoint(self, record: EndpointRecord) -> None:
        """Keep the endpoint; on disk when this returns. Raises Unavailable when the disk refuses."""
        path = self.folder / "endpoints" / f"{record.endpoint:05d}"
        try:
            _replace(path, codec.encode(record), durable=True)
        except OSError as error:
            raise Unavailable(f"the state folder cannot be written ({error}): nothing was changed") from error

    def drop_endpoint(self, endpoint: int) -> None:
        """Forget an endpoint."""
        (self.folder / "endpoints" / f"{endpoint:05d}").unlink(missing_ok=True)

    def ledgers(self) -> dict[int, Ledger]:
        """Return what was ordered of each policy map."""
        return self._journal.ledgers()

    def save_ledger(self, endpoint: int, ledger: Ledger) -> None:
        """Keep what was ordered."""
        self._journal.save(endpoint, ledger)

    def drop_ledger(self, endpoint: int) -> None:
        """Forget what was ordered."""
        self._journal.drop(endpoint)

    def findings(self) -> list[Finding]:
        """Return the foreign entries found so far, oldest first."""
        found = self._read_all("breakglass", lambda data: codec.decode(data, Finding))
        return sorted(found, key=lambda finding: finding.number)

    def save_finding(self, finding: Finding) -> None:
        """Keep a finding; published ones beyond the newest twenty go."""
        folder = self.folder / "breakglass"
        _replace(folder / f"{finding.number:09d}", codec.encode(finding), durable=True)
        for old in [found for found in self.findings() if found.published][:-_BREAK_GLASS_KEPT]:
            (folder / f"{old.number:09d}").unlink(missing_ok=True)

    def ages(self) -> Ages:
        """Return since when the identities of addresses were known."""
        path = self.folder / "known-since"
        try:
            rows = (
                codec.decode(path.read_bytes(), list[_AgesRow], max_bytes=codec.MAX_FILE_BYTES) if path.exists() else []
            )
        except FairleadError as error:
            _LOG.warning("%s cannot be read: %s", path, error)
            return {}
        return {(row.identity, row.since): _words(row.prefixes) for row in rows}

    def save_ages(self, ages: Ages) -> None:
        """Keep the ages."""
        rows = [_AgesRow(identity, since, " ".join(prefixes)) for (identity, since), prefixes in ages.items()]
        _replace(self.folder / "known-since", codec.encode(rows), durable=False)

    def ask_release(self) -> None:
        """Ask, as a person does by making the file, to let held deletions happen."""
        (self.folder / "release-held").touch()

    def take_release(self) -> bool:
        """Tell whether a person asked to let held deletions happen (by making the file), and forget the wish."""
        path = self.folder / "release-held"
        asked = path.exists()
        path.unlink(missing_ok=True)
        return asked

    @property
    def origins_path(self) -> Path:
        """Return where provenance texts are kept."""
        return self.folder / "origins"

    def _read_all(self, kind: str, read: Callable[[bytes], T]) -> list[T]:
        values = []
        for path in sorted((self.folder / kind).iterdir()):
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


def _words(text: str) -> Iterator[str]:
    """Yield the words of the text one by one: there are hundreds of thousands."""
    return (match.group() for match in re.finditer(r"\S+", text))


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
