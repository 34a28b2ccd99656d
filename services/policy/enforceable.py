"""Which parts of a policy the datapath cannot enforce yet. They are refused by name, never ignored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from services.policy.documents import CiliumDocument, CiliumRule, Egress, EgressDeny, Ingress, Item, PortRule
from services.policy.ports import refuse


def check_enforceable(document: CiliumDocument) -> None:
    """Raise InvalidInput naming the first field that cannot be enforced."""
    parts = [("spec", document.spec)] if document.spec is not None else []
    parts += [(f"specs[{number}]", part) for number, part in enumerate(document.specs or ())]
    for path, part in parts:
        for field, problem in _problems(part, path):
            refuse(field, f"{problem} not enforced yet: leave the field out")


def _problems(part: CiliumRule, path: str) -> Iterator[tuple[str, str]]:
    if part.node_selector is not None:
        yield f"{path}.nodeSelector", "host policies are"
    lists: tuple[tuple[str, Sequence[Item] | None], ...] = (
        ("ingress", part.ingress),
        ("ingressDeny", part.ingress_deny),
        ("egress", part.egress),
        ("egressDeny", part.egress_deny),
    )
    for name, items in lists:
        for number, item in enumerate(items or ()):
            yield from _item_problems(item, f"{path}.{name}[{number}]")


def _item_problems(item: Item, path: str) -> Iterator[tuple[str, str]]:
    side = "from" if "ingress" in path else "to"
    if item.nodes is not None:
        yield f"{path}.{side}Nodes", "node selectors are"
    if item.groups is not None:
        yield f"{path}.{side}Groups", "cloud provider groups are"
    for number, cidr in enumerate(item.cidr_set or ()):
        if cidr.cidr is None:
            yield f"{path}.{side}CIDRSet[{number}]", "CIDR groups are"
    if isinstance(item, EgressDeny) and item.services is not None:
        yield f"{path}.toServices", "services are"
    if isinstance(item, Egress) and item.fqdns is not None:
        yield f"{path}.toFQDNs", "DNS names are"
    if isinstance(item, Ingress | Egress) and item.authentication and item.authentication.mode != "disabled":
        yield f"{path}.authentication", "mutual authentication is"
    for number, ports in enumerate(item.to_ports or ()):
        if isinstance(ports, PortRule):
            yield from _port_problems(ports, f"{path}.toPorts[{number}]")


def _port_problems(ports: PortRule, path: str) -> Iterator[tuple[str, str]]:
    if ports.rules is not None and (ports.rules.http or ports.rules.dns):
        yield f"{path}.rules", "L7 rules are"
    if ports.server_names:
        yield f"{path}.serverNames", "TLS server names are"
    if ports.listener is not None:
        yield f"{path}.listener", "proxy listeners are"
    if ports.terminating_tls is not None or ports.originating_tls is not None:
        yield f"{path}.terminatingTLS", "TLS termination is"
