"""Rules as people write them, and what they come to for one identity."""

from __future__ import annotations

from datetime import datetime
from enum import IntEnum
from typing import Annotated, Any

from msgspec import Meta

from fairlead.schema.base import (
    BucketSpec,
    Empty,
    IdentityIdField,
    Message,
    NodeNameField,
    Revision,
    Row,
    Seconds,
    Text,
    Topic,
)


class Direction(IntEnum):
    """Seen from the subject, numbered as in the policy map's key."""

    INGRESS = 0
    EGRESS = 1


class PolicyObject(Message, frozen=True, kw_only=True):
    """A complete Kubernetes-style object, just as it stands in a file. Validated by the policy service."""

    apiVersion: str  # noqa: N815 - the field's name in every such file
    kind: str
    metadata: dict[str, Any]
    spec: dict[str, Any] | None = None
    specs: list[dict[str, Any]] | None = None
    tests: list[dict[str, Any]] | None = None
    """What the document promises of single connections; it is refused when a promise is broken, its own or another's."""


class ApplyPolicy(Message, frozen=True, kw_only=True):
    """Store a policy; with `wait_s`, answer when every affected node has confirmed the kernel state, or time is up."""

    document: PolicyObject
    wait_s: Seconds = 0
    author: Text = ""
    owner: Text = ""
    """On whose behalf; a document that has an owner is changed by nobody else, unless forced."""
    expected_revision: Revision | None = None
    """The revision that the author has seen (0: none): anything else is a Conflict."""


class PolicyReference(Message, frozen=True, kw_only=True):
    """Which policy is meant; `namespace` is empty for clusterwide kinds, `default` where a file names none."""

    kind: Text
    name: Text
    namespace: Text = ""


class DeletePolicy(Message, frozen=True, kw_only=True):
    """Remove a policy; `wait_s` as in ApplyPolicy."""

    policy: PolicyReference
    wait_s: Seconds = 0
    author: Text = ""
    owner: Text = ""
    expected_revision: Revision | None = None


class RollBackPolicy(Message, frozen=True, kw_only=True):
    """Store an earlier version again; `version` 0 is the newest that differs. The rest as in ApplyPolicy."""

    policy: PolicyReference
    version: Annotated[int, Meta(ge=0)] = 0
    wait_s: Seconds = 0
    author: Text = ""
    owner: Text = ""
    expected_revision: Revision | None = None


class PolicyHistoryQuery(Message, frozen=True, kw_only=True):
    """The versions of one policy, without their documents; or with `version`, that one with its document."""

    policy: PolicyReference
    version: Annotated[int, Meta(ge=0)] = 0


class PolicyVersion(Message, frozen=True, kw_only=True):
    """One change of a policy; `document` is None where the policy went, where it is left out, or where it was too large to keep."""

    version: int
    revision: Revision
    action: str
    """`stored`, `deleted`, `expired` or `rolled back to N`."""
    at: datetime
    author: str = ""
    owner: str = ""
    trace: str = ""
    forced: bool = False
    document: PolicyObject | None = None


class PolicyHistory(Message, frozen=True, kw_only=True):
    """The versions that are kept, oldest first."""

    policy: PolicyReference
    versions: tuple[PolicyVersion, ...] = ()


class NodeRealised(Message, frozen=True, kw_only=True):
    """Whether one node holds the wanted rows in its kernel; `detail` says what is missing."""

    node: NodeNameField
    realised: bool
    detail: str = ""


class PolicyApplied(Message, frozen=True, kw_only=True):
    """What became of the change.

    `revision` is the etcd revision of the change; `resolved` tells whether policy has worked it into rows; `nodes` lists every
    node that hosts an affected identity (empty when `wait_s` was 0).
    """

    policy: PolicyReference
    revision: Revision
    changed: bool = True
    resolved: bool = False
    identities: tuple[int, ...] = ()
    """The identities that the policy selects."""
    nodes: tuple[NodeRealised, ...] = ()
    warnings: tuple[str, ...] = ()


class StoredPolicy(Message, frozen=True, kw_only=True):
    """A policy as it stands in etcd."""

    policy: PolicyReference
    document: PolicyObject
    revision: Revision
    author: str = ""
    trace: str = ""
    forced: bool = False
    """Whether it was stored against tests that failed, or against its owner."""
    owner: str = ""
    version: int = 0
    at: datetime | None = None
    stage: Text = "live"
    """`live`; `audit`: it denies nothing until `audit_until`; `staged`: it does nothing."""
    audit_until: datetime | None = None
    expires: datetime | None = None
    """When it ends by itself."""
    warnings: tuple[str, ...] = ()
    """What of it cannot be carried out as written here, and what it finds nobody by now."""


class PolicyList(Message, frozen=True, kw_only=True):
    """All policies as of `revision`."""

    policies: tuple[StoredPolicy, ...]
    revision: Revision


