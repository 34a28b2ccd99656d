"""Compose files from disk to one stack: which files, which project, compose's own view of services and networks where it is installed."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from clients.cli import compose_merge
from clients.cli.compose_includes import included
from clients.cli.compose_variables import filled, read_env, unescaped
from fairlead import manifest
from fairlead.errors import InvalidInput

EXTENSION = "x-fairlead"
_NAMES = ("compose.yaml", "compose.yml", "docker-compose.yaml", "docker-compose.yml")
_PROJECT = re.compile(r"[a-z0-9][a-z0-9_-]*")
_COMMANDS = (("docker", "compose"), ("docker-compose",))
_TOOL_S = 60.0
_DEEPEST = 20


@dataclass(frozen=True)
class Extension:
    """What one file says for Fairlead: of the whole stack, and of single services; variables are filled in."""

    file: str
    stack: Any
    services: Mapping[str, Any]


@dataclass(frozen=True)
class Files:
    """Everything that was read. `resolved` has services and networks as compose sees them."""

    project: str
    resolved: Mapping[str, Any]
    extensions: tuple[Extension, ...]
    warnings: tuple[str, ...] = ()


class _Lenient(manifest.Loader):
    """The strict loader, but what compose takes is taken: texts like 22:22, which YAML 1.1 calls a number, and compose's own tags."""


def _plain(loader: _Lenient, node: yaml.ScalarNode) -> Any:
    if ":" in node.value:
        return node.value
    whole = node.tag.endswith(":int")
    return loader.construct_yaml_int(node) if whole else loader.construct_yaml_float(node)


