"""What has no proxy, authenticator or resolver here is understood, fails closed, and is named."""

from __future__ import annotations

from typing import Any

import pytest

from fairlead.address import Address
from fairlead.errors import InvalidInput
from fairlead.schema.policy import PolicyObject
from services.policy.offline import World
from services.policy.settings import PolicySettings
from services.policy.simulate import Simulation

WEB, DB, CACHE = 301, 302, 303
HERE = PolicySettings(node="p1").enforcement()
TLS = {"secret": {"name": "s"}}


def small_world() -> World:
    world = World(enforcement=HERE)
    for number, name in ((WEB, "web"), (DB, "db"), (CACHE, "cache")):
        project = ["container:com.docker.compose.project=shop", f"container:com.docker.compose.service={name}"]
        world.put_workload(number, [f"container:app={name}", *project])
    return world


def policy(name: str = "p", kind: str = "CiliumNetworkPolicy", **spec: Any) -> PolicyObject:
    metadata = {"name": name} if "Clusterwide" in kind else {"name": name, "namespace": "shop"}
    selector = {} if "nodeSelector" in spec else {"endpointSelector": {"matchLabels": {"app": "db"}}}
    return PolicyObject(apiVersion="cilium.io/v2", kind=kind, metadata=metadata, spec={**selector, **spec})


def group(name: str, *prefixes: str, **labels: str) -> PolicyObject:
    metadata = {"name": name, "labels": labels}
    return PolicyObject(
        apiVersion="cilium.io/v2", kind="CiliumCIDRGroup", metadata=metadata, spec={"externalCIDRs": list(prefixes)}
    )


def ports(port: str, **more: Any) -> list[dict[str, Any]]:
    return [{"ports": [{"port": port, "protocol": "TCP"}], **more}]


@pytest.mark.parametrize(
    ("direction", "item", "field", "lacking"),
    [
        ("ingress", {"toPorts": ports("80", rules={"http": [{"method": "GET"}]})}, "rules.http", "no HTTP proxy here"),
        ("egress", {"toPorts": ports("80", rules={"dns": [{"matchPattern": "*"}]})}, "rules.dns", "no DNS proxy here"),
        ("egress", {"toPorts": ports("80", serverNames=["a.example.org"])}, "serverNames", "no TLS proxy here"),
        ("ingress", {"toPorts": ports("80", terminatingTLS=TLS)}, "terminatingTLS", "no TLS proxy here"),
        ("egress", {"toPorts": ports("80", originatingTLS=TLS)}, "originatingTLS", "no TLS proxy here"),
        ("egress", {"toPorts": ports("80", listener={"envoyConfig": {"name": "c"}, "name": "l"})}, "listener", "no LISTENER proxy here"),
        ("ingress", {"toPorts": ports("80"), "authentication": {"mode": "required"}}, "authentication", "nobody here can authenticate peers"),
    ],
)  # fmt: skip
def test_what_needs_a_helper_is_closed_and_says_so(direction: str, item: Any, field: str, lacking: str) -> None:
    world = small_world()
    rules: dict[str, Any] = {direction: [item, {"toPorts": ports("81")}]}
    understood = world.put_document(policy(**rules))
    assert any(field in text for text in understood.warnings)
    # even where another document opens everything: a redirect beats a plain allow, and so does its absence
    side = "from" if direction == "ingress" else "to"
    rules = {direction: [{f"{side}Entities": ["all"]}]}
    world.put_document(policy("open", **rules))
    ends = (WEB, DB) if direction == "ingress" else (DB, WEB)
    closed, opened = (world.simulate(*ends, 6, port) for port in (80, 81))
    said = closed.ingress if direction == "ingress" else closed.egress
    assert (closed.allowed, opened.allowed) == (False, True)
    assert said.origins == (f"CiliumNetworkPolicy shop/p {direction}[0] (closed: {lacking})",)


@pytest.mark.parametrize(
    "item",
    [
        {"toFQDNs": [{"matchName": "example.org"}], "toPorts": ports("80")},
        {"toFQDNs": [], "toPorts": ports("80")},
        {"toServices": [], "toPorts": ports("80")},
        {"toServices": [{"k8sServiceSelector": {"selector": {}}}], "toPorts": ports("80")},
        {"toServices": [{"k8sService": {"serviceName": "none"}}], "toPorts": ports("80")},
        {"toGroups": [{"aws": {}}], "toPorts": ports("80")},
        {"toNodes": [{}], "toPorts": ports("80")},
        {"toCIDRSet": [{"cidrGroupRef": "none"}], "toPorts": ports("80")},
    ],
)
def test_an_allow_of_peers_that_cannot_be_known_opens_nothing(item: Any) -> None:
    world = small_world()
    understood = world.put_document(policy(egress=[item]))
    assert understood.warnings or understood.expected
    assert not any(world.simulate(DB, peer, 6, 80).egress.allowed for peer in (WEB, 1, 2, 6))


@pytest.mark.parametrize(
    "item",
    [
        {"toServices": [{"k8sServiceSelector": {"selector": {}}}], "toPorts": ports("80")},
        {"toGroups": [{"aws": {}}], "toPorts": ports("80")},
        {"toNodes": [{}], "toPorts": ports("80")},
    ],
)
def test_a_deny_of_peers_that_cannot_be_known_denies_everybody(item: Any) -> None:
    world = small_world()
    understood = world.put_document(policy(egressDeny=[item], egress=[{"toEntities": ["all"]}]))
    assert any("this denies everybody" in text for text in understood.warnings)
    assert not any(world.simulate(DB, peer, 6, 80).egress.allowed for peer in (WEB, 2))
    assert world.simulate(DB, WEB, 6, 81).egress.allowed


