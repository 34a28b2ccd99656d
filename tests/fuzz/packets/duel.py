"""Every frame goes to the real programs and to the twin; both must say the same of it, report the same, and remember the same flows."""

from __future__ import annotations

import os
import socket
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random

from fairlead.address import Address
from services.datapath.kernel import abi
from services.datapath.kernel.maps import jiffies_per_second
from services.datapath.kernel.testrun import OK, REDIRECT, SHOT, Volley
from services.datapath.kernel.tuning import Tuning
from services.datapath.kernel.twin.cases import Action, Fate, Met, Origin, Told, Tunnel
from services.datapath.kernel.twin.flows import FlowKey
from services.datapath.kernel.twin.machine import Machine
from services.datapath.operations import EndpointEntry
from services.datapath.overlay import Overlay
from services.datapath.reports import EventKind
from tests.fuzz.packets.frames import IPV4, Frames
from tests.fuzz.packets.places import OTHER_NODE, Doors, Roads, places
from tests.fuzz.packets.rows import Both
from tests.kernel.rig import FAR, NODE, Rig, new_rig, pod_address, run
from tests.support.tunnelled import DOORS, Tunnelled

PER_EPISODE = 600
_CHANGES = 4
_AGES_S = (25, 100, 9000)
"""No sum of a few is near a timeout (10, 60 and 8000 s), so that it does not matter how fast this machine is."""
TUNING = Tuning(
    flows=65_536,
    addresses=4096,
    drop_events_per_second=1 << 30,
    flow_events_per_second=1 << 30,
)
PROGRAMS = {
    Origin.POD: "from_pod",
    Origin.NETWORK: "from_network",
    Origin.HOST: "from_host",
    Origin.UPLINK: "to_uplink",
}
_NAT_PORT = 17
"""Among the fields of a flow; its address outside comes next."""
_OVERLAY = Overlay("vxlan", tuple(Address(address) for address in NODE.values()))
_RESULTS = {Action.DROPPED: SHOT, Action.UNTOUCHED: OK}
_OF_FLOWS = {EventKind.CLOSED, EventKind.LASTING}
"""Reports that are about no single packet."""


@dataclass
class Score:
    """What has been compared."""

    packets: int = 0
    refused: int = 0
    """Frames that test-run itself does not take: they end within the IP header."""
    fates: Counter[str] = field(default_factory=Counter)
    flows: int = 0
    let_through: int = 0
    """Packets that the kernel let pass and the twin's reading of the policy does not."""
    disagreements: list[str] = field(default_factory=list)


