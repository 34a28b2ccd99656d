"""The one normal form of every kind of policy: flat rules, each with a subject, a direction, peers and ports.

Nobody and anybody are kept apart everywhere: no peers at all select nobody, the wildcard selector selects anybody; no ports at all
match nothing, `EVERYTHING` matches all traffic.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

from fairlead.errors import InvalidInput
from fairlead.schema.policy import Direction, PolicyReference
from services.policy.labels import NAMESPACE_LABELS, Identity, Label, Network, network
from services.policy.ports import EVERYTHING, PortMatch, refuse
from services.policy.selector import Operator, Requirement, Selector, split_key

CILIUM_NAMESPACED = "CiliumNetworkPolicy"
CILIUM_CLUSTERWIDE = "CiliumClusterwideNetworkPolicy"
KUBERNETES = "NetworkPolicy"
CIDR_GROUP = "CiliumCIDRGroup"
WORKLOAD_AUDIT = "WorkloadAudit"
POLICY_TESTS = "PolicyTests"
API_VERSION_BY_KIND: Mapping[str, str] = {
    CILIUM_NAMESPACED: "cilium.io/v2",
    CILIUM_CLUSTERWIDE: "cilium.io/v2",
    KUBERNETES: "networking.k8s.io/v1",
    CIDR_GROUP: "cilium.io/v2",
    WORKLOAD_AUDIT: "fairlead.dev/v1",
    POLICY_TESTS: "fairlead.dev/v1",
}
CLUSTER_SCOPED = frozenset({CILIUM_CLUSTERWIDE, CIDR_GROUP, WORKLOAD_AUDIT})


class ZeroPrefix(StrEnum):
    """What a prefix of length 0 stands for."""

    WORLD = "world"  # the one world identity, both families
    WORLD_BY_FAMILY = "world-by-family"  # the world identity of its family
    PREFIX = "prefix"  # itself: it gets an identity like every other prefix


@dataclass(frozen=True)
class Translation:
    """How the words of a policy are to be read here."""

    cluster: str = "default"
    zero_prefix: ZeroPrefix = ZeroPrefix.PREFIX


class Proxy(StrEnum):
    """Which proxy a redirected connection is meant for."""

    NONE = ""
    HTTP = "http"
    TLS = "tls"
    DNS = "dns"
    LISTENER = "listener"


class Stage(StrEnum):
    """What of a document takes effect."""

    LIVE = "live"
    AUDIT = "audit"  # it allows, and only reports what it would deny
    STAGED = "staged"  # nothing; it only reports what would come of it


@dataclass(frozen=True)
class Traffic:
    """What a rule matches of its peers' traffic, and whether a proxy gets it; the higher precedence wins among allows."""

    port: PortMatch = EVERYTHING
    proxy: Proxy = Proxy.NONE
    precedence: int = 0


ALL_TRAFFIC = (Traffic(),)


@dataclass(frozen=True, eq=False)
class Rule:
    """One item of a policy; compared by identity, since two equal items of two policies are two rules."""

    subject: Selector
    direction: Direction
    peers: tuple[Selector, ...]
    traffic: tuple[Traffic, ...]
    origin: str
    deny: bool = False
    default_deny: bool = True
    """Whether the rule closes the direction for everything that no rule allows."""
    selects_hosts: bool = False
    """A host policy: it selects nodes, never workloads."""
    authenticates: bool = False
    """Whether peers must prove who they are."""
    stage: Stage = Stage.LIVE
    silent: bool = False
    """Whether it denies nothing, not even for want of a proxy."""
    audits: bool = False
    """It says nothing of peers: what others deny its subjects passes, and is reported."""

    @property
    def names_ports(self) -> bool:
        """Tell whether ports are looked up by a name."""
        return any(traffic.port.name for traffic in self.traffic)

    @property
    def prefixes(self) -> set[str]:
        """Return the prefixes that the rule names."""
        return {prefix for peer in self.peers for prefix in peer.prefixes}


class Expected(NamedTuple):
    """Something that a rule names and that should be there; a rule that finds nobody by it deserves a word."""

    path: str
    what: str
    selector: Selector
    deny: bool = False


@dataclass(frozen=True)
class CidrGroup:
    """Prefixes under a name and labels; the identities of what they cover carry these."""

    name: str
    labels: frozenset[Label]
    prefixes: tuple[str, ...]


