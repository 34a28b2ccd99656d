"""`x-fairlead` into policy documents: complete ones, short ones, and rules that stand at a service itself. Pure.

x-fairlead:
  policies:
  - name: db                              # of the kind CiliumNetworkPolicy, in the project's namespace
    spec:
      endpointSelector: {service: db}     # instead of labels; `services: [db, cache]` for several
      ingress:
      - fromEndpoints: [{service: api}]   # `service: blog/web` for another project's
  - {apiVersion: ..., kind: ..., metadata: {name: ...}, spec: ...}
  tests:
    allow: ["api -> db:5432"]
    deny: ["world -> db:5432"]
services:
  web:
    x-fairlead: {ingress: ["world:80"], egress: ["api:8080", dns]}
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, NamedTuple, TypeVar

import msgspec

from clients.cli import stored
from clients.cli.compose_files import EXTENSION, Extension
from clients.cli.compose_selectors import expanded
from clients.cli.compose_services import Stack
from fairlead import containers, manifest
from fairlead.codec import from_builtins
from fairlead.errors import InvalidInput
from fairlead.schema.policy import PolicyObject

_NAMESPACED, _CLUSTERWIDE, _AUDIT = "CiliumNetworkPolicy", "CiliumClusterwideNetworkPolicy", "WorkloadAudit"
"""Kinds whose selectors may name services."""
T = TypeVar("T")


class Stated(NamedTuple):
    """A document, and where in which file it stands."""

    origin: str
    document: PolicyObject


class Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Something that people write: a field that nobody knows is a mistake."""


class Expected(Strict, frozen=True, kw_only=True):
    """Connections, each as `SOURCE -> DESTINATION:PORT/PROTOCOL`."""

    allow: list[str] = []
    deny: list[str] = []


class StackPart(Strict, frozen=True, kw_only=True):
    """`x-fairlead` of a file."""

    policies: list[dict[str, Any]] = []
    tests: Expected = Expected()


class ServicePart(Strict, frozen=True, kw_only=True):
    """`x-fairlead` of a service: who may reach it, whom it may reach, in the words of shorthand labels; an empty list is nobody."""

    ingress: list[str] | None = None
    egress: list[str] | None = None


class Short(Strict, frozen=True, kw_only=True):
    """A policy without what is the same in every one."""

    name: str
    kind: Literal["CiliumNetworkPolicy", "CiliumClusterwideNetworkPolicy"] = "CiliumNetworkPolicy"
    annotations: dict[str, str] = {}
    spec: dict[str, Any] | None = None
    specs: list[dict[str, Any]] | None = None
    tests: list[dict[str, Any]] | None = None


def stack_part(extension: Extension) -> StackPart:
    """Return what a file says of the whole stack. Raises InvalidInput naming file, path and mend."""
    return _typed(extension.stack or {}, StackPart, extension.file, EXTENSION)


def _typed(plain: Any, kind: type[T], file: str, path: str) -> T:
    try:
        return from_builtins(plain, kind)
    except InvalidInput as error:
        raise InvalidInput(f"{file}: {below(path, error.message)}") from error


def below(path: str, message: str) -> str:
    """Return a message that begins with a field, with the path to that field before it."""
    if message.startswith("`message`:"):
        return f"`{path}`{message.removeprefix('`message`')}"
    return f"`{path}.{message[1:]}" if message.startswith("`") else f"`{path}`: {message}"


def documents(extensions: Iterable[Extension], stack: Stack) -> list[Stated]:
    """Return the documents of all files; a later file replaces policies of the same kind and name. Raises InvalidInput."""
    found: dict[tuple[str, str], Stated] = {}
    for extension in extensions:
        found |= _of_file(extension, stack)
    return list(found.values())


