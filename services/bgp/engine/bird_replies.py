"""BIRD's control socket, read: lines to replies, replies to sessions and routes. Pure.

A reply is a run of lines `dddd-text` or ` text` (more of the line before) that ends with `dddd text`. Lines that begin with `+` are
messages of BIRD's own accord; they may stand before or inside any reply and are not part of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from fairlead.address import Address, Prefix
from fairlead.errors import InvalidInput, Unavailable
from services.bgp.engine import Session

MAX_REPLY_BYTES = 64 * 1024 * 1024
_CODED = re.compile(r"^(\d{4})([- ])(.*)$", re.DOTALL)
_PROTOCOL = re.compile(
    r"^(?P<name>\S+)\s+(?P<proto>\S+)\s+(?P<table>\S+)\s+(?P<state>\S+)\s+(?P<since>\d\S*(?: \d\d:\d\d\S*)?)\s*(?P<info>.*)$"
)
_ROUTES = re.compile(r"^Routes:\s+(\d+) imported,(?: \d+ filtered,)? (\d+) exported")


@dataclass(frozen=True)
class Line:
    """One line of a reply: its code (its predecessor's for a continuation) and its text."""

    code: int
    text: str


@dataclass(frozen=True)
class Reply:
    """One complete answer. Codes below 8000 are not errors."""

    lines: tuple[Line, ...]

    @property
    def code(self) -> int:
        """Return the code of the last line, which tells what became of the command."""
        return self.lines[-1].code

    @property
    def text(self) -> str:
        """Return the last line's text."""
        return self.lines[-1].text

    @property
    def ok(self) -> bool:
        """Tell whether the command was carried out, begun or queued."""
        return self.code < 8000

    def of(self, *codes: int) -> list[str]:
        """Return the texts of the lines with these codes."""
        return [line.text for line in self.lines if line.code in codes]


@dataclass
class ReplyReader:
    """Cuts a byte stream into replies, however it arrives."""

    _rest: bytes = b""
    _lines: list[Line] = field(default_factory=list)

    def feed(self, data: bytes) -> list[Reply]:
        """Return the replies that `data` completes. Raises Unavailable on what BIRD never sends."""
        if len(self._rest) + len(data) > MAX_REPLY_BYTES:
            raise Unavailable("bird: a reply is longer than 64 MiB")
        *whole, self._rest = (self._rest + data).split(b"\n")
        replies = (self._line(line.decode("utf-8", "replace").rstrip("\r")) for line in whole)
        return [reply for reply in replies if reply]

    def _line(self, text: str) -> Reply | None:
        if text.startswith("+"):
            return None
        if text.startswith(" ") and self._lines:
            self._lines.append(Line(self._lines[-1].code, text[1:]))
            return None
        found = _CODED.match(text)
        if not found:
            raise Unavailable(f"bird: this is not a reply: {text[:80]!r}")
        self._lines.append(Line(int(found[1]), found[3]))
        if found[2] == "-":
            return None
        reply, self._lines = Reply(tuple(self._lines)), []
        return reply


def parse_sessions(reply: Reply) -> tuple[Session, ...]:
    """Return the BGP sessions in the reply to `show protocols all`."""
    return tuple(_session(head, details) for head, details in _protocols(reply) if head["proto"] == "BGP")


def _protocols(reply: Reply) -> list[tuple[dict[str, str], list[str]]]:
    found: list[tuple[dict[str, str], list[str]]] = []
    for line in reply.lines:
        head = _PROTOCOL.match(line.text) if line.code == 1002 else None
        if head:
            found.append((head.groupdict(), []))
        elif line.code == 1006 and found:
            found[-1][1].append(line.text.strip())
    return found


def _session(head: dict[str, str], details: list[str]) -> Session:
    values = dict(line.split(": ", 1) for line in (_spaced(text) for text in details) if ": " in line)
    counts = [found for text in details if (found := _ROUTES.match(text))]
    return Session(
        name=head["name"],
        address=_address(values.get("Neighbor address", "")),
        peer_asn=_number(values.get("Neighbor AS", "")),
        local_asn=_number(values.get("Local AS", "")),
        state=values.get("BGP state", head["state"]),
        since=head["since"],
        exported=sum(int(found[2]) for found in counts),
        imported=sum(int(found[1]) for found in counts),
        detail=values.get("Last error", ""),
    )


def _spaced(text: str) -> str:
    """Return `name: value` with the blanks after the colon made one."""
    return re.sub(r":\s+", ": ", text, count=1)


def _number(text: str) -> int:
    return int(text) if text.isdigit() else 0


def _address(text: str) -> Address:
    try:
        return Address(text.partition("%")[0])
    except InvalidInput:
        return Address("0.0.0.0")  # noqa: S104 - BIRD named none


def parse_prefixes(reply: Reply) -> set[Prefix]:
    """Return the prefixes in the reply to `show route ...`."""
    firsts = (text.split(maxsplit=1)[0] for text in reply.of(1007) if text[:1].isalnum())
    return set(_only_prefixes(firsts))


def _only_prefixes(words: Iterable[str]) -> Iterable[Prefix]:
    for word in words:
        if "/" in word:
            yield Prefix(word)
