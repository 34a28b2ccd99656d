"""What is understood of compose files where compose is not installed: labels, image, networks and profiles of services, over several files. Pure.

Later files go before earlier ones: labels and networks add up, everything else is replaced. What would need compose itself (`extends`, `include`,
`label_file`) is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from clients.cli.compose_variables import filled
from fairlead.errors import InvalidInput

_SINGLE = ("image", "network_mode", "profiles")
_NEEDS_COMPOSE = ("extends", "label_file")
_NETWORK = ("name", "external", "driver", "driver_opts")


def mapping(value: Any, where: str) -> dict[str, Any]:
    """Return a mapping, empty for nothing. Raises InvalidInput that begins with `where`."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidInput(f"{where}: a mapping is needed here, not {type(value).__name__}")
    return value


def pairs(value: Any, where: str) -> dict[str, Any]:
    """Return what may be written as a mapping or as a list of `key=value`. Raises InvalidInput that begins with `where`."""
    if not isinstance(value, list):
        return mapping(value, where)
    texts = [str(one).partition("=") for one in value]
    return {key: text for key, _, text in texts}


def profiles(contents: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return every profile that some service names."""
    services = [one for content in contents for one in mapping(content.get("services"), "`services`").values()]
    named = [one.get("profiles") for one in services if isinstance(one, dict)]
    return sorted({str(name) for names in named if isinstance(names, list) for name in names})


def resolved(contents: Mapping[str, Mapping[str, Any]], variables: Mapping[str, str]) -> dict[str, Any]:
    """Return services and networks of all files together. Raises InvalidInput naming file, path and mend."""
    services: dict[str, dict[str, Any]] = {}
    networks: dict[str, dict[str, Any]] = {}
    for file, content in contents.items():
        name = Path(file).name
        if "include" in content:
            raise InvalidInput(f"{name}: `include`: needs compose itself: install it, or name all files with -f")
        for service, plain in mapping(content.get("services"), f"{name}: `services`").items():
            _add_service(services.setdefault(service, {}), plain, variables, f"{name}: services.{service}")
        for network, plain in mapping(content.get("networks"), f"{name}: `networks`").items():
            given = mapping(plain, f"{name}: `networks.{network}`")
            used = {key: given[key] for key in _NETWORK if key in given}
            networks.setdefault(network, {}).update(filled(used, variables, f"{name}: networks.{network}"))
    return {"services": services, "networks": networks}


def _add_service(known: dict[str, Any], plain: Any, variables: Mapping[str, str], where: str) -> None:
    given = mapping(plain, f"{where}: the service")
    for key in _NEEDS_COMPOSE:
        if key in given:
            raise InvalidInput(f"{where}: `{key}`: needs compose itself: install it, or write out what it stands for")
    used = filled({key: given[key] for key in ("labels", "networks", *_SINGLE) if key in given}, variables, where)
    known.update({key: used[key] for key in _SINGLE if key in used})
    for key in ("labels", "networks"):
        if key in used:
            known[key] = {**known.get(key, {}), **pairs(used[key], f"{where}: `{key}`")}