def _tagged(loader: _Lenient, _tag: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return loader.construct_scalar(node) if isinstance(node, yaml.ScalarNode) else None


_Lenient.add_constructor("tag:yaml.org,2002:int", _plain)
_Lenient.add_constructor("tag:yaml.org,2002:float", _plain)
_Lenient.add_multi_constructor("!", _tagged)


def read(given: Sequence[str], project: str, command: str, environ: Mapping[str, str]) -> Files:
    """Return what the files say together. Raises InvalidInput naming file, path and mend."""
    paths = _paths(given, environ)
    variables = {**_env_file(paths[0].parent), **environ}
    contents = {str(path): _content(path) for path in paths}
    name = _project(project, variables, contents, paths[0])
    extensions = tuple(_extension(file, content, variables) for file, content in contents.items())
    tool = _tool(command)
    if not tool:
        resolved = {"name": name, **compose_merge.resolved(contents, variables)}
        return Files(name, resolved, extensions)
    others = [one for path in paths for one in included(path, contents[str(path)], variables, _content)]
    extensions = (*(_extension(str(one.path), one.content, one.variables) for one in others), *extensions)
    everything = contents | {str(one.path): one.content for one in others}
    resolved, warnings = _asked(tool, name, paths, everything.values(), environ)
    _refuse_inherited(everything, extensions)
    return Files(name, resolved, extensions, tuple(warnings))


def _paths(given: Sequence[str], environ: Mapping[str, str]) -> list[Path]:
    separator = environ.get("COMPOSE_PATH_SEPARATOR", os.pathsep)
    named = list(given) or [part for part in environ.get("COMPOSE_FILE", "").split(separator) if part]
    if "-" in named:
        raise InvalidInput("`-f`: standard input can be read once only, and compose reads it too: name a file")
    return [Path(name).absolute() for name in named] or _found(Path.cwd())


def _found(start: Path) -> list[Path]:
    """Return the file that compose would find, and its override."""
    for folder in (start, *start.parents):
        for name in _NAMES:
            if (folder / name).is_file():
                stem, _, suffix = name.rpartition(".")
                override = folder / f"{stem}.override.{suffix}"
                return [folder / name, *([override] if override.is_file() else [])]
    raise InvalidInput(f"there is no {_NAMES[0]} here or above: name the compose file with -f")


def _content(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path}: cannot be read ({error}): give a compose file") from error
    documents = [one for one in manifest.load(text, path.name, _Lenient) if one is not None]
    if len(documents) != 1 or not isinstance(documents[0], dict):
        raise InvalidInput(f"{path.name}: a compose file is one mapping with `services:`")
    return documents[0]


def _env_file(folder: Path) -> dict[str, str]:
    try:
        return read_env((folder / ".env").read_text())
    except (OSError, UnicodeDecodeError):
        return {}


def _project(given: str, variables: Mapping[str, str], contents: Mapping[str, Any], first: Path) -> str:
    """Return the project's name, found as compose finds it."""
    written = [content["name"] for content in contents.values() if isinstance(content.get("name"), str)]
    name = given or variables.get("COMPOSE_PROJECT_NAME", "")
    if not name and written:
        name = str(filled(written[-1], variables, "`name`"))
    return checked_project(name) if name else _from_folder(first)


def _from_folder(first: Path) -> str:
    name = re.sub(r"[^a-z0-9_-]", "", first.parent.name.lower()).lstrip("_-")
    if not name:
        raise InvalidInput(f"`-p`: the folder {first.parent} gives no project a name: say it with -p")
    return name


def checked_project(name: str) -> str:
    """Return a project's name. Raises InvalidInput for what compose would not take."""
    if not _PROJECT.fullmatch(name):
        raise InvalidInput(f"`-p`: {name!r} is no project: a-z, 0-9, - and _, beginning with a letter or a digit")
    return name


def _extension(file: str, content: Mapping[str, Any], variables: Mapping[str, str]) -> Extension:
    name = Path(file).name
    services = compose_merge.mapping(content.get("services"), f"{name}: `services`")
    own = {
        service: filled(one[EXTENSION], variables, f"{name}: services.{service}.{EXTENSION}")
        for service, one in services.items()
        if isinstance(one, dict) and EXTENSION in one
    }
    return Extension(name, filled(content.get(EXTENSION), variables, f"{name}: {EXTENSION}"), own)


def _tool(command: str) -> tuple[str, ...]:
    """Return the command that resolves compose files here; empty: none."""
    if command == "none":
        return ()
    if command:
        return tuple(shlex.split(command))
    return next((words for words in _COMMANDS if _works(words)), ())


def _works(words: tuple[str, ...]) -> bool:
    if shutil.which(words[0]) is None:
        return False
    try:
        return subprocess.run([*words, "version"], capture_output=True, check=False, timeout=_TOOL_S).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _asked(
    tool: tuple[str, ...],
    project: str,
    paths: Sequence[Path],
    contents: Iterable[Mapping[str, Any]],
    environ: Mapping[str, str],
) -> tuple[dict[str, Any], list[str]]:
    """Return services and networks as compose resolves them, those of every profile, and what it warned of."""
    files = [word for path in paths for word in ("-f", str(path))]
    profiles = [word for one in compose_merge.profiles(contents) for word in ("--profile", one)]
    command = [*tool, "-p", project, *files, *profiles, "config"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_TOOL_S, env=dict(environ))
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InvalidInput(f"`--compose`: {shlex.join(tool)} does not answer ({error}): `none` does without") from error
    said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    if done.returncode:
        raise InvalidInput(f"{shlex.join(tool)} config: {' '.join(said) or 'failed'}")
    documents = [one for one in manifest.load(done.stdout, f"{shlex.join(tool)} config", _Lenient) if one]
    return unescaped(documents[0] if documents else {}), said


def _refuse_inherited(contents: Mapping[str, Mapping[str, Any]], extensions: Iterable[Extension]) -> None:
    """Raise InvalidInput for rules that a service would have by `extends`: compose drops them, and they must not be missed silently."""
    own = {service for extension in extensions for service in extension.services}
    for file, content in contents.items():
        for name in compose_merge.mapping(content.get("services"), f"{Path(file).name}: `services`"):
            if name not in own and (origin := _inherited(Path(file), content, name, _DEEPEST)):
                raise InvalidInput(
                    f"{Path(file).name}: services.{name}: `extends`: the {EXTENSION} of {origin} is not inherited: write rules at {name} itself"
                )


def _inherited(path: Path, content: Mapping[str, Any], name: str, depth: int) -> str:
    """Return from which service rules would be inherited; empty: from none."""
    service = compose_merge.mapping(content.get("services"), f"{path.name}: `services`").get(name)
    base = service.get("extends") if isinstance(service, dict) else None
    if not base or not depth:
        return ""
    given = {"service": base} if isinstance(base, str) else compose_merge.mapping(base, f"{path.name}: `extends`")
    if "file" in given:
        path = path.parent / str(given["file"])
        content = _content(path)
    lender = str(given.get("service"))
    found = compose_merge.mapping(content.get("services"), f"{path.name}: `services`").get(lender)
    if isinstance(found, dict) and EXTENSION in found:
        return f"{lender} in {path.name}"
    return _inherited(path, content, lender, depth - 1)
