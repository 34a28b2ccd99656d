"""CiliumNetworkPolicy and CiliumClusterwideNetworkPolicy into rules."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fairlead.schema.policy import Direction
from services.policy.cilium_checks import check_host_item, check_port_rule
from services.policy.cilium_peers import label_requirements, peers_of
from services.policy.documents import (
    CiliumDocument,
    CiliumRule,
    Egress,
    IcmpRule,
    Ingress,
    Item,
    LabelSelector,
    PortRule,
)
from services.policy.labels import NAMESPACE_KEY
from services.policy.ports import PortMatch, icmp_match, port_matches, refuse
from services.policy.rules import (
    ALL_TRAFFIC,
    CILIUM_NAMESPACED,
    Proxy,
    Reader,
    Rule,
    Traffic,
)
from services.policy.selector import Selector, equals

_LISTENER_WITHOUT_PRIORITY = 126
_PRIORITY_BY_PROXY = {Proxy.HTTP: 101, Proxy.TLS: 116, Proxy.DNS: 121, Proxy.LISTENER: _LISTENER_WITHOUT_PRIORITY}


def read(document: CiliumDocument, reader: Reader) -> list[Rule]:
    """Return the rules of the document. Raises InvalidInput naming the field."""
    parts: list[tuple[str, CiliumRule]] = [("spec", document.spec)] if document.spec is not None else []
    parts += [(f"specs[{number}]", part) for number, part in enumerate(document.specs or ())]
    if not parts:
        refuse("spec", "`spec` or `specs` is needed")
    return [rule for path, part in parts for rule in _read_part(part, path, reader)]


def _read_part(part: CiliumRule, path: str, reader: Reader) -> Iterator[Rule]:
    subject = _subject(part, path, reader)
    lists: tuple[tuple[str, Direction, bool, Sequence[Item] | None], ...] = (
        ("ingress", Direction.INGRESS, False, part.ingress),
        ("ingressDeny", Direction.INGRESS, True, part.ingress_deny),
        ("egress", Direction.EGRESS, False, part.egress),
        ("egressDeny", Direction.EGRESS, True, part.egress_deny),
    )
    if not any(items for _, _, _, items in lists):
        refuse(path, "at least one of ingress, ingressDeny, egress and egressDeny must hold an item")
    asked = part.enable_default_deny
    closes = {
        Direction.INGRESS: asked is None or asked.ingress is not False,
        Direction.EGRESS: asked is None or asked.egress is not False,
    }
    from_init = any(requirement[:2] == ("reserved", "init") for requirement in subject)
    for name, direction, deny, items in lists:
        for number, item in enumerate(items or ()):
            where = f"{path}.{name}[{number}]"
            if part.node_selector is not None:
                check_host_item(item, where, direction)
            yield Rule(
                subject=subject,
                direction=direction,
                peers=peers_of(item, where, reader, matches_init=from_init, deny=deny),
                traffic=_traffic(item, where, direction, reader),
                origin=reader.origin(where.removeprefix("spec.")),
                deny=deny,
                default_deny=closes[direction],
                selects_hosts=part.node_selector is not None,
                authenticates=_authenticates(item),
            )


def _subject(part: CiliumRule, path: str, reader: Reader) -> Selector:
    """Return whom the rule applies to; a namespaced policy applies to its own namespace, whatever it says."""
    if part.node_selector is not None and reader.reference.kind == CILIUM_NAMESPACED:
        refuse(f"{path}.nodeSelector", "only a CiliumClusterwideNetworkPolicy can select nodes")
    if (part.endpoint_selector is None) == (part.node_selector is None):
        refuse(path, "exactly one of `endpointSelector` and `nodeSelector` is needed")
    if part.endpoint_selector is None:
        return Selector(label_requirements(part.node_selector or LabelSelector(), f"{path}.nodeSelector"))
    found = label_requirements(part.endpoint_selector, f"{path}.endpointSelector")
    if reader.namespace:
        written = (part.endpoint_selector.match_labels or {}).get(f"k8s:{NAMESPACE_KEY}")
        if written is not None:
            found.remove(equals("k8s", NAMESPACE_KEY, written))
            if written != reader.namespace:
                reader.warnings.append(
                    f"`{path}.endpointSelector`: the namespace {written} is ignored: the policy applies to its own, "
                    f"{reader.namespace}"
                )
        found.append(equals("k8s", NAMESPACE_KEY, reader.namespace))
    return Selector(found)


def _traffic(item: Item, path: str, direction: Direction, reader: Reader) -> tuple[Traffic, ...]:
    if item.icmps and item.to_ports:
        refuse(f"{path}.icmps", "icmps and toPorts cannot stand in one item: write two items")
    if item.icmps:
        return tuple(Traffic(match) for match in _icmps(item.icmps, path))
    if not item.to_ports:
        return ALL_TRAFFIC
    found: list[Traffic] = []
    for number, ports in enumerate(item.to_ports):
        where = f"{path}.toPorts[{number}]"
        matches = [
            match
            for index, port in enumerate(ports.ports or ())
            for match in port_matches(port, f"{where}.ports[{index}]", reader.warnings)
        ]
        if isinstance(ports, PortRule):
            check_port_rule(ports, matches, where, direction)
            found += [_proxied(ports, match) for match in matches]
        else:
            found += [Traffic(match) for match in matches]
    return tuple(found)


def _authenticates(item: Item) -> bool:
    asked = item.authentication if isinstance(item, Ingress | Egress) else None
    return asked is not None and asked.mode != "disabled"


def _icmps(rules: Sequence[IcmpRule], path: str) -> Iterator[PortMatch]:
    for number, rule in enumerate(rules):
        for index, item in enumerate(rule.fields or ()):
            yield icmp_match(item, f"{path}.icmps[{number}].fields[{index}]")


def _proxied(ports: PortRule, match: PortMatch) -> Traffic:
    proxy = Proxy.NONE
    if ports.listener is not None:
        proxy = Proxy.LISTENER
    elif ports.rules is not None and ports.rules.http:
        proxy = Proxy.HTTP
    elif ports.rules is not None and ports.rules.dns:
        proxy = Proxy.DNS
    elif ports.server_names or ports.terminating_tls or ports.originating_tls:
        proxy = Proxy.TLS
    if proxy is Proxy.NONE:
        return Traffic(match)
    explicit = ports.listener.priority if ports.listener is not None else None
    return Traffic(match, proxy, 255 - (explicit or _PRIORITY_BY_PROXY[proxy]))
