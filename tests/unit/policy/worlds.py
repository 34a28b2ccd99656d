"""Random small worlds for property tests, and a straightforward judge of them that shares nothing with the resolver."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st

from fairlead.schema.policy import Direction, PolicyObject
from services.policy.labels import Identity, cidr_label, implied, make_identity, parse_label
from services.policy.rules import Policy, Rule
from services.policy.selector import Operator, Requirement, Selector

PREFIXES = ["10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24", "0.0.0.0/0", "fd00::/8", "fd00:1::/32", "192.0.2.1/32"]
PORTS = ["0", "80", "81", "443", "6379", "web"]
LABELS = st.fixed_dictionaries(
    {"app": st.sampled_from(["web", "db", "api"])},
    optional={
        "tier": st.sampled_from(["front", "back"]),
        "com.docker.compose.project": st.sampled_from(["shop", "blog"]),
        "fairlead.port.web": st.sampled_from(["80", "443", "81/udp"]),
    },
)


@st.composite
def selectors(draw: st.DrawFn) -> dict[str, Any]:
    labels = draw(
        st.dictionaries(
            st.sampled_from(["app", "any:tier", "k8s:io.kubernetes.pod.namespace", "container:app"]),
            st.sampled_from(["web", "db", "front", "default", "shop"]),
            max_size=2,
        )
    )
    expressions = draw(
        st.lists(
            st.one_of(
                st.builds(
                    lambda key, operator, values: {"key": key, "operator": operator, "values": values},
                    st.sampled_from(["app", "tier", "io.kubernetes.pod.namespace"]),
                    st.sampled_from(["In", "NotIn"]),
                    st.lists(st.sampled_from(["web", "db", "back", "shop"]), min_size=1, max_size=2),
                ),
                st.builds(
                    lambda key, operator: {"key": key, "operator": operator},
                    st.sampled_from(["app", "tier"]),
                    st.sampled_from(["Exists", "DoesNotExist"]),
                ),
            ),
            max_size=2,
        )
    )
    return {"matchLabels": labels, "matchExpressions": expressions}


@st.composite
def ports(draw: st.DrawFn) -> dict[str, Any]:
    port = draw(st.sampled_from(PORTS))
    found: dict[str, Any] = {"port": port, "protocol": draw(st.sampled_from(["TCP", "UDP", "SCTP", "ANY"]))}
    if port not in ("0", "web") and draw(st.booleans()):
        found["endPort"] = draw(st.sampled_from([79, 90, 500, 65535]))
    return found


@st.composite
def items(draw: st.DrawFn, side: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    match draw(st.sampled_from(["none", "endpoints", "entities", "cidr", "set"])):
        case "endpoints":
            found[f"{side}Endpoints"] = draw(st.lists(selectors(), max_size=2))
        case "entities":
            entities = st.sampled_from(["all", "world", "host", "cluster", "none", "health"])
            found[f"{side}Entities"] = draw(st.lists(entities, max_size=2))
        case "cidr":
            found[f"{side}CIDR"] = draw(st.lists(st.sampled_from(PREFIXES), max_size=2))
        case "set":
            holes = draw(st.lists(st.sampled_from(["10.1.0.0/16", "10.1.2.0/24"]), max_size=2))
            found[f"{side}CIDRSet"] = [{"cidr": draw(st.sampled_from(["10.0.0.0/8", "0.0.0.0/0"])), "except": holes}]
        case _:
            pass
    match draw(st.sampled_from(["none", "ports", "icmps"])):
        case "ports":
            rules = st.lists(st.builds(lambda given: {"ports": given}, st.lists(ports(), max_size=3)), max_size=2)
            found["toPorts"] = draw(rules)
        case "icmps":
            fields = st.lists(st.sampled_from([{"type": 8}, {"type": 3}, {"type": 128, "family": "IPv6"}]), max_size=2)
            found["icmps"] = [{"fields": draw(fields)}]
        case _:
            pass
    return found


@st.composite
def documents(draw: st.DrawFn) -> PolicyObject:
    kind = draw(st.sampled_from(["CiliumNetworkPolicy", "CiliumClusterwideNetworkPolicy"]))
    metadata: dict[str, Any] = {"name": draw(st.sampled_from(["a", "b", "c"]))}
    if kind == "CiliumNetworkPolicy" and draw(st.booleans()):
        metadata["namespace"] = draw(st.sampled_from(["shop", "blog"]))
    spec: dict[str, Any] = {"endpointSelector": draw(selectors())}
    names = ["ingress", "ingressDeny", "egress", "egressDeny"]
    for name in draw(st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True)):
        spec[name] = draw(st.lists(items("from" if name.startswith("in") else "to"), min_size=1, max_size=2))
    if draw(st.booleans()):
        spec["enableDefaultDeny"] = draw(
            st.dictionaries(st.sampled_from(["ingress", "egress"]), st.booleans(), max_size=2)
        )
    return PolicyObject(apiVersion="cilium.io/v2", kind=kind, metadata=metadata, spec=spec)


def workload(number: int, labels: Mapping[str, str]) -> Identity:
    parsed = [parse_label(f"container:{key}={value}") for key, value in labels.items()]
    return make_identity(number, implied(parsed, "default"))


def prefix_identity(number: int, prefix: str) -> Identity:
    return make_identity(number, [cidr_label(prefix), parse_label("reserved:world")])


def meets(requirement: Requirement, identity: Identity) -> bool:
    """Judge one condition by the labels' text alone."""
    if requirement.source == "cidr":
        own = [label.key.replace("-", ":") for label in identity.labels if label.source == "cidr"]
        outer = ipaddress.ip_network(requirement.key)
        inside = any(
            ipaddress.ip_network(text).version == outer.version and ipaddress.ip_network(text).subnet_of(outer)  # type: ignore[arg-type] # the versions are equal
            for text in own
        )
        return inside is (requirement.operator is Operator.EXISTS)
    values = [
        label.value
        for label in identity.labels
        if label.key == requirement.key and requirement.source in ("any", label.source)
    ]
    return {
        Operator.IN: any(value in requirement.values for value in values),
        Operator.NOT_IN: all(value not in requirement.values for value in values),
        Operator.EXISTS: values != [],
        Operator.DOES_NOT_EXIST: values == [],
    }[requirement.operator]


