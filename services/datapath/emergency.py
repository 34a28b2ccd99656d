"""`fairlead break-glass`: let an endpoint, or all of a node, pass what policies deny, for a while. Needs no service and no bus.

Writes who, until when and why into `<state_dir>/datapath/break-glass.log` and then one row of a pinned map; the programs themselves
stop to heed the row when its time has come. Exit status: 0 done; 1 refused; 2 wrong usage.
"""

from __future__ import annotations

import argparse
import json
import os
import pwd
import re
import sys
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path

from fairlead import codec
from fairlead.clock import SYSTEM, Clock
from fairlead.config import CommonSettings, load
from fairlead.errors import FairleadError, InvalidInput, NotFound
from services.datapath import glassbook
from services.datapath.failsafe import HOST_ENDPOINT
from services.datapath.glassbook import WHOLE_NODE, Deed, Entry, Open
from services.datapath.kernel import glass
from services.datapath.kernel.glass import PinnedGlass
from services.datapath.model import EndpointRecord

LONGEST_S = 86_400
_UNITS_S = {"s": 1, "m": 60, "h": 3600}
_HOST = "host"
_REASON_CHARACTERS = 253


class EmergencySettings(CommonSettings, frozen=True, kw_only=True):
    """Where things are on this node; by the options of its datapath service."""

    node: str = ""
    pin_directory: str = "/sys/fs/bpf/tc/globals"


def seconds(text: str) -> int:
    """Return a time like 90s, 15m or 1h in seconds."""
    match = re.fullmatch(r"(\d{1,6})([smh])", text)
    value = int(match[1]) * _UNITS_S[match[2]] if match else 0
    if not 0 < value <= LONGEST_S:
        raise argparse.ArgumentTypeError(f"{text!r}: give a time like 90s, 15m or 1h, at most 24h")
    return value


def reason(text: str) -> str:
    """Return why, checked: the record is one line, and people read it."""
    if not text.strip() or not text.isprintable() or len(text) > _REASON_CHARACTERS:
        raise argparse.ArgumentTypeError(f"{text!r}: say why in one line of at most {_REASON_CHARACTERS} characters")
    return text.strip()


def parser(prog: str = "fairlead break-glass") -> argparse.ArgumentParser:
    """Return the command line; `fairlead break-glass` has the same."""
    made = argparse.ArgumentParser(prog=prog, description="Let pass what policies deny, for a while.")
    commands = made.add_subparsers(dest="what", required=True, metavar="WHAT")
    for what, summary in (("endpoint", "one endpoint"), ("node", "the whole node"), ("list", "show what is open")):
        command = commands.add_parser(what, help=summary)
        if what == "endpoint":
            command.add_argument("endpoint", metavar="NAME|ADDRESS|NUMBER", help="`host`: the node itself")
        if what != "list":
            command.add_argument("--for", dest="lasts_s", type=seconds, metavar="TIME", help="90s, 15m, 1h")
            command.add_argument("--reason", type=reason, metavar="TEXT", help="why, for the record")
            command.add_argument("--end", action="store_true", help="end it now")
        command.add_argument("--state-dir", metavar="PATH", help="the node's state (FAIRLEAD_STATE_DIR)")
        command.add_argument("--pins", metavar="PATH", help="the node's pinned maps (FAIRLEAD_PIN_DIRECTORY)")
        command.add_argument("-o", "--output", choices=("table", "json"), default="table")
    return made