class Duel:
    """One rig, its twin, and the seed that the rest comes from."""

    def __init__(self, rig: Rig, seed: int) -> None:
        self._rig, self._seed = rig, seed
        uplink = socket.if_nametoindex("up0")
        self._machine = Machine(Roads())
        self._machine.outside.choose = self._port_outside
        entries = {endpoint: rig.entry(endpoint) for endpoint in rig.plugged}
        third = EndpointEntry(3, uplink, 1003, b"\x02\0\0\1\0\3", b"\x02\0\0\2\0\3", _addresses(3), held=False)
        self._both = Both(rig.kernel, self._machine, entries | {3: third})
        pods = {endpoint: entry.ifindex for endpoint, entry in (entries | {3: third}).items()}
        self._doors = Doors(pods, uplink, rig.kernel._door.ifindex, socket.if_nametoindex("fairlead_vxlan"))
        self._programs = {origin: rig.program(name) for origin, name in PROGRAMS.items()}
        self._plain = {origin: program.volley() for origin, program in self._programs.items()}
        self._tunnelled = Tunnelled(rig.pins)
        self._telling = {origin: Volley(self._tunnelled.fds[name]) for origin, name in DOORS.items()}
        self._volleys = self._plain | self._telling
        self._counted = self._counters()
        self._jiffies = jiffies_per_second()
        self.score = Score()

    def close(self) -> None:
        for program in self._programs.values():
            program.close()
        self._tunnelled.close()

    def episode(self, number: int, packets: int = PER_EPISODE) -> None:
        """Begin with new rows and no flows, send frames, change rows on the way, and compare."""
        chance = Random(f"{self._seed}/{number}")
        self._forget()
        self._both.begin(chance)
        # the programs as they are pinned, or those that tell afterwards by which tunnel a packet left
        self._volleys = self._telling | self._plain if number % 2 else self._plain | self._telling
        frames = Frames(chance, places())
        changes = set(chance.sample(range(packets), _CHANGES)) if packets > _CHANGES else set()
        for at in range(packets):
            if at in changes:
                self._grow_older(chance.choice(_AGES_S)) if chance.random() < 0.2 else self._both.change(chance)
            fate = self._one(frames.next(), chance.random(), f"episode {number}, packet {at}")
            if fate and fate.action is Action.NETWORK:
                frames.hear(fate.frame)
        self._compare_reports(f"episode {number}")
        self._compare_flows(f"episode {number}")

    def _grow_older(self, age_s: int) -> None:
        """Let every flow have been silent for longer."""
        table = self._rig.kernel._tables.maps["conntrack"]
        for key, value in table.items().items():
            seen = int.from_bytes(value[:8], sys.byteorder) - age_s * self._jiffies
            table.put(key, max(seen, 0).to_bytes(8, sys.byteorder) + value[8:])
        for flow in self._machine.flows.values():
            flow.seen_s -= age_s

    def _one(self, frame: bytes, luck: float, name: str) -> Fate | None:
        """Have both judge one frame; return what became of it, or None if test-run refuses it."""
        met = self._doors.met(frame, luck)
        volley = self._volleys[met.origin]
        volley.met_at(met.ifindex, met.ingress_ifindex)
        if met.origin is Origin.OVERLAY:
            self._tunnelled.bring(met.tunnel)
        outcome = volley.run(frame)
        if outcome is None:
            self.score.refused += 1
            return None
        fate = self._machine.meet(frame, met)
        self.score.packets += 1
        self.score.fates[_name(frame, fate)] += 1
        same_way = volley is self._plain.get(met.origin) or self._way(met) == fate.tunnel
        expected = _RESULTS.get(fate.action, REDIRECT)
        if outcome[0] == expected and same_way and (not fate.frame or outcome[1] == fate.frame):
            return fate
        self.score.let_through += fate.action in {Action.DROPPED, Action.REFUSED}
        twin = f"twin {fate.action.name} {fate.reason} {fate.tunnel} {fate.frame.hex()}"
        self._disagree(name, f"{met} {frame.hex()}: {twin}, kernel {outcome[0]} {self._way(met)} {outcome[1].hex()}")
        return fate

    def _port_outside(self, key: FlowKey) -> int:
        """Return the port that the programs have given a flow: any that is free will do, if the twin finds it free too."""
        low, high, protocol = key
        for one, other in ((low, high), (high, low)):
            ends = one[0], other[0], one[1].to_bytes(2, "big"), other[1].to_bytes(2, "big")
            value = self._rig.kernel._tables.maps["conntrack"].get(abi.FLOW_KEY.pack(*ends, protocol))
            if value is not None:
                return int.from_bytes(abi.FLOW.unpack(value)[_NAT_PORT], "big")
        return 0

    def _way(self, met: Met) -> Tunnel | None:
        """Return the tunnel that the last packet left by; none leaves from where packets of tunnels come."""
        return None if met.origin not in {Origin.POD, Origin.HOST} else self._tunnelled.taken()

    def _disagree(self, name: str, what: str) -> None:
        self.score.disagreements.append(f"{name}: {what}")

    def _compare_reports(self, name: str) -> None:
        kernel = [
            Told(
                *(e.kind, e.reason, e.direction, e.endpoint, e.provenance),
                *(e.source_identity, e.destination_identity),
                e.by_glass,
            )
            for e in self._rig.take_events()
            if e.kind not in _OF_FLOWS
        ]
        twin = self._machine.told
        if kernel != twin:
            pairs = enumerate(zip(kernel, twin, strict=False))
            first = next(((at, *pair) for at, pair in pairs if pair[0] != pair[1]), (len(kernel), len(twin)))
            self._disagree(name, f"reports differ: {first}")
        after = self._counters()
        change = {key: after[key] - self._counted[key] for key in after if after[key] != self._counted[key]}
        if change != _without_direction(self._machine.counted):
            self._disagree(name, f"counters differ: kernel {change}, twin {self._machine.counted}")
        self._counted = after

    def _counters(self) -> Counter[tuple[int, int]]:
        counters = self._rig.kernel.counters()
        return _without_direction({(counter.reason, counter.direction): counter.packets for counter in counters})

    def _compare_flows(self, name: str) -> None:
        kernel = dict(_flow(key, value) for key, value in self._rig.flows().items())
        flows = self._machine.flows.items()
        twin = {key: (flow.beginner, *flow.packets, flow.far, flow.masqueraded, flow.outer) for key, flow in flows}
        self.score.flows += len(twin)
        for key in kernel.keys() | twin.keys():
            if kernel.get(key) != twin.get(key):
                self._disagree(name, f"flow {key}: kernel {kernel.get(key)}, twin {twin.get(key)}")

    def _forget(self) -> None:
        for name in ("conntrack", "fragments", "masquerade"):
            table = self._rig.kernel._tables.maps[name]
            table.delete_all(table.items())
        self._rig.take_events()
        self._counted = self._counters()
        machine = self._machine
        machine.flows.clear()
        machine.fragments.clear()
        machine.outside.rows.clear()
        machine.told.clear()
        machine.counted.clear()


