"""Which parts of a policy this installation cannot carry out as written. They fail closed, and are named: never ignored in silence."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from services.policy.documents import CiliumDocument, CiliumRule, Egress, EgressDeny, Ingress, Item, PortRule


def limits(document: CiliumDocument) -> Iterator[str]:
    """Yield one text for each part, which begins with the field."""
    parts = [("spec", document.spec)] if document.spec is not None else []
    parts += [(f"specs[{number}]", part) for number, part in enumerate(document.specs or ())]
    for path, part in parts:
        for field, problem in _of_rule(part, path):
            yield f"`{field}`: {problem}"


def _of_rule(part: CiliumRule, path: str) -> Iterator[tuple[str, str]]:
    lists: tuple[tuple[str, bool, Sequence[Item] | None], ...] = (
        ("ingress", False, part.ingress),
        ("ingressDeny", True, part.ingress_deny),
        ("egress", False, part.egress),
        ("egressDeny", True, part.egress_deny),
    )
    for name, deny, items in lists:
        for number, item in enumerate(items or ()):
            where = f"{path}.{name}[{number}]"
            yield from _of_peers(item, where, "this denies everybody" if deny else "this allows nobody")
            yield from _of_traffic(item, where)


def _of_peers(item: Item, path: str, outcome: str) -> Iterator[tuple[str, str]]:
    side = "from" if "ingress" in path else "to"
    if item.nodes:
        yield f"{path}.{side}Nodes", f"labels of nodes are not known here: {outcome}; use the entity remote-node"
    if item.groups:
        yield f"{path}.{side}Groups", f"cloud provider groups are not known here: {outcome}; use a CiliumCIDRGroup"
    if isinstance(item, EgressDeny):
        yield from _of_services(item, path, outcome)
    if isinstance(item, Egress) and item.fqdns:
        yield f"{path}.toFQDNs", f"DNS names are not resolved here: {outcome}; use toCIDRSet"
    if isinstance(item, Egress) and item.fqdns == [] and item.to_ports:
        yield f"{path}.toFQDNs", "the list is empty: this allows nobody (the reference opens the ports to everybody)"


def _of_services(item: EgressDeny, path: str, outcome: str) -> Iterator[tuple[str, str]]:
    for number, service in enumerate(item.services or ()):
        if service.k8s_service is None:
            field = f"{path}.toServices[{number}].k8sServiceSelector"
            yield field, f"labels of services are not known here: {outcome}; name the service"
    if item.services == [] and item.to_ports:
        yield f"{path}.toServices", "the list is empty: this selects nobody (the reference means everybody)"


def _of_traffic(item: Item, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(item, Ingress | Egress) and item.authentication and item.authentication.mode != "disabled":
        yield f"{path}.authentication", "nobody here can authenticate peers: this traffic is refused"
    for number, ports in enumerate(item.to_ports or ()):
        if isinstance(ports, PortRule):
            yield from _of_ports(ports, f"{path}.toPorts[{number}]")


def _of_ports(ports: PortRule, path: str) -> Iterator[tuple[str, str]]:
    if ports.rules is not None and ports.rules.http:
        yield f"{path}.rules.http", "there is no HTTP proxy here: this traffic is refused"
    if ports.rules is not None and ports.rules.dns:
        yield f"{path}.rules.dns", "there is no DNS proxy here: this traffic is refused"
    if ports.server_names:
        yield f"{path}.serverNames", "there is no TLS proxy here: this traffic is refused"
    if ports.listener is not None:
        yield f"{path}.listener", "there is no proxy with listeners here: this traffic is refused"
    for name, given in (("terminatingTLS", ports.terminating_tls), ("originatingTLS", ports.originating_tls)):
        if given is not None:
            yield f"{path}.{name}", "there is no TLS proxy here: this traffic is refused"
