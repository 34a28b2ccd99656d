r"""The lab's network as data: namespaces, cables, addresses and routes. Nothing here touches the machine.

    vm-1   bm-1          ctl (hub NATS, etcd, identity, policy, traces)
      |      |            |
   ===+======+===      ===+=======      two segments, bridges in the namespace `lan`
      |      |            |     |
     tor1 ------------- tor2           each router is on both segments; one cable between them
      | \ \            / / |
     n1  n2  n3  . . . . . .           every node has one uplink to each router

Names inside the lab are short (`n1`); on the machine they carry the lab's prefix (`flab-n1`).
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field

POOLS = ("10.42.0.0/16", "fd42::/48")
"""What workloads get their addresses from."""
CLAIM_LENGTHS = {4: (24, 25), 6: (56, 80)}
"""The shortest and longest prefix that a router accepts from a node, by family."""
FIRST_NODE_ASN = 65001
FIRST_ROUTER_ASN = 65101
DEFAULT_ROUTES = ("0.0.0.0/0", "::/0")


@dataclass(frozen=True)
class Port:
    """One end of a cable; `bridge` names the bridge it is plugged into, which then has no address."""

    name: str
    addresses: tuple[str, ...] = ()
    bridge: str = ""


@dataclass(frozen=True)
class Route:
    """A static route; several gateways mean equal cost."""

    destination: str
    gateways: tuple[str, ...]


@dataclass(frozen=True)
class Namespace:
    """One machine of the lab."""

    name: str
    ports: tuple[Port, ...] = ()
    routes: tuple[Route, ...] = ()
    bridges: tuple[str, ...] = ()
    forwards: bool = False


@dataclass(frozen=True)
class Cable:
    """A veth pair: (namespace, port) on both sides."""

    a: tuple[str, str]
    b: tuple[str, str]


@dataclass(frozen=True)
class Peer:
    """One BGP neighbour."""

    name: str
    address: str
    asn: int


@dataclass(frozen=True)
class Node:
    """What the processes of a node must be told."""

    name: str
    asn: int
    uplinks: tuple[str, ...]
    addresses: tuple[str, ...]
    """All addresses of the uplinks. The first IPv4 one is the node's BGP router id; tunnels prefer the first one's family."""
    peers: tuple[Peer, ...]


@dataclass(frozen=True)
class Router:
    """What the BGP process of a router must be told."""

    name: str
    asn: int
    router_id: str
    nodes: tuple[Peer, ...]
    others: tuple[Peer, ...]


@dataclass(frozen=True)
class Ways:
    """How packets travel in this lab."""

    routing: str = "native"
    """Between nodes: `native`, or inside `vxlan` or `geneve`."""
    family: int = 4
    """What the story's traffic is made of."""
    underlay: int = 4
    """What tunnels are made of."""


