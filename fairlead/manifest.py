"""Policy files as people write them: YAML or JSON, one or many documents, refused as a whole when one of them is wrong. Pure.

Refused besides what is no YAML: repeated keys (YAML would silently keep the last), fields that no policy has, numbers to the base 60,
and more values than anyone writes, aliases unfolded. A megabyte, however it was made, is answered within a second.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import yaml

from fairlead import codec
from fairlead.errors import InvalidInput
from fairlead.schema.policy import PolicyObject

_MAX_VALUES = 100_000
_MAX_DEPTH = 100
"""Far more than a policy has; the parser and everything behind it recurse."""
_FIELDS = tuple(msgspec.structs.fields(PolicyObject))
_IGNORED = {"status"}
"""Part of what `kubectl get -o yaml` prints; nobody writes it."""


class Loader(yaml.CSafeLoader):
    """The safe loader, minus repeated keys, keys that are no text, and what would keep it busy."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._values = 0
        self._depth = 0

    def _count(self, values: int) -> None:
        self._values += values
        if self._values > _MAX_VALUES:
            raise yaml.composer.ComposerError(None, None, f"more than {_MAX_VALUES} values: split the file")

    def resolve(self, kind: type[yaml.Node], value: Any, implicit: Any) -> Any:
        """Return the tag of a value; called once for each while the document is read, so the excess ends here."""
        self._count(1)
        return super().resolve(kind, value, implicit)  # type: ignore[no-untyped-call] # PyYAML's stubs leave it out

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Put merged mappings (`<<`) in their place; a few lines that merge each other double with every line."""
        written = len(node.value)
        super().flatten_mapping(node)
        self._count(max(len(node.value) - written, 0))

    def descend_resolver(self, parent: Any, index: Any) -> None:
        """Count the depth: called on the way into each value."""
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise yaml.composer.ComposerError(None, None, f"nested deeper than {_MAX_DEPTH}")
        super().descend_resolver(parent, index)

    def ascend_resolver(self) -> None:
        """Count the depth: called on the way out of each value."""
        self._depth -= 1
        super().ascend_resolver()

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return the mapping, if every key is text and stands once."""
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


def _number(loader: Loader, node: yaml.ScalarNode) -> int | float:
    """Return a number; 1:30 would be 90 in YAML 1.1, which nobody means, and takes quadratic time."""
    if ":" in node.value:
        raise yaml.constructor.ConstructorError(None, None, "a number with colons: quote it", node.start_mark)
    whole = node.tag.endswith(":int")
    return loader.construct_yaml_int(node) if whole else loader.construct_yaml_float(node)


Loader.add_constructor("tag:yaml.org,2002:int", _number)
Loader.add_constructor("tag:yaml.org,2002:float", _number)
# Dates and the like have no place in a policy: what looks like one is the text that was written.
Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def load(text: str, origin: str, loader: type[Loader] = Loader) -> list[Any]:
    """Return the documents in a file, whatever they are. Raises InvalidInput naming `origin`."""
    if len(text) > codec.MAX_MESSAGE_BYTES:
        raise InvalidInput(f"{origin}: larger than {codec.MAX_MESSAGE_BYTES} bytes: split it")
    try:
        documents = list(yaml.load_all(text, loader))
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise InvalidInput(f"{origin}: {' '.join(str(error).split())}") from error
    for number, document in enumerate(documents, 1):
        _refuse_expansion(document, f"{origin}, document {number}")
    return documents


def read(text: str, origin: str) -> list[PolicyObject]:
    """Return the policies in a file. Raises InvalidInput naming `origin`, the document and the field."""
    found = [
        one
        for number, document in enumerate(load(text, origin), 1)
        for one in _objects(document, f"{origin}, document {number}")
    ]
    if not found:
        raise InvalidInput(f"{origin}: holds no policy: is it empty?")
    return found


def _objects(document: object, where: str) -> Iterator[PolicyObject]:
    if document is None:  # `---` at the end or twice
        return
    if not isinstance(document, dict):
        raise InvalidInput(
            f"{where}: a policy begins with `apiVersion:` and `kind:`, this is a {type(document).__name__}"
        )
    if str(document.get("kind", "")).endswith("List") and isinstance(document.get("items"), list):
        for number, item in enumerate(document["items"], 1):
            yield from _objects(item, f"{where}, item {number}")
        return
    yield one(document, where)


def one(document: dict[str, Any], where: str) -> PolicyObject:
    """Return the policy that a mapping is. Raises InvalidInput that begins with `where` and names the field."""
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