class PolicyEntry(Message, frozen=True, kw_only=True, array_like=True, gc=False):
    """One line of a policy map: who, on what, and what then.

    `identity` 0 is any peer, `protocol` 0 any protocol (then ports are 0), `port` 0 any port. `end_port` above `port` makes a
    range, inclusive. Among all matching entries the highest (deny, precedence) wins, then the more specific L4, then the specific
    peer. `origins` indexes the row's `origins`.
    """

    direction: Direction
    identity: IdentityIdField
    protocol: Annotated[int, Meta(ge=0, le=255)] = 0
    port: Annotated[int, Meta(ge=0, le=65535)] = 0
    end_port: Annotated[int, Meta(ge=0, le=65535)] = 0
    deny: bool = False
    precedence: Annotated[int, Meta(ge=0, le=255)] = 0
    proxy_port: Annotated[int, Meta(ge=0, le=65535)] = 0
    origins: tuple[int, ...] = ()


class StagedPolicy(Message, frozen=True, kw_only=True):
    """What a row would say if every document that is audited or staged were enforced; `origins` are the row's."""

    entries: tuple[PolicyEntry, ...]
    ingress_default_deny: tuple[int, ...] = ()
    egress_default_deny: tuple[int, ...] = ()


class PolicyRow(Row, frozen=True, kw_only=True):
    """All that policy says of one subject identity; the row of a node itself has identity 1 and the key `host-<node>`.

    `revision` is the etcd revision of the newest input that changed this row. A direction that nothing enforces has one entry that
    allows any peer. `ingress_default_deny` and `egress_default_deny` index the origins that turned default deny on; empty: it is off.
    """

    identity: IdentityIdField
    entries: tuple[PolicyEntry, ...]
    origins: tuple[str, ...] = ()
    """Provenance texts, for instance `CiliumNetworkPolicy default/clustermesh-ingress-l4-policy ingress[0]`."""
    ingress_default_deny: tuple[int, ...] = ()
    egress_default_deny: tuple[int, ...] = ()
    staged: StagedPolicy | None = None
    """None: nothing that selects the subject is audited or staged. It is never enforced, only reported."""
    audit_ingress: bool = False
    """The workload is audited in this direction: `entries` are written as ever, and what they deny passes and is reported as AUDIT."""
    audit_egress: bool = False


class CidrRow(Row, frozen=True, kw_only=True):
    """A prefix that some policy names, and the local identity (2^24 and up) that stands for it on every node."""

    prefix: str
    identity: IdentityIdField
    labels: tuple[str, ...] = ()


class CidrRows(Row, frozen=True, kw_only=True):
    """All prefixes that policies name: one row, key `all`."""

    rows: tuple[CidrRow, ...] = ()


HOST_ROWS = "host-"
"""The key of a node's own row is this and the node's name."""

POLICY_ROWS = BucketSpec("policy", PolicyRow, owner="policy", summary="resolved policy by subject identity")
CIDRS = BucketSpec("cidrs", CidrRows, owner="policy", summary="prefixes named in policies and their identities")

APPLY = Topic(
    "fairlead.cmd.policy.document.apply.v1", ApplyPolicy, PolicyApplied, intent=True, summary="store a policy, and wait"
)
DELETE = Topic(
    "fairlead.cmd.policy.document.delete.v1",
    DeletePolicy,
    PolicyApplied,
    intent=True,
    summary="remove a policy, and wait",
)
FORCE_APPLY = Topic(
    "fairlead.cmd.policy.document.forceapply.v1",
    ApplyPolicy,
    PolicyApplied,
    intent=True,
    summary="store a policy although tests fail or it belongs to somebody else",
)
FORCE_DELETE = Topic(
    "fairlead.cmd.policy.document.forcedelete.v1",
    DeletePolicy,
    PolicyApplied,
    intent=True,
    summary="remove a policy although tests fail or it belongs to somebody else",
)
ROLLBACK = Topic(
    "fairlead.cmd.policy.document.rollback.v1",
    RollBackPolicy,
    PolicyApplied,
    intent=True,
    summary="store an earlier version of a policy again, and wait",
)
HISTORY = Topic(
    "fairlead.get.policy.document.history.v1", PolicyHistoryQuery, PolicyHistory, summary="the versions of a policy"
)
POLICY_PUBLISHED = Topic(
    "fairlead.evt.policy.document.published.v1", PolicyObject, PolicyApplied, intent=True, summary="a policy to store"
)
POLICY_WITHDRAWN = Topic(
    "fairlead.evt.policy.document.withdrawn.v1",
    PolicyReference,
    PolicyApplied,
    intent=True,
    summary="a policy to remove",
)
POLICIES = Topic("fairlead.get.policy.document.list.v1", Empty, PolicyList, summary="all policies")
