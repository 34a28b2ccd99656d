"""What stands in the kernel of one node, what was asked for, and what the packets did."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta

from fairlead.address import Address
from fairlead.schema.base import (
    BucketSpec,
    Empty,
    EndpointIdField,
    IdentityIdField,
    Labels,
    Message,
    Name,
    NodeNameField,
    Row,
    Seconds,
    Topic,
)


class EndpointState(StrEnum):
    """How far an endpoint has come; only `ready` passes packets, and a relabelled one by what it had until the new is ready."""

    WAITING_FOR_LABELS = "waiting-for-labels"
    WAITING_FOR_IDENTITY = "waiting-for-identity"
    WAITING_FOR_POLICY = "waiting-for-policy"
    READY = "ready"
    FAILED = "failed"


class AttachEndpoint(Message, frozen=True, kw_only=True):
    """Connect a network namespace of this node. The same name again returns what stands; changed labels relabel it."""

    name: Name
    netns: Annotated[str, Meta(max_length=4096, pattern=r"^(/[^\x00-\x1f\x7f]+)?$")] = ""
    """Path of the network namespace, for instance /run/netns/web or /proc/123/ns/net.

    Empty: the far end is left in the node's own namespace, down, for a container engine that moves and renames it, and gives it
    its addresses and routes.
    """
    addresses: Annotated[tuple[Address, ...], Meta(min_length=1, max_length=2)]
    labels: Labels = ()
    unlabelled: bool = False
    """The labels are not known yet: hold the endpoint until the same name is attached without this."""
    instead_of: Annotated[str, Meta(max_length=253)] = ""
    """An unlabelled endpoint that was made ahead and becomes this one, with its pair, if it is there and this one is not."""
    interface: Annotated[str, Meta(min_length=1, max_length=15, pattern=r"^[A-Za-z0-9_.-]+$")] = "eth0"
    mtu_bytes: Annotated[int, Meta(ge=0, le=65535)] = 0
    """0: the MTU of the node's uplink."""
    wait_s: Seconds = 0
    """How long to wait for `ready` before answering with the state reached."""


class DetachEndpoint(Message, frozen=True, kw_only=True):
    """Remove the endpoint and all that belongs to it; one that does not exist counts as removed."""

    name: Name


class Detached(Message, frozen=True, kw_only=True):
    """Whether there was anything to remove."""

    removed: bool


class EndpointStatus(Message, frozen=True, kw_only=True):
    """One endpoint of a node, desired and realised."""

    endpoint: EndpointIdField
    name: str
    node: NodeNameField
    addresses: tuple[Address, ...]
    labels: tuple[str, ...]
    identity: IdentityIdField
    """0 while it is not known."""
    state: EndpointState
    detail: str = ""
    """Why it is not ready, in words."""
    since: datetime | None = None
    """When the state was reached."""
    host_interface: str = ""
    mac: str = ""
    """Of the endpoint's own side; empty until it was made."""
    netns: str = ""
    policy_revision: int = 0
    """The revision of the policy row that stands in the kernel."""
    ingress_enforced: bool = False
    egress_enforced: bool = False


class EndpointList(Message, frozen=True, kw_only=True):
    """All endpoints of a node."""

    node: NodeNameField
    endpoints: tuple[EndpointStatus, ...]


class EndpointQuery(Message, frozen=True, kw_only=True):
    """Which endpoint is meant: by number, name or address."""

    endpoint: Name


class PolicyMapEntry(Message, frozen=True, kw_only=True):
    """One entry read back from the kernel's policy map; ports in host byte order here."""

    direction: int
    identity: IdentityIdField
    protocol: int
    port: int
    deny: bool
    precedence: int
    proxy_port: int
    packets: int
    bytes: int
    labels: tuple[str, ...] = ()
    origin: str = ""


class PolicyMapDump(Message, frozen=True, kw_only=True):
    """The policy map of one endpoint as the kernel has it."""

    endpoint: EndpointIdField
    name: str
    pin: str
    entries: tuple[PolicyMapEntry, ...]