def _of_file(extension: Extension, stack: Stack) -> dict[tuple[str, str], Stated]:
    found: dict[tuple[str, str], Stated] = {}
    for path, document in (*_policies(extension, stack), *_of_services(extension, stack)):
        key = document.kind, str(document.metadata["name"])
        stated = Stated(f"{extension.file}: {path}", document)
        if found.setdefault(key, stated) is not stated:
            raise InvalidInput(
                f"{stated.origin}: {key[0]} {key[1]} stands at {found[key].origin} too: rename one of them"
            )
    return found


def _policies(extension: Extension, stack: Stack) -> Iterator[tuple[str, PolicyObject]]:
    for number, plain in enumerate(stack_part(extension).policies):
        path = f"{EXTENSION}.policies[{number}]"
        yield path, _policy(plain, extension.file, path, stack)


def _of_services(extension: Extension, stack: Stack) -> Iterator[tuple[str, PolicyObject]]:
    for name, plain in extension.services.items():
        path = f"services.{name}.{EXTENSION}"
        yield path, _of_service(name, plain, extension.file, path, stack)


def _policy(plain: Mapping[str, Any], file: str, path: str, stack: Stack) -> PolicyObject:
    if not plain.keys() & {"apiVersion", "metadata"}:
        short = _typed(plain, Short, file, path)
        plain = {
            "apiVersion": "cilium.io/v2",
            "kind": short.kind,
            "metadata": {"name": short.name} | ({"annotations": short.annotations} if short.annotations else {}),
            **{key: value for key in ("spec", "specs", "tests") if (value := getattr(short, key)) is not None},
        }
    document = manifest.one(dict(plain), f"{file}: `{path}`")
    metadata = {**document.metadata, **_namespace(document, f"{file}: `{path}.metadata.namespace`", stack.project)}
    changes: dict[str, Any] = {"metadata": metadata}
    if document.kind in (_NAMESPACED, _CLUSTERWIDE, _AUDIT):
        home = stack.project if document.kind == _NAMESPACED else ""
        changes["spec"] = expanded(document.spec, stack, home, f"{file}: `{path}.spec")
        changes["specs"] = expanded(document.specs, stack, home, f"{file}: `{path}.specs")
    return msgspec.structs.replace(document, **changes)


def _namespace(document: PolicyObject, where: str, project: str) -> dict[str, str]:
    """Return the namespace that the document must have: a stack speaks of itself, unless a document is clusterwide."""
    if document.kind in stored.CLUSTER_SCOPED:
        return {}
    given = document.metadata.get("namespace", project)
    if given != project:
        raise InvalidInput(
            f"{where}: {given!r} is not this project, {project}: leave it out (`kind: {_CLUSTERWIDE}` is for all projects)"
        )
    return {"namespace": project}


def _of_service(name: str, plain: Any, file: str, path: str, stack: Stack) -> PolicyObject:
    part = _typed(plain, ServicePart, file, path)
    spec: dict[str, Any] = {"endpointSelector": {"matchLabels": {f"container:{containers.SERVICE}": name}}}
    for field, way, items in (("ingress", "from", part.ingress), ("egress", "to", part.egress)):
        if items is not None:
            rules = [
                rule
                for number, item in enumerate(items)
                for rule in _rules(f"{file}: `{path}.{field}[{number}]`", item, way, stack)
            ]
            spec[field] = rules or [{}]
    if len(spec) == 1:
        raise InvalidInput(f"{file}: `{path}`: it says nothing: give `ingress` or `egress`, an empty list for nobody")
    metadata = {"name": f"service-{name.lower().replace('_', '-')}", "namespace": stack.project}
    return PolicyObject(apiVersion="cilium.io/v2", kind=_NAMESPACED, metadata=metadata, spec=spec)


def _rules(where: str, item: str, way: str, stack: Stack) -> list[dict[str, Any]]:
    peer = item.strip().partition(":")[0]
    looks_like_a_service = peer.replace("-", "").replace("_", "").isalnum() and not peer.isdigit()
    if looks_like_a_service and peer not in stack.services and peer not in containers.WORDS:
        raise InvalidInput(f"{where}: {stack.without(peer)}")
    return containers.rules(where, [item], stack.project, way, namespaced=True)
