"""The world that a question is asked of: workloads from a file, by name, and policies from files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from fairlead import codec, manifest
from fairlead.address import Address
from fairlead.errors import InvalidInput, NotFound
from fairlead.labels import normalise
from fairlead.schema.base import Message
from fairlead.schema.identity import FIRST_CLUSTER_IDENTITY, RESERVED_LABELS
from fairlead.schema.policy import PolicyObject
from services.policy.offline import World
from services.policy.rules import Policy

RESERVED: Mapping[str, int] = {
    labels[0].removeprefix("reserved:"): int(number) for number, labels in RESERVED_LABELS.items()
}


class Workload(Message, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One workload as people write it: labels as a list (`app=web`) or as a mapping (`app: web`)."""

    name: str
    labels: list[str] | dict[str, str]
    addresses: tuple[Address, ...] = ()

    @property
    def label_set(self) -> tuple[str, ...]:
        """Return the labels in the one form of the store. Raises InvalidInput."""
        given = self.labels
        return normalise([f"{key}={value}" for key, value in given.items()] if isinstance(given, dict) else given)


@dataclass(frozen=True)
class Party:
    """One end of a question: what it was called, and the identity that stands for it."""

    name: str
    identity: int


class Fleet:
    """Workloads by name and address, on top of a world of identities."""

    def __init__(self, world: World, workloads: Iterable[Workload]) -> None:
        self.world = world
        self.parties: dict[str, Party] = {}
        self._by_address: dict[str, Party] = {}
        self._by_labels: dict[tuple[str, ...], int] = {}
        for workload in workloads:
            self._add(workload)

    def _add(self, workload: Workload) -> None:
        if workload.name in self.parties:
            raise InvalidInput(f"workload {workload.name!r} stands twice: names must differ")
        party = Party(workload.name, self.identity_of_labels(workload.label_set))
        self.parties[workload.name] = party
        for address in workload.addresses:
            other = self._by_address.setdefault(address, party)
            if other != party:
                raise InvalidInput(f"{address} belongs to {other.name} and {workload.name}: addresses must differ")

    def identity_of_labels(self, labels: Iterable[str]) -> int:
        """Return the identity of a label set, making it known: equal sets have one identity."""
        label_set = normalise(labels)
        number = self._by_labels.get(label_set)
        if number is None:
            number = self._by_labels[label_set] = FIRST_CLUSTER_IDENTITY + len(self._by_labels)
            self.world.put_workload(number, label_set)
        return number

    def at(self, address: Address) -> Party | None:
        """Return the workload with this address, or None."""
        return self._by_address.get(address)

    def party(self, text: str) -> Party:
        """Return who a name, an address, or a reserved name such as `world` means. Raises NotFound."""
        found = self.parties.get(text) or self._by_address.get(text)
        if found is not None:
            return found
        if text in RESERVED:
            return Party(text, RESERVED[text])
        try:
            address = Address(text)
        except InvalidInput as error:
            raise NotFound(
                f"no workload {text!r}: name one of the workloads, an address, or one of {', '.join(RESERVED)}"
            ) from error
        return self._by_address.get(address) or Party(text, self.world.identity_of(address))


def _text(path: str) -> str:
    try:
        return Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path}: cannot be read: {error}") from error


def read_workloads(path: str) -> list[Workload]:
    """Return the workloads of a YAML or JSON list. Raises InvalidInput naming the file and the field."""
    documents = [one for one in manifest.load(_text(path), path) if one is not None]
    lists = [one if isinstance(one, list) else [one] for one in documents]
    return [_workload(one, f"{path}, workload {number}") for number, one in enumerate(chain(*lists), 1)]


def _workload(plain: Any, where: str) -> Workload:
    try:
        return codec.from_builtins(plain, Workload)
    except InvalidInput as error:
        raise InvalidInput(f"{where}: {error.message}: write it like {{name: web, labels: [app=web]}}") from error


def read_policies(paths: Iterable[str]) -> list[tuple[str, PolicyObject]]:
    """Return the documents of all files, each with the file it stands in. Raises InvalidInput."""
    return [(path, document) for path in paths for document in manifest.read(_text(path), path)]


def put_all(world: World, documents: Iterable[tuple[str, PolicyObject]]) -> list[Policy]:
    """Put documents into the world, groups of prefixes first; return what they mean. Raises InvalidInput naming the file."""
    found = []
    for path, document in sorted(documents, key=lambda one: one[1].kind != "CiliumCIDRGroup"):
        try:
            found.append(world.put_document(document))
        except InvalidInput as error:
            name = document.metadata.get("name")
            raise InvalidInput(f"{path}: {document.kind} {name}: {error.message}") from error
    return found