def test_services_are_compose_services() -> None:
    world = small_world()
    services = [{"k8sService": {"serviceName": "cache", "namespace": "shop"}}]
    world.put_document(policy(egress=[{"toServices": services}]))
    assert reached(world, DB) == {CACHE}
    world.put_workload(304, ["container:com.docker.compose.project=blog", "container:com.docker.compose.service=cache"])
    assert reached(world, DB) == {CACHE}
    world.put_document(policy(egress=[{"toServices": [{"k8sService": {"serviceName": "cache"}}]}]))
    assert reached(world, DB) == {CACHE, 304}


def reached(world: World, source: int) -> set[int]:
    found: dict[int, Simulation] = {number: world.simulate(source, number, 6, 80) for number in world.subjects()}
    return {number for number, answer in found.items() if answer.allowed and number != source}


def test_groups_of_prefixes_follow_their_document() -> None:
    world = small_world()
    by_name = {"toCIDRSet": [{"cidrGroupRef": "office", "except": ["10.1.0.0/16"]}], "toPorts": ports("80")}
    by_label = {"toCIDRSet": [{"cidrGroupSelector": {"matchLabels": {"site": "b"}}}], "toPorts": ports("81")}
    world.put_document(policy(egress=[by_name, by_label, {"toCIDR": ["192.0.2.1/32"], "toPorts": ports("82")}]))
    world.put_document(group("office", "10.0.0.0/8", "fd00::/8"))
    world.put_document(group("branch", "192.0.2.0/24", site="b"))

    def opened(address: str) -> set[int]:
        peer = world.identity_of(Address(address))
        return {port for port in (80, 81, 82) if world.simulate(DB, peer, 6, port).egress.allowed}

    addresses = ("10.2.0.1", "fd00::1", "10.1.0.1", "192.0.2.1", "192.0.2.2", "198.51.100.1")
    assert [opened(address) for address in addresses] == [{80}, {80}, set(), {81, 82}, {81}, set()]
    office = world.put_document(group("office", "198.51.100.0/24")).reference
    assert [opened(address) for address in addresses] == [set(), set(), set(), {81, 82}, {81}, {80}]
    world.remove_document(office)
    assert [opened(address) for address in addresses] == [set(), set(), set(), {81, 82}, {81}, set()]


def test_host_policies_select_no_workload() -> None:
    world = small_world()
    document = policy(kind="CiliumClusterwideNetworkPolicy", nodeSelector={}, ingress=[{"fromEntities": ["all"]}])
    assert world.put_document(document).warnings == ()
    assert not any(row.ingress_default_deny for number, row in world.rows().items() if number != 5)


def test_a_document_that_is_refused_leaves_the_one_before() -> None:
    world = small_world()
    world.put_document(policy(ingress=[{}]))
    with pytest.raises(InvalidInput, match="toPorts"):
        world.put_document(policy(ingress=[{"toPorts": ports("70000")}]))
    assert not world.simulate(WEB, DB, 6, 80).allowed


@pytest.mark.parametrize(
    ("direction", "rules", "problem"),
    [
        ("ingress", {"http": [{"method": "GET"}]}, "no L7 rules for nodes"),
        ("egress", {"http": [{"method": "GET"}]}, "no L7 rules but DNS for nodes"),
        ("egress", {"dns": [{"matchPattern": "*"}]}, ""),
    ],
)
def test_l7_rules_for_nodes(direction: str, rules: Any, problem: str) -> None:
    spec: dict[str, Any] = {"nodeSelector": {}, direction: [{"toPorts": ports("53", rules=rules)}]}
    document = policy(kind="CiliumClusterwideNetworkPolicy", **spec)
    if not problem:
        assert small_world().put_document(document).rules
        return
    with pytest.raises(InvalidInput, match=problem):
        small_world().put_document(document)


@pytest.mark.parametrize("block", [{"cidr": "10.0.0.1"}, {"cidr": "10.0.0.0/8", "except": ["10.1.0.1"]}])
def test_an_ip_block_without_a_length_is_refused_as_the_api_server_does(block: Any) -> None:
    document = PolicyObject(
        apiVersion="networking.k8s.io/v1",
        kind="NetworkPolicy",
        metadata={"name": "p", "namespace": "shop"},
        spec={"podSelector": {}, "ingress": [{"from": [{"ipBlock": block}]}]},
    )
    with pytest.raises(InvalidInput, match="has no length"):
        small_world().put_document(document)


def test_selectors_name_compose_services_and_images() -> None:
    world = World(enforcement=HERE)
    shop = ["container:com.docker.compose.project=shop"]
    for number, service, image in (
        (WEB, "web", "docker.io/library/nginx"),
        (DB, "db", "postgres"),
        (CACHE, "cache", "redis"),
    ):
        world.put_workload(
            number, [*shop, f"container:com.docker.compose.service={service}", f"container:image={image}"]
        )
    world.put_document(
        PolicyObject(
            apiVersion="cilium.io/v2",
            kind="CiliumNetworkPolicy",
            metadata={"name": "p", "namespace": "shop"},
            spec={
                "endpointSelector": {"matchLabels": {"com.docker.compose.service": "db"}},
                "ingress": [{"fromEndpoints": [{"matchLabels": {"image": "docker.io/library/nginx"}}]}],
            },
        )
    )
    assert world.simulate(WEB, DB, 6, 5432).allowed
    assert not world.simulate(CACHE, DB, 6, 5432).allowed
