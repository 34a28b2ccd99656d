"""Policy documents with types: what may stand in which field, before any meaning is given to it.

An absent field is None and an empty list is empty: policies mean different things by the two. Unknown fields are refused, since
people write these files and a misspelt field would silently widen or narrow a rule.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

OperatorName = Literal["In", "NotIn", "Exists", "DoesNotExist"]
ProtocolName = Literal["ANY", "TCP", "UDP", "SCTP", "VRRP", "IGMP"]
EntityName = Literal[
    "all", "world", "world-ipv4", "world-ipv6", "cluster", "cluster-mesh", "host", "init", "ingress",
    "unmanaged", "remote-node", "health", "none", "kube-apiserver",
]  # fmt: skip


class Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """Some part of a document; names are written as in Kubernetes."""


class Expression(Part, frozen=True, kw_only=True):
    """One condition on labels."""

    key: Annotated[str, Meta(min_length=1, max_length=512)]
    operator: OperatorName
    values: list[str] | None = None


class LabelSelector(Part, frozen=True, kw_only=True):
    """Labels and conditions that must all hold; `{}` holds for everything."""

    match_labels: dict[str, str] | None = None
    match_expressions: list[Expression] | None = None


class CidrItem(Part, frozen=True, kw_only=True):
    """A prefix with holes, or a group of prefixes."""

    cidr: str | None = None
    cidr_group_ref: str | None = None
    cidr_group_selector: LabelSelector | None = None
    except_: list[str] | None = msgspec.field(default=None, name="except")


class Fqdn(Part, frozen=True, kw_only=True):
    """DNS names, by name or by pattern."""

    match_name: Annotated[str, Meta(max_length=255)] | None = None
    match_pattern: Annotated[str, Meta(max_length=255)] | None = None


class PortProtocol(Part, frozen=True, kw_only=True):
    """A port, a range or a port's name."""

    port: str = ""
    end_port: Annotated[int, Meta(ge=0, le=65535)] | None = None
    protocol: ProtocolName = "ANY"


class HeaderMatch(Part, frozen=True, kw_only=True):
    """What an HTTP header must hold, and what to do if it does not."""

    name: str
    value: str | None = None
    secret: dict[str, str] | None = None
    mismatch: Literal["LOG", "ADD", "DELETE", "REPLACE"] | None = None


Pattern = Annotated[str, Meta(max_length=4096)]
"""A regular expression for the proxy."""


class HttpRule(Part, frozen=True, kw_only=True):
    """A request that is allowed; every field that is there must match."""

    method: Pattern | None = None
    path: Pattern | None = None
    host: Pattern | None = None
    headers: list[str] | None = None
    header_matches: list[HeaderMatch] | None = None


class L7Rules(Part, frozen=True, kw_only=True):
    """Rules above L4; one kind only."""

    http: list[HttpRule] | None = None
    dns: list[Fqdn] | None = None


class EnvoyConfig(Part, frozen=True, kw_only=True):
    """Where a listener is defined."""

    kind: Literal["CiliumEnvoyConfig", "CiliumClusterwideEnvoyConfig"] | None = None
    name: Annotated[str, Meta(min_length=1)]


class Listener(Part, frozen=True, kw_only=True):
    """A proxy's listener that gets the traffic."""

    envoy_config: EnvoyConfig
    name: Annotated[str, Meta(min_length=1)]
    priority: Annotated[int, Meta(ge=1, le=100)] | None = None


class DenyPortRule(Part, frozen=True, kw_only=True):
    """Ports of a deny rule."""

    ports: Annotated[list[PortProtocol], Meta(max_length=40)] | None = None


class PortRule(DenyPortRule, frozen=True, kw_only=True):
    """Ports of an allow rule, and what is asked of the traffic there."""

    rules: L7Rules | None = None
    server_names: list[Annotated[str, Meta(min_length=1, max_length=255)]] | None = None
    listener: Listener | None = None
    terminating_tls: dict[str, Any] | None = msgspec.field(default=None, name="terminatingTLS")
    originating_tls: dict[str, Any] | None = msgspec.field(default=None, name="originatingTLS")


class IcmpField(Part, frozen=True, kw_only=True):
    """One type of ICMP message, by number or by name."""

    type: int | str
    family: Literal["IPv4", "IPv6"] = "IPv4"


class IcmpRule(Part, frozen=True, kw_only=True):
    """Types of ICMP messages."""

    fields: Annotated[list[IcmpField], Meta(max_length=40)] | None = None


class Authentication(Part, frozen=True, kw_only=True):
    """Whether peers must prove who they are."""

    mode: Literal["disabled", "required", "test-always-fail"]


class K8sService(Part, frozen=True, kw_only=True):
    """A service by its name."""

    service_name: str
    namespace: str | None = None


class K8sServiceSelector(Part, frozen=True, kw_only=True):
    """Services by their labels."""

    selector: LabelSelector
    namespace: str | None = None


class ServiceItem(Part, frozen=True, kw_only=True):
    """Services whose backends are meant."""

    k8s_service: K8sService | None = None
    k8s_service_selector: K8sServiceSelector | None = None


