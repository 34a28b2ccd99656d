"""What the programs cost per packet, by test-run: net of an empty program, the packet restored before each repeat.

Three nodes stand side by side, so that what must not cost anything (the length of a policy, the number of known addresses) is measured
in the same rounds as what it is compared with.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, field

from fairlead.address import Address, Family, Prefix
from fairlead.schema.identity import WORLD as WORLD_IDENTITY
from services.datapath.kernel import devices, netlink
from services.datapath.kernel.netlink import Netlink
from services.datapath.kernel.testrun import REDIRECT, SHOT
from services.datapath.kernel.tuning import Tuning
from services.datapath.operations import PolicyKey, PolicyValue
from services.datapath.outside import Masquerade
from services.datapath.overlay import Overlay
from tests.bench.programs import DESTINATION, NOTHING, PORT, PORTS, PORTS_PER_DPORT, Case, Programs
from tests.bench.tables import Table
from tests.kernel.packets import SYN, frame, tcp, udp
from tests.kernel.rig import FAR, NODE, Rig, new_rig, pod_address, run

PEER = {4: "198.51.100.7", 6: "2001:db8:7::7"}
PEER_IDENTITY, TCP = 2000, 6
WORLD = {4: "203.0.113.7", 6: "2001:db8:9::9"}
OUTSIDE = "outside"
"""The node that masquerades."""
IN, OUT = 0, 1
OVERLAY = "overlay"
"""The node whose packets to others travel in VXLAN."""
FLOWS, CYCLE, REPEAT = 131_072, 50_000, 200_000
NEW_FLOWS = 8 * PORTS_PER_DPORT
FIRST_ADDRESS = int.from_bytes(Address("10.64.0.0").packed, "big")
PEERS_NS: Mapping[str, str] = {
    "established pod to local pod": "Cilium 759, Calico 280",
    "established pod to remote": "Cilium 480, Calico 446",
    "ingress from the network": "Cilium 344, AWS agent 112",
    "denied by the sender's policy": "Cilium 254, AWS agent 172",
    "new flow to local pod, table full": "Cilium 2930, Calico 1930",
    "established local, 50 000 flows cycling": "Cilium 1610",
}


@dataclass
class Row:
    """A case on one of the nodes, and the nanoseconds of every round."""

    node: str
    case: Case
    repeat: int = REPEAT
    rounds_ns: list[float] = field(default_factory=list)

    @property
    def median_ns(self) -> float:
        return statistics.median(self.rounds_ns)


@dataclass
class Node:
    """One rig, and what its map sizes are."""

    name: str
    rig: Rig
    entries: int
    addresses: int
    uplink: int = 0

    def prepare(self) -> None:
        """Fill policies, addresses and neighbours, so that every packet of the cases is decided by what stands there."""
        for endpoint, peer in ((1, 1002), (2, 1001)):
            self.rig.policy(endpoint, policy(peer, self.entries))
        peers = {Prefix(address): PEER_IDENTITY for address in PEER.values()}
        self.rig.kernel.apply_addresses(peers | dict(many_addresses(self.addresses - len(peers))), ())
        if self.name == OVERLAY:
            tunnels = dict.fromkeys((Prefix(address) for address in PEER.values()), Address(FAR[4]))
            self.rig.kernel.apply_tunnels(tunnels, ())
        wire = Netlink()
        far = _far_mac(self.rig)
        for address in FAR.values():
            run("ip", "neigh", "replace", address, "lladdr", far, "dev", "up0", "nud", "permanent")
        device = devices.find_device(wire, "up0")
        assert device is not None
        self.uplink = device.ifindex
        wire.close()


def _far_mac(rig: Rig) -> str:
    with netlink.inside(rig.netns("w")):
        wire = Netlink()
        device = devices.find_device(wire, "eth0")
        wire.close()
    assert device is not None
    return device.mac.hex(":")


def policy(peer: int, entries: int, protocols: tuple[int, ...] = (TCP,)) -> dict[PolicyKey, PolicyValue]:
    """Return a policy of that many entries in both directions, of which one per direction and peer decides."""
    deciding = itertools.product((peer, PEER_IDENTITY, WORLD_IDENTITY), protocols, (IN, OUT))
    rows = {PolicyKey(who, 0, protocol, direction): PolicyValue() for who, protocol, direction in deciding}
    for number in range(entries - len(rows)):
        rows[PolicyKey(30_000 + number // 2, 80, TCP, number % 2)] = PolicyValue(provenance=1)
    return rows


def many_addresses(count: int) -> Iterator[tuple[Prefix, int]]:
    """Yield host addresses, and now and then a prefix, with the identity of the peer."""
    for number in range(count):
        address = FIRST_ADDRESS + number
        text = str(Address(f"{address >> 24}.{address >> 16 & 255}.{address >> 8 & 255}.{address & 255}"))
        yield Prefix(f"{text}/32"), PEER_IDENTITY


def local(rig: Rig, family: int, name: str, **more: int) -> Case:
    """Return a TCP packet from pod 1 to pod 2."""
    body = tcp(1024, 80, more.pop("flags", 16), b"x" * 32)
    packet = frame(body, pod_address(1, family), pod_address(2, family))
    return Case(name, "from_pod", packet, rig.plugged[1].ifindex, action=REDIRECT, **more)


def remote(rig: Rig, name: str, family: int = 4, **more: int) -> Case:
    """Return a TCP packet from pod 1 to a host behind the uplink."""
    packet = frame(tcp(1024, 80, more.pop("flags", 16), b"x" * 32), pod_address(1, family), PEER[family])
    return Case(name, "from_pod", packet, rig.plugged[1].ifindex, action=REDIRECT, **more)


def ingress(node: Node, name: str, family: int = 4, **more: int) -> Case:
    """Return a TCP packet from the network to pod 2."""
    packet = frame(tcp(1024, 80, 16, b"x" * 32), PEER[family], pod_address(2, family))
    return Case(name, "from_network", packet, node.uplink, action=REDIRECT, **more)


def masqueraded(node: Node, family: int, suffix: str = "") -> Iterator[Case]:
    """Yield a TCP packet from pod 1 to the world, and the answer to it; the flow between them stands afterwards."""
    rig = node.rig
    packet = frame(tcp(1024, 80, 16, b"x" * 32), pod_address(1, family), WORLD[family])
    name, ifindex = f"established pod to world, masqueraded{suffix}", rig.plugged[1].ifindex
    yield Case(name, "from_pod", packet, ifindex, action=REDIRECT)
    with closing(rig.program("from_pod")) as program:
        program.run(packet, ifindex)
    [end] = [flow for flow in rig.kernel.masqueraded() if flow.remote == WORLD[family]]
    answer = frame(tcp(80, end.own_port, 16, b"x" * 32), WORLD[family], NODE[family])
    yield Case(f"answer of the world, masqueraded{suffix}", "from_network", answer, node.uplink, action=REDIRECT)


def denied(rig: Rig, name: str, source: int, **more: int) -> Case:
    """Return a UDP packet that no entry of the pod's policy allows."""
    packet = frame(udp(1024, 53, b"x" * 46), pod_address(source, 4), pod_address(3 - source, 4))
    return Case(name, "from_pod", packet, rig.plugged[source].ifindex, action=SHOT, **more)


