"""Documents that are nearly right: one of ours, with something taken out, doubled, exchanged or made strange."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
STRANGE: tuple[Any, ...] = (
    None, True, 0, -1, 2**31, 2**64, 10**400, 1.5, float("inf"), float("nan"), "", " ", "\x00", "\ud800", "x" * 300, b"\xff",
    "0x10", "08", "65536", "99999999999999999999", "::/0", "0.0.0.0/0", "10.0.0.0/33", "fe80::1%eth0/64", "1.2.3.4",
    "k8s:", ":", "=", "any:a=b", "reserved:host", "cidr:10.0.0.0/8", "*", "**.a", "(" * 200, "(a*)*b", "[", "a{99999}",
    [], {}, [[]], [{}], {"": ""}, {"a": None}, [None], {"matchLabels": {"a": "b"}},
)  # fmt: skip
"""Values that break what trusts them."""
Path_ = tuple[str | int, ...]


@cache
def samples() -> tuple[dict[str, Any], ...]:
    """Return every document of the golden cases, and of the recipes."""
    found: list[dict[str, Any]] = []
    for path in sorted((ROOT / "tests" / "golden" / "policy").glob("*.yaml")):
        found += [one for case in yaml.safe_load(path.read_text()) for one in case["policies"]]
    for path in sorted((ROOT / "tests" / "lab" / "policy" / "recipes").glob("*.yaml")):
        found += [one for one in yaml.safe_load_all(path.read_text()) if one]
    return tuple(found)


def _paths(value: Any, above: Path_ = ()) -> Iterator[Path_]:
    if above:
        yield above
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inner:
        yield from _paths(part, (*above, key))


def _at(document: Any, path: Path_) -> Any:
    for key in path:
        document = document[key]
    return document


def mutated(chance: Random) -> dict[str, Any]:
    """Return a sample with one to four changes."""
    document: dict[str, Any] = copy.deepcopy(chance.choice(samples()))
    for _ in range(chance.randint(1, 4)):
        paths = list(_paths(document))
        if paths:
            _change(document, chance.choice(paths), chance)
    return document


def _change(document: dict[str, Any], path: Path_, chance: Random) -> None:
    holder, key = _at(document, path[:-1]), path[-1]
    match chance.randrange(6):
        case 0:
            del holder[key]
        case 1 | 2:
            holder[key] = copy.deepcopy(chance.choice(STRANGE))
        case 3:
            other = chance.choice(samples())
            holder[key] = copy.deepcopy(_at(other, chance.choice(list(_paths(other)))))
        case 4 if isinstance(holder, list):
            holder.insert(0, copy.deepcopy(holder[int(key)]))
        case 4:
            holder[f"{key}{chance.choice(['', 's', 'Deny'])}"] = holder.pop(key)
        case _:
            text = holder[key]
            holder[key] = _scribbled(text, chance) if isinstance(text, str) and text else [text]


def _scribbled(text: str, chance: Random) -> str:
    place = chance.randrange(len(text))
    return text[:place] + chance.choice("/:*.-0 \x00é(") * chance.randint(0, 3) + text[place + chance.randint(0, 1) :]