class IngressDeny(Part, frozen=True, kw_only=True):
    """One item of `ingressDeny`."""

    endpoints: list[LabelSelector] | None = msgspec.field(default=None, name="fromEndpoints")
    nodes: list[LabelSelector] | None = msgspec.field(default=None, name="fromNodes")
    entities: list[EntityName] | None = msgspec.field(default=None, name="fromEntities")
    cidr: list[str] | None = msgspec.field(default=None, name="fromCIDR")
    cidr_set: list[CidrItem] | None = msgspec.field(default=None, name="fromCIDRSet")
    groups: list[dict[str, Any]] | None = msgspec.field(default=None, name="fromGroups")
    requires: list[LabelSelector] | None = msgspec.field(default=None, name="fromRequires")
    to_ports: list[DenyPortRule] | None = None
    icmps: list[IcmpRule] | None = None


class Ingress(IngressDeny, frozen=True, kw_only=True):
    """One item of `ingress`."""

    to_ports: list[PortRule] | None = None  # type: ignore[assignment] # the wider form; the list is never written to
    authentication: Authentication | None = None


class EgressDeny(Part, frozen=True, kw_only=True):
    """One item of `egressDeny`."""

    endpoints: list[LabelSelector] | None = msgspec.field(default=None, name="toEndpoints")
    nodes: list[LabelSelector] | None = msgspec.field(default=None, name="toNodes")
    entities: list[EntityName] | None = msgspec.field(default=None, name="toEntities")
    cidr: list[str] | None = msgspec.field(default=None, name="toCIDR")
    cidr_set: list[CidrItem] | None = msgspec.field(default=None, name="toCIDRSet")
    groups: list[dict[str, Any]] | None = msgspec.field(default=None, name="toGroups")
    services: list[ServiceItem] | None = msgspec.field(default=None, name="toServices")
    requires: list[LabelSelector] | None = msgspec.field(default=None, name="toRequires")
    to_ports: list[DenyPortRule] | None = None
    icmps: list[IcmpRule] | None = None


class Egress(EgressDeny, frozen=True, kw_only=True):
    """One item of `egress`."""

    to_ports: list[PortRule] | None = None  # type: ignore[assignment] # the wider form; the list is never written to
    fqdns: list[Fqdn] | None = msgspec.field(default=None, name="toFQDNs")
    authentication: Authentication | None = None


Item = Ingress | IngressDeny | Egress | EgressDeny


class EnableDefaultDeny(Part, frozen=True, kw_only=True):
    """Whether the rule's allows and denies close the direction for everything else."""

    ingress: bool | None = None
    egress: bool | None = None


class Log(Part, frozen=True, kw_only=True):
    """Text that flow logs carry."""

    value: Annotated[str, Meta(max_length=32)] = ""


class CiliumRule(Part, frozen=True, kw_only=True):
    """`spec`, or one of `specs`, of the two Cilium kinds."""

    endpoint_selector: LabelSelector | None = None
    node_selector: LabelSelector | None = None
    ingress: list[Ingress] | None = None
    ingress_deny: list[IngressDeny] | None = None
    egress: list[Egress] | None = None
    egress_deny: list[EgressDeny] | None = None
    enable_default_deny: EnableDefaultDeny | None = None
    labels: list[dict[str, str]] | None = None
    description: str | None = None
    log: Log | None = None


class CiliumDocument(Part, frozen=True, kw_only=True):
    """What CiliumNetworkPolicy and CiliumClusterwideNetworkPolicy hold beside their names."""

    spec: CiliumRule | None = None
    specs: list[CiliumRule] | None = None


class IpBlock(Part, frozen=True, kw_only=True):
    """A prefix with holes."""

    cidr: str
    except_: list[str] | None = msgspec.field(default=None, name="except")


class KubernetesPeer(Part, frozen=True, kw_only=True):
    """Pods, namespaces, pods in namespaces, or a prefix."""

    pod_selector: LabelSelector | None = None
    namespace_selector: LabelSelector | None = None
    ip_block: IpBlock | None = None


class KubernetesPort(Part, frozen=True, kw_only=True):
    """A port, a range, a port's name, or every port of the protocol."""

    port: int | str | None = None
    end_port: int | None = None
    protocol: Literal["TCP", "UDP", "SCTP"] = "TCP"


class KubernetesIngress(Part, frozen=True, kw_only=True):
    """One item of `ingress`."""

    peers: list[KubernetesPeer] | None = msgspec.field(default=None, name="from")
    ports: list[KubernetesPort] | None = None


class KubernetesEgress(Part, frozen=True, kw_only=True):
    """One item of `egress`."""

    peers: list[KubernetesPeer] | None = msgspec.field(default=None, name="to")
    ports: list[KubernetesPort] | None = None


class KubernetesSpec(Part, frozen=True, kw_only=True):
    """`spec` of a NetworkPolicy."""

    pod_selector: LabelSelector
    policy_types: list[Literal["Ingress", "Egress"]] | None = None
    ingress: list[KubernetesIngress] | None = None
    egress: list[KubernetesEgress] | None = None


class KubernetesDocument(Part, frozen=True, kw_only=True):
    """What a NetworkPolicy holds beside its name."""

    spec: KubernetesSpec
