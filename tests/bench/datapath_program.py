"""What the programs cost per packet, by test-run: net of an empty program, the packet restored before each repeat.

What must not cost anything (the length of a policy, the number of known addresses) is measured on the same node, in the same maps, before
and after it grew, in every round anew. Two nodes side by side would not do: each hash map has a seed of its own, so one packet's entry
may lie alone in its bucket on one node and be the third on the other, which is up to a fifth of a whole program's cost.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field

from fairlead.address import Address, Family, Prefix
from services.datapath.kernel import devices, netlink
from services.datapath.kernel.netlink import Netlink
from services.datapath.kernel.testrun import REDIRECT, SHOT
from services.datapath.kernel.tuning import Tuning
from services.datapath.outside import Masquerade
from services.datapath.overlay import Overlay
from tests.bench.contents import PEER, PEERS, many_addresses, policy
from tests.bench.programs import DESTINATION, NOTHING, PORT, PORTS, PORTS_PER_DPORT, Case, Programs
from tests.bench.tables import Table
from tests.kernel.packets import SYN, frame, tcp, udp
from tests.kernel.rig import FAR, NODE, Rig, new_rig, pod_address, run

WORLD = {4: "203.0.113.7", 6: "2001:db8:9::9"}
OUTSIDE = "outside"
"""The node that masquerades."""
OVERLAY = "overlay"
"""The node whose packets to others travel in VXLAN."""
BEFORE, ENTRIES, ADDRESSES = "before", "entries", "addresses"
"""What grows on the node `base`, and the name of its rows then; before it grows they are measured once more, for the ratios' sake."""
FEW, MANY_ENTRIES, FEW_ADDRESSES, MANY_ADDRESSES = 10, 16_384, 1000, 300_000
FLOWS, CYCLE, REPEAT = 131_072, 50_000, 200_000
NEW_FLOWS = 8 * PORTS_PER_DPORT
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
    """One rig: a node whose packets go plainly, in VXLAN, or by masquerade."""

    name: str
    rig: Rig
    uplink: int = 0

    def prepare(self) -> None:
        """Fill policies, addresses and neighbours, so that every packet of the cases is decided by what stands there."""
        self.policies(FEW)
        self.rig.kernel.apply_addresses(PEERS | dict(many_addresses(FEW_ADDRESSES - len(PEERS))), ())
        if self.name == OVERLAY:
            self.rig.kernel.apply_tunnels(dict.fromkeys(PEERS, Address(FAR[4])), ())
        wire = Netlink()
        far = _far_mac(self.rig)
        for address in FAR.values():
            run("ip", "neigh", "replace", address, "lladdr", far, "dev", "up0", "nud", "permanent")
        device = devices.find_device(wire, "up0")
        assert device is not None
        self.uplink = device.ifindex
        wire.close()

    def policies(self, entries: int) -> None:
        """Give both endpoints a policy of that many entries."""
        for endpoint, peer in ((1, 1002), (2, 1001)):
            self.rig.policy(endpoint, policy(peer, entries))

    @contextmanager
    def grown(self, what: str, more: Mapping[Prefix, int]) -> Iterator[None]:
        """Let the policies, or the addresses by `more`, be many for a while."""
        if what == ENTRIES:
            self.policies(MANY_ENTRIES)
        elif what == ADDRESSES:
            self.rig.kernel.apply_addresses(more, ())
        yield
        if what == ENTRIES:
            self.policies(FEW)
        elif what == ADDRESSES:
            self.rig.kernel.apply_addresses({}, more)


def _far_mac(rig: Rig) -> str:
    with netlink.inside(rig.netns("w")):
        wire = Netlink()
        device = devices.find_device(wire, "eth0")
        wire.close()
    assert device is not None
    return device.mac.hex(":")


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
    rig = node.rig
    cycling = {"vary": PORT, "count": CYCLE}
    if node.name == OVERLAY:
        return [
            Row(node.name, remote(rig, "established pod to remote, VXLAN")),
            Row(node.name, remote(rig, "established pod to remote, VXLAN, IPv6", 6)),
            Row(node.name, remote(rig, "established remote, VXLAN, 50 000 flows cycling", **cycling)),
        ]
    if node.name == OUTSIDE:
        rig.kernel.set_masquerade(Masquerade(frozenset({Family.IPV4, Family.IPV6})))
        return [Row(node.name, case) for case in (*masqueraded(node, 4), *masqueraded(node, 6, ", IPv6"))]
    return [
        *constant(node, node.name),
        Row(node.name, denied(rig, "denied, each packet of another flow", 1, vary=PORTS, count=NEW_FLOWS)),
        Row(node.name, local(rig, 4, "established local, 50 000 flows cycling", **cycling)),
        Row(node.name, remote(rig, "established remote, 50 000 flows cycling", **cycling)),
        Row(node.name, ingress(node, "ingress, 50 000 flows cycling", **cycling)),
        Row(node.name, local(rig, 6, "established pod to local pod, IPv6")),
        Row(node.name, remote(rig, "established pod to remote, IPv6", 6)),
        Row(node.name, ingress(node, "ingress from the network, IPv6", 6)),
    ]


