"""networking.k8s.io/v1 NetworkPolicy into rules, with the checks of its API."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fairlead.schema.policy import Direction
from services.policy.cilium_peers import cidr_selector, excepted_prefixes
from services.policy.documents import (
    IpBlock,
    KubernetesEgress,
    KubernetesIngress,
    KubernetesPeer,
    KubernetesPort,
    KubernetesSpec,
    LabelSelector,
)
from services.policy.labels import CLUSTER_KEY, NAMESPACE_KEY, NAMESPACE_LABELS
from services.policy.ports import kubernetes_port, refuse
from services.policy.rules import ALL_TRAFFIC, Reader, Rule, Traffic, requirements
from services.policy.selector import WILDCARD, Requirement, Selector, equals, exists

_Items = Sequence[KubernetesIngress | KubernetesEgress]


def read(spec: KubernetesSpec, reader: Reader) -> list[Rule]:
    """Return the rules of the document. Raises InvalidInput naming the field."""
    types = spec.policy_types or (["Ingress", "Egress"] if spec.egress else ["Ingress"])
    subject = Selector(
        [*_requirements(spec.pod_selector, "spec.podSelector"), equals("k8s", NAMESPACE_KEY, reader.namespace)]
    )
    if spec.ingress and "Ingress" not in types:
        reader.warnings.append("`spec.ingress` is enforced although `policyTypes` does not list Ingress")
    if spec.egress and "Egress" not in types:
        reader.warnings.append("`spec.egress` is enforced although `policyTypes` does not list Egress")
    found = list(_items(spec.ingress or (), Direction.INGRESS, "from", subject, reader))
    found += _items(spec.egress or (), Direction.EGRESS, "to", subject, reader)
    for name, direction in (("Ingress", Direction.INGRESS), ("Egress", Direction.EGRESS)):
        if name in types and not any(rule.direction is direction for rule in found):
            origin = reader.origin(f"policyTypes[{name}]")
            found.append(Rule(subject=subject, direction=direction, peers=(), traffic=ALL_TRAFFIC, origin=origin))
    return found


def _items(items: _Items, direction: Direction, side: str, subject: Selector, reader: Reader) -> Iterator[Rule]:
    for number, item in enumerate(items):
        part = f"{direction.name.lower()}[{number}]"
        path = f"spec.{part}"
        peers = [_peer(peer, f"{path}.{side}[{n}]", reader) for n, peer in enumerate(item.peers or ())]
        yield Rule(
            subject=subject,
            direction=direction,
            peers=tuple(dict.fromkeys(peers)) or (WILDCARD,),
            traffic=_ports(item.ports or (), path),
            origin=reader.origin(part),
        )


def _ports(ports: Sequence[KubernetesPort], path: str) -> tuple[Traffic, ...]:
    found = (kubernetes_port(port, f"{path}.ports[{number}]") for number, port in enumerate(ports))
    return tuple(Traffic(match) for match in found) or ALL_TRAFFIC


def _peer(peer: KubernetesPeer, path: str, reader: Reader) -> Selector:
    if peer.ip_block is not None:
        if peer.pod_selector is not None or peer.namespace_selector is not None:
            refuse(f"{path}.ipBlock", "ipBlock and selectors cannot stand in one peer: write two peers")
        return _ip_block(peer.ip_block, f"{path}.ipBlock", reader)
    if peer.pod_selector is None and peer.namespace_selector is None:
        refuse(path, "a peer is needed: podSelector, namespaceSelector or ipBlock")
    found: list[Requirement] = []
    if peer.pod_selector is not None:
        found += _requirements(peer.pod_selector, f"{path}.podSelector")
    if peer.namespace_selector is None:
        found.append(equals("k8s", NAMESPACE_KEY, reader.namespace))
    else:
        namespaces = _requirements(peer.namespace_selector, f"{path}.namespaceSelector", NAMESPACE_LABELS)
        found += namespaces or [exists("k8s", NAMESPACE_KEY)]
        # Only workloads have a namespace; a selector made of negatives alone would let the world in otherwise.
        found.append(exists("k8s", NAMESPACE_KEY))
    return Selector([*found, equals("k8s", CLUSTER_KEY, reader.translation.cluster)])


def _ip_block(block: IpBlock, path: str, reader: Reader) -> Selector:
    for field, text in [("cidr", block.cidr), *((f"except[{n}]", hole) for n, hole in enumerate(block.except_ or ()))]:
        if "/" not in text:
            refuse(f"{path}.{field}", f"{text!r} has no length: write it like {text}/32 or {text}/128")
    prefix = reader.prefix(block.cidr, f"{path}.cidr")
    holes = excepted_prefixes(block.cidr, block.except_, path, reader)
    if prefix in holes:
        refuse(f"{path}.except[{holes.index(prefix)}]", f"{prefix} must be smaller than the `cidr` it is cut from")
    return cidr_selector(prefix, holes, reader)


def _requirements(selector: LabelSelector, path: str, prefix: str = "") -> list[Requirement]:
    expressions = [(item.key, item.operator, item.values) for item in selector.match_expressions or ()]
    return requirements(selector.match_labels, expressions, path, prefix)