def selects(selector: Selector, identity: Identity) -> bool:
    return all(meets(requirement, identity) for requirement in selector)


def hits(rule: Rule, subject: Identity, peer: Identity, protocol: int, port: int) -> bool:
    """Tell whether a rule speaks of this traffic of the peer."""
    if not any(selects(selector, peer) for selector in rule.peers):
        return False
    owner = subject if rule.direction is Direction.INGRESS else peer
    for traffic in rule.traffic:
        match = traffic.port
        first, last = match.port, match.end_port or match.port
        if match.name:
            named = owner.ports.get(match.name)
            if named is None or named.protocol != match.protocol:
                continue
            first = last = named.port
        if match.protocol in (0, protocol) and (first == 0 or first <= port <= last):
            return True
    return False


def judge(
    policies: list[Policy], subject: Identity, direction: Direction, peer: Identity, protocol: int, port: int
) -> bool:
    """Tell whether the subject's policies allow the traffic, rule by rule, without entries or precedence."""
    rules = [
        rule
        for policy in policies
        for rule in policy.rules
        if rule.direction is direction and selects(rule.subject, subject)
    ]
    speaking = [rule for rule in rules if hits(rule, subject, peer, protocol, port)]
    if any(rule.deny for rule in speaking):
        return False
    if speaking or not any(rule.default_deny for rule in rules):
        return True
    return direction is Direction.INGRESS and peer.number == 1