@dataclass(frozen=True)
class Trial:
    """A test that a document carries: what is to become of one connection."""

    line: str
    """The document's name, the test's place in it and what it says."""
    source: Identity | Network
    destination: Identity | Network
    """A workload by its labels or a reserved identity; or an address."""
    protocol: int
    port: int
    allowed: bool
    direction: Direction | None = None
    """Which end is asked; None: both must allow."""


@dataclass(frozen=True)
class Policy:
    """A document that has been understood; a group of prefixes has no rules."""

    reference: PolicyReference
    rules: tuple[Rule, ...]
    warnings: tuple[str, ...] = ()
    expected: tuple[Expected, ...] = ()
    group: CidrGroup | None = None
    trials: tuple[Trial, ...] = ()
    stage: Stage = Stage.LIVE
    audit_until: datetime | None = None
    """From when on an audited document is enforced."""
    expires: datetime | None = None
    """From when on the document is gone."""

    def at(self, stage: Stage) -> Policy:
        """Return the policy, and each of its rules, at that stage; an audit of workloads that is over has none."""
        if self.stage is stage:
            return self
        rules = (rule for rule in self.rules if stage is Stage.AUDIT or not rule.audits)
        return replace(self, stage=stage, rules=tuple(replace(rule, stage=stage) for rule in rules))

    @property
    def workload_rules(self) -> Iterator[Rule]:
        """Return the rules that select workloads, not nodes."""
        return (rule for rule in self.rules if not rule.selects_hosts)

    @property
    def prefixes(self) -> set[str]:
        """Return the prefixes that the document names."""
        grouped = self.group.prefixes if self.group else ()
        return {prefix for rule in self.rules for prefix in rule.prefixes}.union(grouped)


@dataclass
class Reader:
    """What translation of one document carries along; `path` names the part being read."""

    reference: PolicyReference
    translation: Translation
    warnings: list[str] = field(default_factory=list)
    expected: list[Expected] = field(default_factory=list)

    @property
    def namespace(self) -> str:
        """Return the namespace of the document; empty for clusterwide kinds."""
        return self.reference.namespace

    def origin(self, part: str) -> str:
        """Return the provenance text of one item."""
        return f"{title(self.reference)} {part}"

    def prefix(self, text: str, path: str) -> str:
        """Return the prefix in canonical text; a bare address is a host prefix, host bits are cut off with a warning."""
        if not re.fullmatch(r"[0-9A-Fa-f:.]+(/[0-9]{1,3})?", text):
            refuse(path, f"{text!r} is not a prefix: write it like 10.1.0.0/16 or fd00::/8")
        try:
            numbers = network(text)
        except InvalidInput as error:
            refuse(path, error.message)
        canonical = prefix_text(numbers.version, numbers.first, numbers.length)
        if text.partition("/")[0] != canonical.partition("/")[0] and numbers.version == 4:
            self.warnings.append(f"`{path}`: {text} has host bits and is read as {canonical}")
        return canonical


def title(reference: PolicyReference) -> str:
    """Return kind and name as people read them."""
    name = f"{reference.namespace}/{reference.name}" if reference.namespace else reference.name
    return f"{reference.kind} {name}"


def prefix_text(version: int, first: int, length: int) -> str:
    """Return the canonical text of a prefix."""
    address = ipaddress.IPv4Address(first) if version == 4 else ipaddress.IPv6Address(first)
    return f"{address}/{length}"


def requirements(
    labels: Mapping[str, str] | None,
    expressions: Iterable[tuple[str, str, list[str] | None]],
    path: str,
    prefix: str = "",
) -> list[Requirement]:
    """Return the requirements of a label selector; `prefix` is put before every key. Raises InvalidInput."""
    found = [
        Requirement(source, prefix + key, Operator.IN, (value,))
        for source, key, value in ((*split_key(text), value) for text, value in (labels or {}).items())
    ]
    for number, (text, name, values) in enumerate(expressions):
        source, key = split_key(text)
        operator = Operator(name)
        wants_values = operator in (Operator.IN, Operator.NOT_IN)
        if wants_values != bool(values):
            needs = "needs at least one value" if wants_values else "takes no values"
            refuse(f"{path}.matchExpressions[{number}].values", f"{name} {needs}")
        found.append(Requirement(source, prefix + key, operator, tuple(sorted(set(values or ())))))
    return found


def names_namespace(found: Iterable[Requirement], namespace_key: str) -> bool:
    """Tell whether the requirements already say something of the namespace."""
    return any(
        requirement.source in ("k8s", "any")
        and (requirement.key == namespace_key or requirement.key.startswith(NAMESPACE_LABELS))
        for requirement in found
    )
