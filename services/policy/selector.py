"""Selectors in canonical form: a set of requirements that an identity's labels meet, or do not.

Equal selectors are equal values, however they were written, so that one cache entry serves every rule that uses them. `cidr:`
requirements match by containment. The empty selector matches everything; as a peer it is the wildcard, identity 0.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from functools import cached_property
from typing import NamedTuple

from services.policy.labels import ANY_SOURCE, Identity, network


class Operator(StrEnum):
    """What a requirement asks of the values under its key, in Kubernetes' words."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


class Requirement(NamedTuple):
    """One condition; for the source `cidr` the key is a prefix."""

    source: str
    key: str
    operator: Operator
    values: tuple[str, ...] = ()

    def met_by(self, identity: Identity) -> bool:
        """Tell whether the identity's labels meet the condition; a missing key meets NotIn."""
        if self.source == "cidr":
            inside = identity.network is not None and network(self.key).covers(identity.network)
            return inside == (self.operator is Operator.EXISTS)
        found = identity.values(self.source, self.key)
        if self.operator is Operator.IN:
            return any(value in self.values for value in found)
        if self.operator is Operator.NOT_IN:
            return not any(value in self.values for value in found)
        return bool(found) == (self.operator is Operator.EXISTS)


class Selector(tuple[Requirement, ...]):  # noqa: SLOT001 - a tuple with slots could not keep its hash
    """All requirements together, sorted, each once; the hash is computed once."""

    def __new__(cls, requirements: Iterable[Requirement] = ()) -> Selector:
        """Return the canonical selector of these requirements."""
        return super().__new__(cls, sorted(set(requirements)))

    @cached_property
    def _hash(self) -> int:
        return super().__hash__()

    def __hash__(self) -> int:
        return self._hash

    def matches(self, identity: Identity) -> bool:
        """Tell whether the identity meets every requirement."""
        return all(requirement.met_by(identity) for requirement in self)

    @property
    def prefixes(self) -> list[str]:
        """Return the prefixes that the selector names, included and excepted."""
        return [requirement.key for requirement in self if requirement.source == "cidr"]


WILDCARD = Selector()


def equals(source: str, key: str, value: str) -> Requirement:
    """Return the requirement that the label has this value."""
    return Requirement(source, key, Operator.IN, (value,))


def exists(source: str, key: str) -> Requirement:
    """Return the requirement that the label is there."""
    return Requirement(source, key, Operator.EXISTS)


def reserved(name: str) -> Selector:
    """Return the selector of a reserved identity, and of others that carry its label."""
    return Selector([equals("reserved", name, "")])


def split_key(text: str) -> tuple[str, str]:
    """Return source and key of a selector's key; without a source any will do."""
    source, colon, key = text.partition(":")
    return (source, key) if colon else (ANY_SOURCE, text)
