"""Labels in one form, so that every service counts the same label set as the same identity.

A label is `source:key=value`; the part before the first colon is the source if it comes before the `=`. A label without source is
a container's. An empty value is written without `=`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from fairlead.errors import InvalidInput

DEFAULT_SOURCE = "container"
RESERVED_SOURCE = "reserved"
_SEPARATORS = frozenset(";,")


class ParsedLabel(NamedTuple):
    """One label, taken apart."""

    source: str
    key: str
    value: str

    def __str__(self) -> str:
        """Return the canonical text."""
        return f"{self.source}:{self.key}={self.value}" if self.value else f"{self.source}:{self.key}"


def parse(text: str) -> ParsedLabel:
    """Return the parts of one label. Raises InvalidInput when the key is missing or a character cannot stand in a label."""
    if any(character in _SEPARATORS or character < " " for character in text):
        raise InvalidInput(f"`labels`: {text!r} holds a comma, semicolon or control character: leave it out")
    name, _, value = text.partition("=")
    source, colon, key = name.partition(":")
    if not colon:
        source, key = DEFAULT_SOURCE, name
    if not key.strip() or not source.strip():
        raise InvalidInput(f"`labels`: {text!r} has no key: write it like app=web or container:app=web")
    return ParsedLabel(source.strip(), key.strip(), value.strip())


def normalise(labels: Iterable[str]) -> tuple[str, ...]:
    """Return the label set sorted, each with its source, without repetitions. Raises InvalidInput when a key has two values."""
    by_name: dict[tuple[str, str], ParsedLabel] = {}
    for label in map(parse, labels):
        other = by_name.setdefault((label.source, label.key), label)
        if other != label:
            raise InvalidInput(f"`labels`: {label.source}:{label.key} stands twice, as {other} and {label}: keep one")
    return tuple(sorted(map(str, by_name.values())))


def refuse_reserved(labels: Iterable[str]) -> None:
    """Raise InvalidInput when a workload claims one of the labels that stand for hosts, the world and the like."""
    for text in labels:
        if parse(text).source == RESERVED_SOURCE:
            raise InvalidInput(f"`labels`: {text!r} is reserved: a workload may not claim it, use another source")
