"""The peers of a Cilium rule: whom each of the eight kinds of lists selects."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from services.policy.cilium_checks import check_fqdn, check_item
from services.policy.documents import CidrItem, Egress, EgressDeny, Item, LabelSelector, ServiceItem
from services.policy.labels import CLUSTER_KEY, COMPOSE_SERVICE_KEY, GROUP_NAME, NAMESPACE_KEY, network
from services.policy.ports import refuse
from services.policy.rules import CIDR_GROUP, Expected, Reader, ZeroPrefix, names_namespace, requirements
from services.policy.selector import WILDCARD, Operator, Requirement, Selector, equals, exists, reserved

_CLUSTER_ENTITY = ("host", "remote-node", "init", "ingress", "health", "unmanaged", "kube-apiserver")


def label_requirements(selector: LabelSelector, path: str) -> list[Requirement]:
    """Return the requirements of a label selector. Raises InvalidInput."""
    expressions = [(item.key, item.operator, item.values) for item in selector.match_expressions or ()]
    return requirements(selector.match_labels, expressions, path)


def peers_of(item: Item, path: str, reader: Reader, *, matches_init: bool, deny: bool) -> tuple[Selector, ...]:
    """Return who is meant: nobody where a list is there and empty, anybody where no list is there but ports are.

    A deny rule whose peers cannot be known here means anybody: it may not deny less than it was written to.
    """
    check_item(item, path)
    services = item.services if isinstance(item, EgressDeny) else None
    fqdns = item.fqdns if isinstance(item, Egress) else None
    lists = (item.endpoints, item.nodes, item.entities, item.cidr, item.cidr_set, item.groups, services, fqdns)
    if any(given is not None and not given for given in lists):
        return ()
    if all(given is None for given in lists):
        return (WILDCARD,) if item.to_ports or item.icmps else ()
    if deny and (item.groups or item.nodes or any(service.k8s_service is None for service in services or ())):
        return (WILDCARD,)
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
    peers += [
        _cidr_item(given, f"{path}.{side}CIDRSet[{n}]", reader, deny=deny)
        for n, given in enumerate(item.cidr_set or ())
    ]
    peers += _services(services or (), f"{path}.toServices", reader, deny=deny)
    for number, name in enumerate(fqdns or ()):
        peers.append(Selector([exists("fqdn", check_fqdn(name, f"{path}.toFQDNs[{number}]"))]))
    return tuple(dict.fromkeys(peers))


def _services(items: Sequence[ServiceItem], path: str, reader: Reader, *, deny: bool) -> Iterator[Selector]:
    """Yield the workloads of each compose service that is named; services by label are not known here and mean nobody."""
    for number, item in enumerate(items):
        if (item.k8s_service is None) == (item.k8s_service_selector is None):
            refuse(f"{path}[{number}]", "exactly one of `k8sService` and `k8sServiceSelector` is needed")
        if item.k8s_service is None:
            continue
        name, namespace = item.k8s_service.service_name, item.k8s_service.namespace
        place = equals("k8s", NAMESPACE_KEY, namespace) if namespace else exists("k8s", NAMESPACE_KEY)
        found = Selector(_in_cluster([equals("any", COMPOSE_SERVICE_KEY, name), place], reader))
        what = f"workload of the service {name}" + (f" in {namespace}" if namespace else "")
        reader.expected.append(Expected(f"{path}[{number}]", what, found, deny))
        yield found


def _endpoint_peer(selector: LabelSelector, path: str, reader: Reader, *, matches_init: bool) -> Selector:
    """Return the peers' selector, limited to the policy's namespace and the local cluster unless it names others."""
    found = label_requirements(selector, path)
    if any(requirement.source == "reserved" for requirement in found):
        return Selector(found)
    if not names_namespace(found, NAMESPACE_KEY):
        if reader.namespace:
            found.append(equals("k8s", NAMESPACE_KEY, reader.namespace))
        elif not matches_init:
            found.append(exists("k8s", NAMESPACE_KEY))
    return Selector(_in_cluster(found, reader))


def _node_peer(selector: LabelSelector, path: str, reader: Reader) -> Selector:
    found = label_requirements(selector, path)
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


def _cidr_item(item: CidrItem, path: str, reader: Reader, *, deny: bool) -> Selector:
    kinds = [item.cidr, item.cidr_group_ref, item.cidr_group_selector]
    if sum(kind is not None for kind in kinds) != 1:
        refuse(path, "exactly one of `cidr`, `cidrGroupRef` and `cidrGroupSelector` is needed")
    holes = excepted_prefixes(item.cidr, item.except_, path, reader)
    if item.cidr is not None:
        return cidr_selector(reader.prefix(item.cidr, f"{path}.cidr"), holes, reader)
    excepted = [_inside(hole, Operator.DOES_NOT_EXIST, reader) for hole in holes]
    if item.cidr_group_ref is not None:
        group = exists("cidrgroup", GROUP_NAME + item.cidr_group_ref)
        reader.expected.append(
            Expected(f"{path}.cidrGroupRef", f"{CIDR_GROUP} {item.cidr_group_ref}", Selector([group]), deny)
        )
        return Selector([group, *excepted])
    asked = label_requirements(item.cidr_group_selector or LabelSelector(), f"{path}.cidrGroupSelector")
    labels = [requirement._replace(source="cidrgroup") for requirement in asked]
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