def _flow(key: bytes, value: bytes) -> tuple[FlowKey, tuple[object, ...]]:
    """Return a row of the flow table as the twin would have it: key; who began, packets both ways, where the far end is, the outer end."""
    low, high, low_port, high_port, protocol = abi.FLOW_KEY.unpack(key)
    flow = abi.FLOW.unpack(value)
    ends = (low, int.from_bytes(low_port, "big")), (high, int.from_bytes(high_port, "big"))
    outer = (flow[_NAT_PORT + 1], int.from_bytes(flow[_NAT_PORT], "big")) if any(flow[_NAT_PORT]) else None
    seen = flow[8], flow[9], flow[4] >> 4 & 0xB, bool(flow[4] & 64), outer
    return (min(ends), max(ends), protocol), (ends[flow[4] & 1 ^ 1], *seen)


def _name(frame: bytes, fate: Fate) -> str:
    if fate.reason or fate.action is Action.DROPPED:
        return f"dropped {fate.reason}"
    ends = slice(26, 34) if frame[12:14] == IPV4 else slice(22, 54)
    changed = fate.action in {Action.NETWORK, Action.ENDPOINT} and fate.frame[ends] != frame[ends]
    return fate.action.name.lower() + ("_as_the_node" if changed else "")


def _without_direction(counted: dict[tuple[int, int], int]) -> Counter[tuple[int, int]]:
    """Count what passed without its direction, which says little."""
    found: Counter[tuple[int, int]] = Counter()
    for (reason, direction), packets in counted.items():
        found[reason, direction if reason else 0] += packets
    return found


def _addresses(endpoint: int) -> tuple[Address, ...]:
    return tuple(Address(pod_address(endpoint, family)) for family in (4, 6))


@contextmanager
def new_duel(seed: int) -> Iterator[Duel]:
    """Build a node, stay on one processor meanwhile (counters and remembered denials are per processor), and leave nothing."""
    processors = os.sched_getaffinity(0)
    with new_rig(TUNING, _OVERLAY) as rig:
        for endpoint in rig.plugged:  # the pods themselves keep quiet
            run("nsenter", f"--net={rig.netns(str(endpoint))}", "ip", "link", "set", "eth0", "down")
        for address in (*FAR.values(), *OTHER_NODE.values()):  # whom the size that fits is known of
            run("ip", "neigh", "replace", address, "lladdr", "02:00:00:00:00:77", "dev", "up0", "nud", "permanent")
        os.sched_setaffinity(0, {min(processors)})
        duel = Duel(rig, seed)
        try:
            yield duel
        finally:
            duel.close()
            os.sched_setaffinity(0, processors)