class AddressQuery(Message, frozen=True, kw_only=True):
    """Which address the node is asked about."""

    address: Address


class AddressAnswer(Message, frozen=True, kw_only=True):
    """What the node's kernel holds for the address: the longest matching prefix decides."""

    node: NodeNameField
    address: Address
    prefix: str
    identity: IdentityIdField
    labels: tuple[str, ...] = ()
    name: str = ""


class RealisedRow(Row, frozen=True, kw_only=True):
    """What a node's kernel holds: for each identity it hosts, the revision of the policy row that stands in the kernel."""

    node: NodeNameField
    rows: dict[str, int]
    failed: dict[str, str] = msgspec.field(default_factory=dict)
    """Identity to what stands in the way."""


class Difference(Message, frozen=True, kw_only=True):
    """One thing in a node's kernel that is not as it should be."""

    subject: str
    """What it is about, for instance `endpoint 7` or `device eth0`."""
    problem: str
    """In words that stay the same, for instance `policy entry missing`."""
    detail: str = ""
    endpoint: int = 0
    """The endpoint it is about; 0: what all share."""


class Verification(Message, frozen=True, kw_only=True):
    """A node's kernel compared with what should be there; no difference: all is as it should be."""

    node: NodeNameField
    differences: tuple[Difference, ...] = ()
    """Of many of one kind the first ones, and one that says how many more."""
    found: int = 0
    """How many differences there are in all."""
    compared: dict[str, int] = msgspec.field(default_factory=dict)
    """How much was looked at."""


class BreakGlass(Message, frozen=True, kw_only=True):
    """Entries that nobody had ordered were found in a policy map and removed."""

    node: NodeNameField
    endpoint: EndpointIdField
    name: str
    time: datetime
    entries: tuple[str, ...]


class BreakGlassUsed(Message, frozen=True, kw_only=True):
    """A person let an endpoint or a whole node pass what policies deny, or ended that before its time."""

    node: NodeNameField
    endpoint: Annotated[int, Meta(ge=0, le=65535)]
    """0: the whole node; 65535: the node itself as an endpoint."""
    name: str = ""
    time: datetime
    until: datetime | None = None
    """When it ends by itself."""
    reason: str
    by: str
    """Who, as the node knows people, for instance `alice (uid 1000)`."""
    deed: str
    """`opened`, `ended`, `failed` (the kernel refused what was said just before), or `found`: open, and no record said who did it."""


REALISED = BucketSpec("realised", RealisedRow, owner="datapath", node_keyed=True, summary="realised policy by node")

ATTACH = Topic(
    "fairlead.cmd.datapath.endpoint.attach.v1",
    AttachEndpoint,
    EndpointStatus,
    per_node=True,
    summary="connect a namespace",
)
DETACH = Topic(
    "fairlead.cmd.datapath.endpoint.detach.v1", DetachEndpoint, Detached, per_node=True, summary="disconnect it"
)
ENDPOINTS = Topic("fairlead.get.datapath.endpoint.list.v1", Empty, EndpointList, per_node=True, summary="endpoints")
POLICY_MAP = Topic(
    "fairlead.get.datapath.policymap.dump.v1", EndpointQuery, PolicyMapDump, per_node=True, summary="kernel policy map"
)
LOOKUP_ADDRESS = Topic(
    "fairlead.get.datapath.address.lookup.v1", AddressQuery, AddressAnswer, per_node=True, summary="kernel address map"
)
BREAK_GLASS = Topic(
    "fairlead.evt.datapath.breakglass.found.v1", BreakGlass, Empty, per_node=True, summary="foreign entries removed"
)
BREAK_GLASS_USED = Topic(
    "fairlead.evt.datapath.breakglass.used.v1",
    BreakGlassUsed,
    Empty,
    per_node=True,
    summary="policy lifted by a person",
)
VERIFY = Topic(
    "fairlead.get.datapath.verify.show.v1",
    Empty,
    Verification,
    per_node=True,
    summary="the kernel compared with what should be there",
)
