"""Policy files as people write them: YAML or JSON, one or many documents, refused as a whole when one of them is wrong. Pure.

Refused besides what is no YAML: repeated keys (YAML would silently keep the last), fields that no policy has, and aliases that
unfold to more than anyone writes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import yaml

from fairlead import codec
from fairlead.errors import InvalidInput
from fairlead.schema.policy import PolicyObject

_MAX_VALUES = 200_000
_FIELDS = tuple(msgspec.structs.fields(PolicyObject))
_IGNORED = {"status"}
"""Part of what `kubectl get -o yaml` prints; nobody writes it."""


class _Loader(yaml.SafeLoader):
    """The safe loader, minus repeated keys and keys that are no text."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or not key.tag.endswith((":str", ":merge")):
                raise yaml.constructor.ConstructorError(
                    None, None, "a field name must be text: quote it", key.start_mark
                )
            if key.value in keys:
                raise yaml.constructor.ConstructorError(None, None, f"`{key.value}` stands twice", key.start_mark)
            keys.add(key.value)
        return super().construct_mapping(node, deep)


# Dates and the like have no place in a policy: what looks like one is the text that was written.
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read(text: str, origin: str) -> list[PolicyObject]:
    """Return the policies in a file. Raises InvalidInput naming `origin`, the document and the field."""
    if len(text) > codec.MAX_MESSAGE_BYTES:
        raise InvalidInput(f"{origin}: larger than {codec.MAX_MESSAGE_BYTES} bytes: split it")
    try:
        documents = list(yaml.load_all(text, _Loader))
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise InvalidInput(f"{origin}: {' '.join(str(error).split())}") from error
    found = [
        one
        for number, document in enumerate(documents, 1)
        for one in _objects(document, f"{origin}, document {number}")
    ]
    if not found:
        raise InvalidInput(f"{origin}: holds no policy: is it empty?")
    return found


def _objects(document: object, where: str) -> Iterator[PolicyObject]:
    if document is None:  # `---` at the end or twice
        return
    _refuse_expansion(document, where)
    if not isinstance(document, dict):
        raise InvalidInput(
            f"{where}: a policy begins with `apiVersion:` and `kind:`, this is a {type(document).__name__}"
        )
    if str(document.get("kind", "")).endswith("List") and isinstance(document.get("items"), list):
        for number, item in enumerate(document["items"], 1):
            yield from _objects(item, f"{where}, item {number}")
        return
    yield _object(document, where)


def _object(document: dict[str, Any], where: str) -> PolicyObject:
    fields = {key: value for key, value in document.items() if key not in _IGNORED}
    unknown = sorted(fields.keys() - {field.name for field in _FIELDS})
    if unknown:
        raise InvalidInput(
            f"{where}: `{unknown[0]}` is no field of a policy: known are {', '.join(f.name for f in _FIELDS)}"
        )
    try:
        policy = codec.from_builtins(fields, PolicyObject)
    except InvalidInput as error:
        raise InvalidInput(f"{where}: {error.message}") from error
    name = policy.metadata.get("name")
    if not isinstance(name, str) or not name:
        raise InvalidInput(f"{where}: `metadata.name` is missing: give the policy a name")
    if policy.spec is None and not policy.specs:
        raise InvalidInput(f"{where}: {name}: `spec` is missing")
    return policy


def _refuse_expansion(document: object, where: str) -> None:
    """Count values with aliases unfolded, as they will be written to the bus; a small file can unfold to billions."""
    left, seen = [document], 0
    while left:
        value = left.pop()
        seen += 1
        if seen > _MAX_VALUES:
            raise InvalidInput(f"{where}: more than {_MAX_VALUES} values, aliases unfolded: split it")
        if isinstance(value, dict):
            left.extend(value.values())
        elif isinstance(value, list):
            left.extend(value)
