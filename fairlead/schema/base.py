"""What every message shares: the base struct, the identifiers and the shape of a topic."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Generic, NewType, TypeVar

import msgspec
from msgspec import Meta

NAME = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"

NodeName = NewType("NodeName", str)
"""A node, as one subject token: lower-case letters, digits and dashes, at most 63, no dots."""
NodeNameField = Annotated[NodeName, Meta(pattern=NAME, description="node name: a-z, 0-9 and dashes, at most 63")]

IdentityId = NewType("IdentityId", int)
"""A numeric security identity; 1-255 are reserved, 256-65535 cluster-wide, from 2^24 on node-local (CIDR)."""
IdentityIdField = Annotated[IdentityId, Meta(ge=0, le=0xFFFFFFFF)]

EndpointId = NewType("EndpointId", int)
"""A node-local endpoint number, 1-65535; pinned maps carry it in their names."""
EndpointIdField = Annotated[EndpointId, Meta(ge=1, le=65535)]

Name = Annotated[str, Meta(min_length=1, max_length=253, pattern=r"^[A-Za-z0-9]([A-Za-z0-9._:/@-]*[A-Za-z0-9])?$")]
"""A name that people give: letters, digits and . _ : / @ - inside, at most 253."""
Text = Annotated[str, Meta(max_length=253, pattern=r"^[^\x00-\x1f\x7f]*$")]
"""A short text for people, without control characters; may be empty."""
Label = Annotated[str, Meta(min_length=1, max_length=512, pattern=r"^[^\s;,\x00-\x1f][^;,\x00-\x1f]*$")]
"""A label, `source:key=value` or `key=value` (then its source is `container`); no comma, semicolon or control character."""
Labels = Annotated[tuple[Label, ...], Meta(max_length=128)]
Traceparent = Annotated[str, Meta(max_length=64)]
"""A W3C `traceparent`, or empty."""
Revision = Annotated[int, Meta(ge=0)]
"""The etcd revision at which the value was last changed; larger means newer, within one etcd."""
Seconds = Annotated[float, Meta(ge=0, le=86400)]


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """Anything that travels. Unknown fields are skipped; only additive change is allowed."""


class Row(Message, frozen=True, kw_only=True):
    """One value of a state bucket: the whole object as of `revision`; `trace` is the event that caused it."""

    revision: Revision = 0
    trace: Traceparent = ""


class Empty(Message, frozen=True, kw_only=True):
    """Nothing to say."""


class Delivery(StrEnum):
    """How a topic's messages travel; the class token of the subject."""

    COMMAND = "cmd"  # request, one of a queue group answers
    SNAPSHOT = "get"  # request for what is known now
    EVENT = "evt"  # JetStream, at least once, past tense
    FLOW = "flow"  # core, lossy
    STATUS = "status"  # core, lossy
    DEAD = "dead"  # JetStream, what could not be understood


M = TypeVar("M", bound=Message)
R = TypeVar("R", bound=Message)
V = TypeVar("V", bound=Row)


@dataclass(frozen=True)
class Topic(Generic[M, R]):
    """One subject and what travels on it.

    `subject` is `fairlead.<class>.<service>.<noun>.<verb>.v<N>`; a per-node topic gets the node as its last token, a per-owner
    topic the owner.
    """

    subject: str
    message: type[M]
    reply: type[R]
    per_node: bool = False
    per_owner: bool = False
    """Whether the last token is the first part of the message's `owner`: a credential for that subject may speak in this name only."""
    intent: bool = False
    """Whether other systems publish here: JSON and CloudEvents are then part of the contract."""
    summary: str = ""

    @property
    def delivery(self) -> Delivery:
        """Return how messages of this topic travel."""
        return Delivery(self.subject.split(".")[1])

    @property
    def service(self) -> str:
        """Return the service that owns the topic."""
        return self.subject.split(".")[2]

    @property
    def names_speaker(self) -> bool:
        """Tell whether the last token says of whom, or in whose name, a message is."""
        return self.per_node or self.per_owner

    def on(self, node: NodeName | None = None) -> str:
        """Return the subject to use, with the token of the node (or the owner) where the topic has one."""
        if self.names_speaker != (node is not None):
            kind = "owner" if self.per_owner else "node"
            raise ValueError(f"{self.subject} {'needs' if self.names_speaker else 'takes no'} {kind}")
        return f"{self.subject}.{node}" if node else self.subject


@dataclass(frozen=True)
class BucketSpec(Generic[V]):
    """One JetStream KV bucket: a projection of state, one row per key.

    `owner` is the service that writes it. `node_keyed` buckets have the node's name as key, and a node may write its own only.
    """

    name: str
    row: type[V]
    owner: str
    node_keyed: bool = False
    summary: str = ""