def constant(node: Node, name: str) -> list[Row]:
    """Return the cases that must cost the same however much the node knows, as rows of that name."""
    rig, new = node.rig, {"flags": SYN, "vary": PORTS, "count": NEW_FLOWS}
    cases = (
        local(rig, 4, "established pod to local pod"),
        remote(rig, "established pod to remote"),
        ingress(node, "ingress from the network"),
        denied(rig, "denied by the sender's policy", 1),
        local(rig, 4, "new flow to local pod, table full", **new),
        remote(rig, "new flow to remote, table full", **new),
    )
    return [Row(name, case) for case in cases]


def measure(rounds: int) -> list[Row]:
    """Build the nodes, run all rows in turn that many times, and return what they took."""
    programs = Programs()
    more = dict(many_addresses(MANY_ADDRESSES - FEW_ADDRESSES, FEW_ADDRESSES))
    ways = {OVERLAY: Overlay("vxlan", (Address(NODE[4]),))}
    with ExitStack() as stack:
        nodes = [
            Node(name, stack.enter_context(new_rig(Tuning(flows=FLOWS), ways.get(name))))
            for name in ("base", OVERLAY, OUTSIDE)
        ]
        for node in nodes:
            with netlink.inside(node.rig.netns("n")):
                node.prepare()
        rows = []
        for node in nodes:
            with netlink.inside(node.rig.netns("n")):
                rows += [(node, row) for row in rows_of(node)]
        base = nodes[0]
        after = {what: constant(base, what) for what in (BEFORE, ENTRIES, ADDRESSES)}
        for number in range(rounds):
            for node, row in rows:
                _once(programs, node, row, first=number == 0)
            for what, grown in after.items():
                with base.grown(what, more):
                    for row in grown:
                        _once(programs, base, row, first=False)
    return [row for _, row in rows] + [row for grown in after.values() for row in grown]


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
        return max(_ratio(by[node, name], by[BEFORE, name]) for name in names)

    return {
        "established_local_ns": base["established pod to local pod"],
        "established_remote_ns": base["established pod to remote"],
        "established_overlay_ns": by[OVERLAY, "established pod to remote, VXLAN"].median_ns,
        "ingress_ns": base["ingress from the network"],
        "denied_ns": base["denied by the sender's policy"],
        "new_local_ns": base["new flow to local pod, table full"],
        "cycling_local_ns": base["established local, 50 000 flows cycling"],
        "growth_entries_ratio": growth(ENTRIES),
        "growth_addresses_ratio": growth(ADDRESSES),
    }


def _ratio(row: Row, base: Row) -> float:
    """Return the median of the rounds' ratios: both halves of each met the machine in the same mood."""
    return statistics.median(a / b for a, b in zip(row.rounds_ns, base.rounds_ns, strict=True))


def tables(rows: list[Row]) -> list[Table]:
    """Return the tables to print."""
    cost = Table("program cost, ns per packet net of an empty program", ("median", "best", "worst", "peers elsewhere"))
    grown = Table(
        "the same maps with 16 384 policy entries (base: 10) and with 300 000 addresses (base: 1 000)",
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
        if (ENTRIES, name) in by:
            before, entries, addresses = (by[what, name] for what in (BEFORE, ENTRIES, ADDRESSES))
            grown.add(
                *(name, f"{before.median_ns:.0f}", f"{entries.median_ns:.0f}", f"{_ratio(entries, before):.3f}"),
                *(f"{addresses.median_ns:.0f}", f"{_ratio(addresses, before):.3f}"),
            )
    return [cost, grown]