def rows_of(node: Node) -> list[Row]:
    """Return the cases of one node."""
    rig, cases = node.rig, []
    if node.name == OVERLAY:
        cycling = {"vary": PORT, "count": CYCLE}
        cases.append(Row(node.name, remote(rig, "established pod to remote, VXLAN")))
        cases.append(Row(node.name, remote(rig, "established pod to remote, VXLAN, IPv6", 6)))
        cases.append(Row(node.name, remote(rig, "established remote, VXLAN, 50 000 flows cycling", **cycling)))
        return cases
    if node.name == OUTSIDE:
        rig.kernel.set_masquerade(Masquerade(frozenset({Family.IPV4, Family.IPV6})))
        return [Row(node.name, case) for case in (*masqueraded(node, 4), *masqueraded(node, 6, ", IPv6"))]
    cases.append(Row(node.name, local(rig, 4, "established pod to local pod")))
    cases.append(Row(node.name, remote(rig, "established pod to remote")))
    cases.append(Row(node.name, ingress(node, "ingress from the network")))
    cases.append(Row(node.name, denied(rig, "denied by the sender's policy", 1)))
    new = {"flags": SYN, "vary": PORTS, "count": NEW_FLOWS}
    cases.append(Row(node.name, local(rig, 4, "new flow to local pod, table full", **new)))
    cases.append(Row(node.name, remote(rig, "new flow to remote, table full", **new)))
    if node.name != "base":
        return cases
    cycling = {"vary": PORT, "count": CYCLE}
    cases.append(Row(node.name, denied(rig, "denied, each packet of another flow", 1, vary=PORTS, count=NEW_FLOWS)))
    cases.append(Row(node.name, local(rig, 4, "established local, 50 000 flows cycling", **cycling)))
    cases.append(Row(node.name, remote(rig, "established remote, 50 000 flows cycling", **cycling)))
    cases.append(Row(node.name, ingress(node, "ingress, 50 000 flows cycling", **cycling)))
    cases.append(Row(node.name, local(rig, 6, "established pod to local pod, IPv6")))
    cases.append(Row(node.name, remote(rig, "established pod to remote, IPv6", 6)))
    cases.append(Row(node.name, ingress(node, "ingress from the network, IPv6", 6)))
    return cases


