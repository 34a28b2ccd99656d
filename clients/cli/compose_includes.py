"""Files that compose files `include`: compose resolves what is in them and drops what they say for Fairlead, so they are read here too."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clients.cli import compose_merge
from clients.cli.compose_variables import filled, read_env
from fairlead.errors import InvalidInput

_DEEPEST = 20
_ELSEWHERE = ("://", "git@", "github.com/")

Content = Callable[[Path], dict[str, Any]]
"""Reads one compose file. Raises InvalidInput."""


@dataclass(frozen=True)
class Included:
    """One file, and the variables that count in it."""

    path: Path
    content: Mapping[str, Any]
    variables: Mapping[str, str]


def included(
    path: Path, content: Mapping[str, Any], variables: Mapping[str, str], read: Content, depth: int = _DEEPEST
) -> Iterator[Included]:
    """Yield the files that one includes, however deep, before those that include them. Raises InvalidInput naming the file."""
    where = f"{path.name}: `include`"
    given = content.get("include") or []
    if not isinstance(given, list):
        raise InvalidInput(f"{where}: a list is needed here, not {type(given).__name__}")
    if given and not depth:
        raise InvalidInput(f"{where}: files include one another more than {_DEEPEST} times: one includes itself")
    for entry in filled(given, variables, where):
        element = {"path": entry} if isinstance(entry, str) else compose_merge.mapping(entry, where)
        paths = [path.parent / text for text in _texts(element.get("path"), f"{where}: `path`")]
        if not paths:
            raise InvalidInput(f"{where}: `path`: say which file is included")
        own = {**_defaults(element, path.parent, paths[0].parent, where), **variables}
        for one in paths:
            found = read(one)
            yield from included(one, found, own, read, depth - 1)
            yield Included(one, found, own)


def _texts(value: Any, where: str) -> list[str]:
    texts = [value] if isinstance(value, str) else value or []
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise InvalidInput(f"{where}: a file is needed here, or a list of files")
    if far := next((text for text in texts if any(sign in text for sign in _ELSEWHERE)), ""):
        raise InvalidInput(f"{where}: {far} is not on this machine: fetch it, and include the file")
    return texts


def _defaults(element: Mapping[str, Any], here: Path, beside: Path, where: str) -> dict[str, str]:
    """Return what `env_file`, or `.env` of the included project, sets where the environment does not."""
    folder = here / str(element["project_directory"]) if element.get("project_directory") else beside
    named = [here / text for text in _texts(element.get("env_file"), f"{where}: `env_file`")]
    found: dict[str, str] = {}
    for file in named or [folder / ".env"]:
        try:
            found |= read_env(file.read_text())
        except (OSError, UnicodeDecodeError) as error:
            if named:
                raise InvalidInput(
                    f"{where}: `env_file`: {file} cannot be read ({error}): name one that can"
                ) from error
    return found
