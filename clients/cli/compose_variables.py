"""Variables in compose files, as compose knows them: `$NAME`, `${NAME}`, `${NAME:-default}`, `${NAME:?why}`, `${NAME:+instead}`; `$$` is `$`. Pure.

A variable that is not set is refused here, where compose warns and goes on with nothing: nothing is too little to make a rule of.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from fairlead.errors import InvalidInput

_FOUND = re.compile(r"\$(?:(?P<escaped>\$)|(?P<bare>[A-Za-z_]\w*)|\{(?P<braced>[^{}]*)\}|(?P<odd>))")
_BRACED = re.compile(r"(?P<name>[A-Za-z_]\w*)(?:(?P<how>:?[-?+])(?P<rest>.*))?", re.DOTALL)
_LINE = re.compile(r"(?:export\s+)?(?P<name>[A-Za-z_]\w*)\s*=\s*(?P<value>.*)")


def filled(value: Any, variables: Mapping[str, str], where: str) -> Any:
    """Return the value with variables in its texts replaced, however deep. Raises InvalidInput that begins with `where` and the path."""
    return _filled(value, variables, where, "")


def _filled(value: Any, variables: Mapping[str, str], where: str, path: str) -> Any:
    if isinstance(value, dict):
        inner = f"{path}." if path else ""
        return {key: _filled(one, variables, where, f"{inner}{key}") for key, one in value.items()}
    if isinstance(value, list):
        return [_filled(one, variables, where, f"{path}[{number}]") for number, one in enumerate(value)]
    return replaced(value, variables, f"{where}: `{path}`") if isinstance(value, str) else value


def replaced(text: str, variables: Mapping[str, str], where: str) -> str:
    """Return one text with its variables replaced. Raises InvalidInput that begins with `where`."""
    return _FOUND.sub(lambda match: _value(match, variables, where), text)


def _value(match: re.Match[str], variables: Mapping[str, str], where: str) -> str:
    if match["escaped"]:
        return "$"
    parts = _BRACED.fullmatch(match["bare"] or match["braced"] or "")
    if parts is None:
        raise InvalidInput(f"{where}: {match[0]!r} is no variable: write ${{NAME}}, or $$ for a dollar")
    name, how, rest = parts["name"], parts["how"] or "", parts["rest"] or ""
    value = variables.get(name)
    there = value is not None and (value != "" or not how.startswith(":"))
    if how.endswith("+"):
        return rest if there else ""
    if there:
        return value or ""
    if how.endswith("-"):
        return rest
    raise InvalidInput(
        f"{where}: {name} is not set{': ' + rest if rest else ''}: set it, or write ${{{name}:-default}}"
    )


def read_env(text: str) -> dict[str, str]:
    """Return the variables of an `.env` file; lines that are none are skipped, as by compose."""
    found = {}
    for line in text.splitlines():
        match = _LINE.fullmatch(line.strip())
        if match is None:
            continue
        value = match["value"].strip()
        quoted = re.fullmatch(r"(['\"])(.*)\1", value)
        found[match["name"]] = quoted[2] if quoted else re.sub(r"\s+#.*$", "", value)
    return found


def unescaped(value: Any) -> Any:
    """Return what compose has printed with its dollars single again, however deep."""
    if isinstance(value, dict):
        return {key: unescaped(one) for key, one in value.items()}
    if isinstance(value, list):
        return [unescaped(one) for one in value]
    return value.replace("$$", "$") if isinstance(value, str) else value