class Emergency:
    """One node's glass and the book about it."""

    def __init__(self, table: PinnedGlass, folder: Path, by: str, clock: Clock = SYSTEM) -> None:
        self._table, self._folder, self._by, self._clock = table, folder, by, clock
        self._book = folder / glassbook.FILE
        if not folder.is_dir():
            raise InvalidInput(
                f"{folder} is not there: give the node's state folder (--state-dir), so that its service can tell"
            )

    def find(self, asked: str) -> tuple[int, str]:
        """Return number and name of an endpoint by name, address or number. Raises NotFound."""
        records = known_endpoints(self._folder)
        number = next((one.endpoint for one in records if asked == one.name or asked in one.addresses), None)
        if number is None:
            number = HOST_ENDPOINT if asked == _HOST else int(asked) if asked.isdecimal() and len(asked) < 6 else 0
        if not number or number > HOST_ENDPOINT or not self._table.is_present(number):
            hint = "no host policy filters it" if asked == _HOST else f"known are {_names(records)}; or give its number"
            raise NotFound(f"no endpoint {asked!r} stands in the kernel: {hint}")
        names = {one.endpoint: one.name for one in records} | {HOST_ENDPOINT: _HOST}
        return number, names.get(number, "")

    def open(self, endpoint: int, name: str, lasts_s: int, why: str) -> Entry:
        """Break the glass until then, or change until when; on disk first. Raises KernelError, Unavailable."""
        now = self._clock.now()
        entry = Entry(
            deed=Deed.OPENED,
            time=now,
            endpoint=endpoint,
            name=name,
            reason=why,
            by=self._by,
            until=now + timedelta(seconds=lasts_s),
            until_ns=self._now_ns() + lasts_s * 1_000_000_000,
            boot=glassbook.boot(),
        )
        with glassbook.writing(self._book) as fd:
            glassbook.append(fd, self._book, entry)
            try:
                self._forget_ended()
                self._table.put({endpoint: entry.until_ns})
            except FairleadError as error:
                failure = Entry(deed=Deed.FAILED, time=now, endpoint=endpoint, reason=error.message, by=self._by)
                glassbook.append(fd, self._book, failure)
                raise
        return entry

    def end(self, endpoint: int, name: str, why: str) -> bool:
        """Make the glass whole again; tell whether it was broken."""
        with glassbook.writing(self._book) as fd:
            if endpoint not in {one.endpoint for one in self.now()}:
                return False
            facts = {"endpoint": endpoint, "name": name, "reason": why, "by": self._by}
            glassbook.append(fd, self._book, Entry(deed=Deed.ENDED, time=self._clock.now(), **facts))  # type: ignore[arg-type] # merged
            return self._table.remove(endpoint)

    def now(self) -> tuple[Open, ...]:
        """Return what is open at this moment."""
        entries = [entry for entry in glassbook.read(self._book) if entry is not None]
        return glassbook.broken_now(self._table.rows(), entries, self._now_ns(), glassbook.boot())

    def left_s(self, one: Open) -> float:
        """Return how long it stays open."""
        return (one.until_ns - self._now_ns()) / 1e9

    def warnings(self, endpoint: int) -> list[str]:
        """Return what a person who wants this endpoint open, or closed, must know besides."""
        told = []
        if endpoint and self._table.is_held(endpoint):
            told.append("the endpoint is held (its identity or policy is not known): it passes nothing all the same")
        if endpoint and any(one.endpoint == WHOLE_NODE for one in self.now()):
            told.append("the whole node is open too: `fairlead break-glass node --end` ends that")
        return told

    def _forget_ended(self) -> None:
        for number, until_ns in self._table.rows().items():
            if until_ns <= self._now_ns():
                self._table.remove(number)

    def _now_ns(self) -> int:
        return int(self._clock.monotonic_s() * 1e9)


def known_endpoints(folder: Path) -> list[EndpointRecord]:
    """Return the endpoints that the service has on disk; what cannot be read is left out, the service tells of it."""
    found = []
    for path in sorted((folder / "endpoints").glob("[0-9]*")):
        try:
            record = codec.decode(path.read_bytes(), EndpointRecord)
        except (OSError, FairleadError):
            continue
        if not path.suffix and not record.detached:
            found.append(record)
    return found


def _names(records: list[EndpointRecord]) -> str:
    return ", ".join(record.name for record in records[:10]) + (" and more" if len(records) > 10 else "") or "none"


def person(environ: Mapping[str, str]) -> str:
    """Return who asks: whoever became root to do it, if sudo says so."""
    uid = environ.get("SUDO_UID", str(os.getuid()))
    try:
        name = environ.get("SUDO_USER") or pwd.getpwuid(int(uid)).pw_name
    except (KeyError, ValueError):
        name = "somebody"
    return f"{name} (uid {uid})"


def _run(options: argparse.Namespace, emergency: Emergency) -> int:
    if options.what == "list":
        return _say_open(options, emergency)
    endpoint, name = emergency.find(options.endpoint) if options.what == "endpoint" else (WHOLE_NODE, "")
    subject = glassbook.subject(endpoint, name)
    if options.end:
        was = emergency.end(endpoint, name, options.reason or "")
        text = f"{subject}: {'policy counts again' if was else 'nothing was open'}"
        value: dict[str, object] = {"endpoint": endpoint, "name": name, "ended": was}
    else:
        if options.lasts_s is None or options.reason is None:
            raise InvalidInput("--for and --reason are needed: for how long (90s, 15m, 1h), and why (or --end)")
        entry = emergency.open(endpoint, name, options.lasts_s, options.reason)
        text = f"{subject}: what policy denies passes until {_moment(entry.until)}, and is reported"
        text += "; other endpoints' policies still count" if endpoint else ""
        value = codec.to_builtins(entry)
    for warning in emergency.warnings(endpoint):
        print(f"fairlead: {warning}", file=sys.stderr)
    print(json.dumps(value, indent=2) if options.output == "json" else text)
    return 0


def _say_open(options: argparse.Namespace, emergency: Emergency) -> int:
    found = emergency.now()
    if options.output == "json":
        print(json.dumps([{"left_s": emergency.left_s(one), **codec.to_builtins(one)} for one in found], indent=2))
        return 0
    for one in found:
        print(f"{one.words} ({emergency.left_s(one):.0f} s left)")
    if not found:
        print("nothing is open")
    return 0


def _moment(when: datetime | None) -> str:
    return f"{when:%Y-%m-%d %H:%M:%S} UTC" if when else "-"


def main(arguments: list[str] | None = None) -> int:
    """Run one command, and return its exit status."""
    options = parser().parse_args(arguments)
    try:
        settings = load(EmergencySettings)
        pins = Path(options.pins or settings.pin_directory)
        folder = Path(options.state_dir or settings.state_dir) / "datapath"
        with glass.pinned(pins) as table:
            return _run(options, Emergency(table, folder, person(os.environ)))
    except FairleadError as error:
        print(f"fairlead: {error.message}", file=sys.stderr)
        return 2 if isinstance(error, InvalidInput) else 1


if __name__ == "__main__":
    sys.exit(main())
