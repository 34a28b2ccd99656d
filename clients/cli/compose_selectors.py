"""Selectors that name services: `{service: db}`, `{services: [db, cache]}`, and of peers `{service: other-project/web}`. Pure."""

from __future__ import annotations

from typing import Any

from clients.cli.compose_services import Stack
from fairlead import containers
from fairlead.errors import InvalidInput

_SUBJECT, _PEERS = "endpointSelector", ("fromEndpoints", "toEndpoints")
_ONE, _SEVERAL = "service", "services"


def expanded(value: Any, stack: Stack, home: str, where: str) -> Any:
    """Return spec or specs with labels in place of services; `home` is the namespace of the document, empty where it has none.

    `where` begins with the file, and ends within the path. Raises InvalidInput naming file, path and mend.
    """
    if isinstance(value, list):
        return [expanded(one, stack, home, f"{where}[{number}]") for number, one in enumerate(value)]
    if not isinstance(value, dict):
        return value
    return {key: _field(key, one, stack, home, f"{where}.{key}") for key, one in value.items()}


def _field(key: str, value: Any, stack: Stack, home: str, where: str) -> Any:
    if key == _SUBJECT:
        return _selector(value, stack, home, where, peer=False)
    if key in _PEERS and isinstance(value, list):
        return [_selector(one, stack, home, f"{where}[{number}]", peer=True) for number, one in enumerate(value)]
    return expanded(value, stack, home, where)


def _selector(value: Any, stack: Stack, home: str, where: str, *, peer: bool) -> Any:
    if not isinstance(value, dict) or not value.keys() & {_ONE, _SEVERAL}:
        return value
    if value.keys() >= {_ONE, _SEVERAL}:
        raise InvalidInput(f"{where}`: `service` or `services`: one of them")
    rest = {key: one for key, one in value.items() if key not in (_ONE, _SEVERAL)}
    labels, conditions = rest.get("matchLabels") or {}, rest.get("matchExpressions") or []
    if not isinstance(labels, dict) or not isinstance(conditions, list):
        raise InvalidInput(f"{where}`: `matchLabels` is a mapping, `matchExpressions` a list")
    if _ONE in value:
        return {**rest, "matchLabels": {**labels, **_one(value[_ONE], stack, home, f"{where}.{_ONE}`", peer=peer)}}
    names = value[_SEVERAL]
    if not isinstance(names, list) or not names:
        raise InvalidInput(f"{where}.{_SEVERAL}`: a list of services is needed, for instance [web, api]")
    for number, name in enumerate(names):
        _check(name, stack, f"{where}.{_SEVERAL}[{number}]`")
    condition = {"key": f"container:{containers.SERVICE}", "operator": "In", "values": names}
    own = containers.service_labels(stack.project, "*", home) if not home else {}
    labels = {**labels, **own}
    return {
        **rest,
        **({"matchLabels": labels} if labels else {}),
        "matchExpressions": [*conditions, condition],
    }


def _one(name: Any, stack: Stack, home: str, where: str, *, peer: bool) -> dict[str, str]:
    if not isinstance(name, str):
        raise InvalidInput(f"{where}: the name of one service is needed here; `services` takes a list")
    project, slash, service = name.rpartition("/")
    if not slash:
        _check(name, stack, where)
        return containers.service_labels(stack.project, service, home)
    if not peer:
        raise InvalidInput(f"{where}: {name!r} is another project's: a stack makes rules for its own services only")
    if not project or not service:
        raise InvalidInput(f"{where}: {name!r}: write PROJECT/SERVICE, or PROJECT/* for all of a project")
    return containers.service_labels(project, service, home)


def _check(name: Any, stack: Stack, where: str) -> None:
    if not isinstance(name, str) or name not in stack.services:
        raise InvalidInput(f"{where}: {stack.without(name)}")
