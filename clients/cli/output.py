"""What every command shares on its way out: the answer, exit statuses, tables and how values are written."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum

from fairlead import codec


class Exit(IntEnum):
    """What the exit status says."""

    OK = 0
    NO = 1  # the answer is no: not found, refused, degraded
    USAGE = 2  # the command line or the input is wrong
    LATE = 3  # not in time: stragglers, or a service that does not answer
    NO_BUS = 4  # the bus cannot be reached


class Stop(Exception):
    """The command ends here: `message` says what is wrong and what to do."""

    def __init__(self, status: Exit, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


@dataclass(frozen=True)
class Answer:
    """What a command found: `value` for machines, `text` for people, `warnings` for stderr."""

    value: object
    text: str
    status: Exit = Exit.OK
    warnings: tuple[str, ...] = ()


def as_json(value: object, *, line: bool = False) -> str:
    """Return `value` as JSON, on one line or indented."""
    plain = codec.to_builtins(value)
    return json.dumps(plain, separators=(",", ":")) if line else json.dumps(plain, indent=2, ensure_ascii=False)


def table(titles: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return aligned columns under their titles; without rows just the titles."""
    lines = [list(titles), *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(titles))]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def _cell(value: object) -> str:
    """Return the text of one cell; control characters, which names from elsewhere may hold, never reach the terminal."""
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return plain(text) or "-"


def plain(text: str) -> str:
    """Return `text` with control characters written as escapes."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def labels(values: Sequence[str]) -> str:
    """Return labels for people: without the usual sources, separated by commas."""
    return ",".join(value.removeprefix("container:").removeprefix("k8s:") for value in values)


def span(seconds: float) -> str:
    """Return a duration in the unit that fits: 850ms, 12s, 5m, 3h, 2d."""
    if seconds < 1:
        return f"{max(seconds, 0) * 1000:.0f}ms"
    for limit, unit, size in ((120, "s", 1), (7200, "m", 60), (172800, "h", 3600)):
        if seconds < limit:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds / 86400:.0f}d"


def age(since: datetime | None, now: datetime) -> str:
    """Return how long ago `since` was; `-` when that is not known."""
    return span((now - since).total_seconds()) if since else "-"


def mebibytes(size_bytes: int) -> str:
    """Return a memory size in MB, as the targets are written."""
    return f"{size_bytes / 1e6:.0f} MB"
