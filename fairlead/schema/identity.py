"""Who is who: label sets and their numbers, addresses and their identities, nodes, external workloads."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from msgspec import Meta

from fairlead.address import Address, Prefix
from fairlead.schema.base import (
    BucketSpec,
    IdentityId,
    IdentityIdField,
    Labels,
    Message,
    Name,
    NodeNameField,
    Revision,
    Row,
    Seconds,
    Text,
    Topic,
)

# Reserved identities keep the numbers that Cilium gave them.
UNKNOWN = IdentityId(0)
HOST = IdentityId(1)
WORLD = IdentityId(2)
UNMANAGED = IdentityId(3)
HEALTH = IdentityId(4)
INIT = IdentityId(5)
REMOTE_NODE = IdentityId(6)
KUBE_APISERVER = IdentityId(7)
INGRESS = IdentityId(8)
RESERVED_LABELS: dict[IdentityId, tuple[str, ...]] = {
    HOST: ("reserved:host",),
    WORLD: ("reserved:world",),
    UNMANAGED: ("reserved:unmanaged",),
    HEALTH: ("reserved:health",),
    INIT: ("reserved:init",),
    REMOTE_NODE: ("reserved:remote-node",),
    KUBE_APISERVER: ("reserved:kube-apiserver",),
    INGRESS: ("reserved:ingress",),
}
FIRST_CLUSTER_IDENTITY = IdentityId(256)
LAST_CLUSTER_IDENTITY = IdentityId(65535)
FIRST_CIDR_IDENTITY = IdentityId(1 << 24)
"""From here on identities stand for prefixes that policies name; policy numbers them."""


class IdentityRow(Row, frozen=True, kw_only=True):
    """One label set and its number; `labels` is sorted, each `source:key=value` (no `=` when the value is empty)."""

    identity: IdentityIdField
    labels: tuple[str, ...]
    since: datetime | None = None
    """When this installation first saw it."""


class AddressEntry(Message, frozen=True, kw_only=True):
    """One prefix (usually a host) and who stands behind it."""

    prefix: Prefix
    identity: IdentityIdField
    host: Address | None = None
    """The address of the node that the workload runs on; none for what no node of ours hosts."""
    name: str = ""


class AddressGroup(Row, frozen=True, kw_only=True):
    """All addresses of one node, or one shard of the addresses that belong to no node."""

    group: str
    entries: tuple[AddressEntry, ...]


class NodeRow(Row, frozen=True, kw_only=True):
    """One node of the fleet: its own addresses and the prefixes of its workloads."""

    node: NodeNameField
    addresses: tuple[Address, ...]
    prefixes: tuple[Prefix, ...] = ()
    labels: tuple[str, ...] = ()
    """What host policies select the node by, each `source:key=value`."""


class RegisterNode(Message, frozen=True, kw_only=True):
    """A node states its own facts; repeated at will."""

    node: NodeNameField
    addresses: Annotated[tuple[Address, ...], Meta(min_length=1, max_length=64)]
    prefixes: Annotated[tuple[Prefix, ...], Meta(max_length=64)] = ()
    labels: Labels = ()
    """What host policies select the node by."""


class RegisterEndpoint(Message, frozen=True, kw_only=True):
    """A node states one of its endpoints: labels and addresses. Repeated at will; a larger generation wins."""

    node: NodeNameField
    endpoint: Name
    addresses: Annotated[tuple[Address, ...], Meta(min_length=1, max_length=16)]
    labels: Labels
    node_address: Address | None = None
    generation: Annotated[int, Meta(ge=0)] = 0
    """Nanoseconds of the wall clock when the endpoint was created or last changed."""


class EndpointRegistered(Message, frozen=True, kw_only=True):
    """The identity of the endpoint, and the revision at which every address of it is committed."""

    identity: IdentityIdField
    labels: tuple[str, ...]
    revision: Revision


class WithdrawEndpoint(Message, frozen=True, kw_only=True):
    """A node's endpoint is gone. Entries that a newer generation owns stay."""

    node: NodeNameField
    endpoint: Name
    addresses: Annotated[tuple[Address, ...], Meta(max_length=16)]
    generation: Annotated[int, Meta(ge=0)] = 0


class ExternalWorkload(Message, frozen=True, kw_only=True):
    """A workload that no node of ours hosts (VM, bare metal), as another system knows it.

    `source` and `source_id` name the record; a smaller or equal `generation` than the stored one is ignored.
    """

    source: Name
    source_id: Name
    generation: Annotated[int, Meta(ge=0)]
    addresses: Annotated[tuple[Prefix, ...], Meta(min_length=1, max_length=64)]
    labels: Annotated[Labels, Meta(min_length=1)]
    owner: Text = ""
    lease_s: Seconds = 0
    """0: until withdrawn. Otherwise the record is flagged as stale when nothing is heard for so long; never deleted for it."""
    site: Text = ""


class WithdrawWorkload(Message, frozen=True, kw_only=True):
    """The external workload is gone; ignored when its generation is older than the stored record."""

    source: Name
    source_id: Name
    generation: Annotated[int, Meta(ge=0)]


class Committed(Message, frozen=True, kw_only=True):
    """The etcd revision of the change, and the identity where there is one."""

    revision: Revision
    identity: IdentityIdField = UNKNOWN
    changed: bool = True
    """False when the same or a newer generation was already stored."""


IDENTITIES = BucketSpec("identities", IdentityRow, owner="identity", summary="label sets by identity number")
ADDRESSES = BucketSpec("addresses", AddressGroup, owner="identity", summary="address to identity, one row per node")
NODES = BucketSpec("nodes", NodeRow, owner="identity", summary="nodes of the fleet by name")

REGISTER_NODE = Topic(
    "fairlead.cmd.identity.node.register.v1",
    RegisterNode,
    Committed,
    per_node=True,
    summary="a node states its addresses",
)
REGISTER_ENDPOINT = Topic(
    "fairlead.cmd.identity.endpoint.register.v1",
    RegisterEndpoint,
    EndpointRegistered,
    per_node=True,
    summary="labels to identity",
)
WITHDRAW_ENDPOINT = Topic(
    "fairlead.cmd.identity.endpoint.withdraw.v1",
    WithdrawEndpoint,
    Committed,
    per_node=True,
    summary="an endpoint is gone",
)
PUT_WORKLOAD = Topic(
    "fairlead.cmd.identity.workload.put.v1",
    ExternalWorkload,
    Committed,
    intent=True,
    summary="state a workload, and wait",
)
REMOVE_WORKLOAD = Topic(
    "fairlead.cmd.identity.workload.remove.v1", WithdrawWorkload, Committed, intent=True, summary="remove it, and wait"
)
WORKLOAD_PUBLISHED = Topic(
    "fairlead.evt.identity.workload.published.v1", ExternalWorkload, Committed, intent=True, summary="state a workload"
)
WORKLOAD_WITHDRAWN = Topic(
    "fairlead.evt.identity.workload.withdrawn.v1", WithdrawWorkload, Committed, intent=True, summary="it is gone"
)