def measure(rounds: int) -> list[Row]:
    """Build the nodes, run all rows in turn that many times, and return what they took."""
    programs = Programs()
    sizes = {"base": (10, 1000), "entries": (16_384, 1000), "addresses": (10, 300_000), OVERLAY: (10, 1000)}
    sizes[OUTSIDE] = (10, 1000)
    ways = {OVERLAY: Overlay("vxlan", (Address(NODE[4]),))}
    with ExitStack() as stack:
        nodes = {
            name: Node(name, stack.enter_context(new_rig(Tuning(flows=FLOWS), ways.get(name))), *size)
            for name, size in sizes.items()
        }
        for node in nodes.values():
            with netlink.inside(node.rig.netns("n")):
                node.prepare()
        rows = []
        for node in nodes.values():
            with netlink.inside(node.rig.netns("n")):
                rows += rows_of(node)
        for number in range(rounds):
            for row in rows:
                _once(programs, nodes[row.node], row, first=number == 0)
    return rows


def _once(programs: Programs, node: Node, row: Row, *, first: bool) -> None:
    """Measure a row once. Its flows are made to stand before; the table was filled by the rows for new flows."""
    case = row.case
    with netlink.inside(node.rig.netns("n")):
        if first and case.vary == PORTS:
            programs.net_ns(node.rig.pins, case, FLOWS * 3 // 2)
        if case.vary in {NOTHING, PORT, DESTINATION}:
            programs.net_ns(node.rig.pins, case, case.count + 1)
        row.rounds_ns.append(programs.net_ns(node.rig.pins, case, row.repeat))


def figures(rows: list[Row]) -> dict[str, float]:
    """Return the figures that this part is judged by."""
    by = {(row.node, row.case.name): row for row in rows}
    base = {name: row.median_ns for (node, name), row in by.items() if node == "base"}

    def growth(node: str) -> float:
        names = [name for (where, name) in by if where == node]
        return max(_ratio(by[node, name], by["base", name]) for name in names)

    return {
        "established_local_ns": base["established pod to local pod"],
        "established_remote_ns": base["established pod to remote"],
        "established_overlay_ns": by[OVERLAY, "established pod to remote, VXLAN"].median_ns,
        "ingress_ns": base["ingress from the network"],
        "denied_ns": base["denied by the sender's policy"],
        "new_local_ns": base["new flow to local pod, table full"],
        "cycling_local_ns": base["established local, 50 000 flows cycling"],
        "growth_entries_ratio": growth("entries"),
        "growth_addresses_ratio": growth("addresses"),
    }


def _ratio(row: Row, base: Row) -> float:
    """Return the median of the rounds' ratios: both halves of each met the machine in the same mood."""
    return statistics.median(a / b for a, b in zip(row.rounds_ns, base.rounds_ns, strict=True))


def tables(rows: list[Row]) -> list[Table]:
    """Return the tables to print."""
    cost = Table("program cost, ns per packet net of an empty program", ("median", "best", "worst", "peers elsewhere"))
    grown = Table(
        "the same with 16 384 policy entries (base: 10) and with 300 000 addresses (base: 1 000)",
        ("base", "16 384 entries", "ratio", "300 000 addresses", "ratio"),
    )
    by = {(row.node, row.case.name): row for row in rows}
    for row in rows:
        name = row.case.name
        if row.node not in {"base", OVERLAY, OUTSIDE}:
            continue
        cost.add(
            name,
            f"{row.median_ns:.0f}",
            f"{min(row.rounds_ns):.0f}",
            f"{max(row.rounds_ns):.0f}",
            PEERS_NS.get(name, ""),
        )
        if ("entries", name) in by:
            entries, addresses = by["entries", name], by["addresses", name]
            grown.add(
                *(name, f"{row.median_ns:.0f}", f"{entries.median_ns:.0f}", f"{_ratio(entries, row):.3f}"),
                *(f"{addresses.median_ns:.0f}", f"{_ratio(addresses, row):.3f}"),
            )
    return [cost, grown]
