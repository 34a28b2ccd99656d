"""CiliumNetworkPolicy and CiliumClusterwideNetworkPolicy into rules."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fairlead.schema.policy import Direction
from services.policy.cilium_checks import check_fqdn, check_item, check_port_rule
from services.policy.documents import (
    CidrItem,
    CiliumDocument,
    CiliumRule,
    Egress,
    EgressDeny,
    IcmpRule,
    Item,
    LabelSelector,
    PortRule,
)
from services.policy.labels import CLUSTER_KEY, NAMESPACE_KEY, network
from services.policy.ports import PortMatch, icmp_match, port_matches, refuse
from services.policy.rules import (
    ALL_TRAFFIC,
    CILIUM_NAMESPACED,
    Proxy,
    Reader,
    Rule,
    Traffic,
    ZeroPrefix,
    names_namespace,
    requirements,
)
from services.policy.selector import WILDCARD, Operator, Requirement, Selector, equals, exists, reserved

_LISTENER_WITHOUT_PRIORITY = 126
_PRIORITY_BY_PROXY = {Proxy.HTTP: 101, Proxy.TLS: 116, Proxy.DNS: 121, Proxy.LISTENER: _LISTENER_WITHOUT_PRIORITY}
_CLUSTER_ENTITY = ("host", "remote-node", "init", "ingress", "health", "unmanaged", "kube-apiserver")


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
            yield Rule(
                subject=subject,
                direction=direction,
                peers=_peers(item, where, reader, matches_init=from_init),
                traffic=_traffic(item, where, direction, reader),
                origin=reader.origin(where.removeprefix("spec.")),
                deny=deny,
                default_deny=closes[direction],
                selects_hosts=part.node_selector is not None,
            )


def _subject(part: CiliumRule, path: str, reader: Reader) -> Selector:
    """Return whom the rule applies to; a namespaced policy applies to its own namespace, whatever it says."""
    if part.node_selector is not None and reader.reference.kind == CILIUM_NAMESPACED:
        refuse(f"{path}.nodeSelector", "only a CiliumClusterwideNetworkPolicy can select nodes")
    if (part.endpoint_selector is None) == (part.node_selector is None):
        refuse(path, "exactly one of `endpointSelector` and `nodeSelector` is needed")
    if part.endpoint_selector is None:
        return Selector(_requirements(part.node_selector or LabelSelector(), f"{path}.nodeSelector"))
    found = _requirements(part.endpoint_selector, f"{path}.endpointSelector")
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


def _requirements(selector: LabelSelector, path: str) -> list[Requirement]:
    expressions = [(item.key, item.operator, item.values) for item in selector.match_expressions or ()]
    return requirements(selector.match_labels, expressions, path)


def _peers(item: Item, path: str, reader: Reader, *, matches_init: bool) -> tuple[Selector, ...]:
    """Return who is meant: nobody where a list is there and empty, anybody where no list is there but ports are."""
    check_item(item, path)
    services = item.services if isinstance(item, EgressDeny) else None
    fqdns = item.fqdns if isinstance(item, Egress) else None
    lists = (item.endpoints, item.nodes, item.entities, item.cidr, item.cidr_set, item.groups, services, fqdns)
    if any(given is not None and not given for given in lists):
        return ()
    if all(given is None for given in lists):
        return (WILDCARD,) if item.to_ports or item.icmps else ()
    side = "from" if "ingress" in path else "to"
    peers = [
        _endpoint_peer(given, f"{path}.{side}Endpoints[{number}]", reader, matches_init=matches_init)
        for number, given in enumerate(item.endpoints or ())
    ]
    peers += [
        _node_peer(given, f"{path}.{side}Nodes[{number}]", reader) for number, given in enumerate(item.nodes or ())
    ]
    peers += [selector for entity in item.entities or () for selector in _entity(entity, reader)]
    peers += [_cidr(given, f"{path}.{side}CIDR[{number}]", reader) for number, given in enumerate(item.cidr or ())]
    peers += [_cidr_item(given, f"{path}.{side}CIDRSet[{n}]", reader) for n, given in enumerate(item.cidr_set or ())]
    for number, name in enumerate(fqdns or ()):
        peers.append(Selector([exists("fqdn", check_fqdn(name, f"{path}.toFQDNs[{number}]"))]))
    return tuple(dict.fromkeys(peers))


def _endpoint_peer(selector: LabelSelector, path: str, reader: Reader, *, matches_init: bool) -> Selector:
    """Return the peers' selector, limited to the policy's namespace and the local cluster unless it names others."""
    found = _requirements(selector, path)
    if any(requirement.source == "reserved" for requirement in found):
        return Selector(found)
    if not names_namespace(found, NAMESPACE_KEY):
        if reader.namespace:
            found.append(equals("k8s", NAMESPACE_KEY, reader.namespace))
        elif not matches_init:
            found.append(exists("k8s", NAMESPACE_KEY))
    return Selector(_in_cluster(found, reader))


def _node_peer(selector: LabelSelector, path: str, reader: Reader) -> Selector:
    found = _requirements(selector, path)
    return Selector([*_in_cluster(found, reader), exists("reserved", "remote-node")])


def _in_cluster(found: list[Requirement], reader: Reader) -> list[Requirement]:
    if any(item.key == CLUSTER_KEY and item.source in ("k8s", "any") for item in found):
        return found
    return [*found, equals("k8s", CLUSTER_KEY, reader.translation.cluster)]


def _entity(name: str, reader: Reader) -> list[Selector]:
    if name == "all":
        return [WILDCARD]
    if name == "world":
        return [reserved("world"), reserved("world-ipv4"), reserved("world-ipv6")]
    if name == "cluster":
        return [*map(reserved, _CLUSTER_ENTITY), Selector([equals("k8s", CLUSTER_KEY, reader.translation.cluster)])]
    if name == "cluster-mesh":
        return [*map(reserved, _CLUSTER_ENTITY), Selector([exists("k8s", CLUSTER_KEY)])]
    return [reserved(name)]


def cidr_selector(prefix: str, excepted: Sequence[str], reader: Reader) -> Selector:
    """Return the selector of a prefix in canonical text, without the excepted ones."""
    holes = (_inside(hole, Operator.DOES_NOT_EXIST, reader) for hole in excepted)
    return Selector([_inside(prefix, Operator.EXISTS, reader), *holes])


def _inside(prefix: str, operator: Operator, reader: Reader) -> Requirement:
    """Return the requirement to lie in the prefix, or not; a prefix of length 0 may stand for the world."""
    numbers = network(prefix)
    zero = reader.translation.zero_prefix
    if numbers.length > 0 or zero is ZeroPrefix.PREFIX:
        return Requirement("cidr", prefix, operator)
    family = "" if zero is ZeroPrefix.WORLD else f"-ipv{numbers.version}"
    return Requirement("reserved", f"world{family}", operator)


def _cidr(text: str, path: str, reader: Reader) -> Selector:
    return cidr_selector(reader.prefix(text, path), (), reader)


def _cidr_item(item: CidrItem, path: str, reader: Reader) -> Selector:
    kinds = [item.cidr, item.cidr_group_ref, item.cidr_group_selector]
    if sum(kind is not None for kind in kinds) != 1:
        refuse(path, "exactly one of `cidr`, `cidrGroupRef` and `cidrGroupSelector` is needed")
    holes = excepted_prefixes(item.cidr, item.except_, path, reader)
    if item.cidr is not None:
        return cidr_selector(reader.prefix(item.cidr, f"{path}.cidr"), holes, reader)
    excepted = [_inside(hole, Operator.DOES_NOT_EXIST, reader) for hole in holes]
    if item.cidr_group_ref is not None:
        return Selector([exists("cidrgroup", f"io.cilium.policy.cidrgroupname/{item.cidr_group_ref}"), *excepted])
    group = _requirements(item.cidr_group_selector or LabelSelector(), f"{path}.cidrGroupSelector")
    labels = [requirement._replace(source="cidrgroup") for requirement in group]
    return Selector([*labels, *excepted])


def excepted_prefixes(cidr: str | None, holes: list[str] | None, path: str, reader: Reader) -> list[str]:
    """Return the holes in canonical text. Raises InvalidInput for one outside the prefix."""
    found = [reader.prefix(hole, f"{path}.except[{number}]") for number, hole in enumerate(holes or ())]
    if cidr is not None:
        outer = network(reader.prefix(cidr, f"{path}.cidr"))
        for number, hole in enumerate(found):
            if not outer.covers(network(hole)):
                refuse(f"{path}.except[{number}]", f"{hole} does not lie inside {cidr}")
    return found


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
