"""What policy reads of others' keys in the store, and never writes."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from fairlead.errors import InvalidInput
from fairlead.labels import parse as parse_label
from fairlead.schema.base import NodeNameField
from services.policy.labels import Label

_NODE_SOURCE = "k8s"


class Sources(NamedTuple):
    """Where others keep what rows depend on: each prefix is followed by the name."""

    identities: str
    nodes: str


class _Node(msgspec.Struct, rename="pascal"):
    """What matters here of the value of one `nodes` key, which is Cilium's."""

    labels: dict[str, str] | None = None


def node_labels(name: str, value: bytes) -> frozenset[Label]:
    """Return a node's labels; one without a source is Kubernetes', as Cilium has it. Raises InvalidInput."""
    try:
        msgspec.convert(name, NodeNameField)
        node = msgspec.json.decode(value, type=_Node)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(f"not a node entry: {error}") from error
    return frozenset(_label(key, text) for key, text in (node.labels or {}).items())


def _label(key: str, value: str) -> Label:
    named = key if ":" in key else f"{_NODE_SOURCE}:{key}"
    return parse_label(f"{named}={value}")