@dataclass(frozen=True)
class Topology:
    """The whole lab."""

    prefix: str
    namespaces: tuple[Namespace, ...]
    cables: tuple[Cable, ...]
    nodes: tuple[Node, ...]
    routers: tuple[Router, ...]
    control: str
    """The IPv4 address of the namespace `ctl`."""
    addresses: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Addresses of the hosts on the segments, by name."""
    ways: Ways = Ways()

    def full(self, name: str) -> str:
        """Return the name that the namespace has on this machine."""
        return f"{self.prefix}-{name}"

    def path(self, name: str) -> str:
        """Return the path of the namespace."""
        return f"/run/netns/{self.full(name)}"

    def node(self, name: str) -> Node:
        """Return the node of that name."""
        return next(node for node in self.nodes if node.name == name)


def describe(prefix: str = "flab", node_count: int = 3, ways: Ways = Ways()) -> Topology:
    """Return the lab with `node_count` nodes, two routers, two segments and their hosts."""
    hosts = {"vm-1": ("legacy", 101), "bm-1": ("legacy", 102), "ctl": ("control", 10)}
    numbers = range(1, node_count + 1)
    return Topology(
        prefix=prefix,
        namespaces=(
            _lan(hosts),
            *(_router(router, numbers) for router in (1, 2)),
            *(_host(name, segment, number) for name, (segment, number) in hosts.items()),
            *(_node(node) for node in numbers),
        ),
        cables=(*_fabric(numbers), *_segments(hosts)),
        nodes=tuple(_node_facts(node, ways) for node in numbers),
        routers=tuple(_router_facts(router, numbers) for router in (1, 2)),
        control=_bare(_on_segment("control", hosts["ctl"][1])[0]),
        addresses={name: tuple(_bare(a) for a in _on_segment(*place)) for name, place in hosts.items()},
        ways=ways,
    )


_SEGMENTS = {"legacy": 10, "control": 20}


def _on_segment(segment: str, number: int) -> tuple[str, str]:
    """Return both addresses of host `number` on a segment."""
    octet = _SEGMENTS[segment]
    return f"10.{octet}.0.{number}/24", f"fd00:{octet}::{number}/64"


def _on_fabric(router: int, node: int, end: int) -> tuple[str, str]:
    """Return both addresses of one end (1 router, 2 node) of the cable between a router and a node; router 0 is between routers."""
    return f"10.0.{router}.{4 * node + end}/30", f"fd00:0:{router}:{node}::{end}/64"


def _bare(address: str) -> str:
    return str(ipaddress.ip_interface(address).ip)


def _gateways(ends: list[tuple[str, str]]) -> tuple[Route, ...]:
    """Return the default routes of both families over all of `ends`."""
    return tuple(
        Route(destination, tuple(_bare(end[family]) for end in ends))
        for family, destination in enumerate(DEFAULT_ROUTES)
    )


def _lan(hosts: dict[str, tuple[str, int]]) -> Namespace:
    ports = [Port(f"tor{router}-{segment}", bridge=segment) for router in (1, 2) for segment in _SEGMENTS]
    ports += [Port(name, bridge=segment) for name, (segment, _) in hosts.items()]
    return Namespace("lan", tuple(ports), bridges=tuple(_SEGMENTS))


def _router(router: int, nodes: range) -> Namespace:
    other = 3 - router
    ports = [Port("peer", _on_fabric(0, 0, router))]
    ports += [Port(segment, _on_segment(segment, router)) for segment in _SEGMENTS]
    ports += [Port(f"n{node}", _on_fabric(router, node, 1)) for node in nodes]
    # The other router's cables are reached over the cable between the routers; pods' prefixes come by BGP.
    via = tuple(_bare(address) for address in _on_fabric(0, 0, other))
    routes = (Route(f"10.0.{other}.0/24", via[:1]), Route(f"fd00:0:{other}::/48", via[1:]))
    return Namespace(f"tor{router}", tuple(ports), routes, forwards=True)


def _host(name: str, segment: str, number: int) -> Namespace:
    routes = _gateways([_on_segment(segment, router) for router in (1, 2)])
    return Namespace(name, (Port("eth0", _on_segment(segment, number)),), routes)


def _node(node: int) -> Namespace:
    ports = tuple(Port(f"up{router}", _on_fabric(router, node, 2)) for router in (1, 2))
    return Namespace(f"n{node}", ports, _gateways([_on_fabric(router, node, 1) for router in (1, 2)]), forwards=True)


def _fabric(nodes: range) -> list[Cable]:
    between = Cable(("tor1", "peer"), ("tor2", "peer"))
    return [between, *(Cable((f"tor{r}", f"n{n}"), (f"n{n}", f"up{r}")) for r in (1, 2) for n in nodes)]


def _segments(hosts: dict[str, tuple[str, int]]) -> list[Cable]:
    routers = [Cable(("lan", f"tor{r}-{s}"), (f"tor{r}", s)) for r in (1, 2) for s in _SEGMENTS]
    return [*routers, *(Cable(("lan", name), (name, "eth0")) for name in hosts)]


def _node_facts(node: int, ways: Ways) -> Node:
    ends = [_on_fabric(router, node, 2) for router in (1, 2)]
    peers = tuple(Peer(f"tor{r}", _bare(_on_fabric(r, node, 1)[0]), FIRST_ROUTER_ASN + r - 1) for r in (1, 2))
    families = (0, 1) if ways.underlay == 4 else (1, 0)
    addresses = tuple(_bare(end[family]) for family in families for end in ends)
    return Node(f"n{node}", FIRST_NODE_ASN + node - 1, ("up1", "up2"), addresses, peers)


def _router_facts(router: int, nodes: range) -> Router:
    other = 3 - router
    return Router(
        f"tor{router}",
        FIRST_ROUTER_ASN + router - 1,
        _bare(_on_segment("control", router)[0]),
        tuple(Peer(f"n{n}", _bare(_on_fabric(router, n, 2)[0]), FIRST_NODE_ASN + n - 1) for n in nodes),
        (Peer(f"tor{other}", _bare(_on_fabric(0, 0, other)[0]), FIRST_ROUTER_ASN + other - 1),),
    )
