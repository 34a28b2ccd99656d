"""A kernel in dicts. It passes the real kernel's suite (tests/contract/test_kernel.py), and says what would become of a packet.

Tests make operations fail through `FakeWorld.faults`. What becomes of a packet's bytes is told by `twin/`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from ipaddress import ip_network

from fairlead.address import Address, Prefix
from fairlead.schema.identity import HOST, WORLD
from services.datapath.failsafe import HOST_ENDPOINT, FailsafePort, HostEntry
from services.datapath.kernel.fake_flows import FakeFlows
from services.datapath.kernel.fake_routes import FakeRoutes
from services.datapath.kernel.fake_world import FakeWorld, PacketVerdict
from services.datapath.kernel.twin.cases import Fate, Met
from services.datapath.kernel.twin.policy import EGRESS, INGRESS, Policy
from services.datapath.operations import (
    EndpointEntry,
    KernelError,
    Link,
    Plugged,
    PolicyCounters,
    PolicyKey,
    PolicyValue,
)
from services.datapath.reports import DropReason, Event, EventKind, EventsLost, Feature, KernelReport, PacketCounter

_EVENTS_KEPT = 4096


class FakeKernel(FakeFlows, FakeRoutes):
    """One process's hold on a FakeWorld."""

    world: FakeWorld

    def __init__(self, world: FakeWorld | None = None) -> None:
        self.world = world or FakeWorld()
        self._reported = threading.Condition()

    def _enter(self, operation: str, endpoint: int = 0) -> None:
        fault = self.world.faults.get((operation, endpoint))
        if fault:
            raise KernelError(f"{operation} {endpoint or ''}: {fault}")
        if endpoint and not 1 <= endpoint <= HOST_ENDPOINT:
            raise KernelError(f"{operation}: endpoint {endpoint} is out of range: use 1 to {HOST_ENDPOINT}")

    def start(self) -> KernelReport:
        """Adopt or create the world."""
        self._enter("start")
        adopted, self.world.started = self.world.started, True
        return KernelReport(
            adopted=adopted, features=(Feature("dicts", present=True, use="everything"),), pin_directory="fake"
        )

    def plug(self, link: Link) -> Plugged:
        """Make the link be there; another namespace or interface makes a new one."""
        self._enter("plug", link.endpoint)
        if self.world.namespaces is not None and link.netns and link.netns not in self.world.namespaces:
            raise KernelError(f"plug {link.endpoint}: namespace {link.netns} does not exist")
        old = self.world.links.get(link.endpoint)
        if old is not None and old[0] == link:
            return old[1]
        same_place = old is not None and (old[0].netns, old[0].interface) == (link.netns, link.interface)
        plugged = old[1] if old is not None and same_place else self._new_link(link.endpoint)
        self.world.links[link.endpoint] = (link, plugged)
        self.world.log.append(f"plug {link.endpoint}")
        return plugged

    def intact_links(self, wanted: Iterable[Link]) -> dict[int, Plugged]:
        """Return those of the links that stand as they were plugged."""
        self._enter("intact_links")
        there, found = self.world.namespaces, {}
        for link in wanted:
            standing = self.world.links.get(link.endpoint)
            if standing and standing[0] == link and (there is None or not link.netns or link.netns in there):
                found[link.endpoint] = standing[1]
        return found

    def _new_link(self, endpoint: int) -> Plugged:
        self.world.next_ifindex += 1
        mac = endpoint.to_bytes(2, "big")
        return Plugged(endpoint, f"fl{endpoint:05d}", self.world.next_ifindex, b"\x02\0\0\1" + mac, b"\x02\0\0\2" + mac)

    def unplug(self, endpoint: int) -> None:
        """Remove everything of the endpoint."""
        self._enter("unplug", endpoint)
        self.world.links.pop(endpoint, None)
        self.world.entries.pop(endpoint, None)
        self.world.policies.pop(endpoint, None)
        self.world.glass.pop(endpoint, None)
        self.world.log.append(f"unplug {endpoint}")

    def plugged(self) -> dict[int, Plugged]:
        """Return the links that exist."""
        self._enter("plugged")
        return {endpoint: plugged for endpoint, (_, plugged) in self.world.links.items()}

    def endpoints(self) -> dict[int, EndpointEntry]:
        """Return the endpoint entries."""
        self._enter("endpoints")
        return dict(self.world.entries)

    def put_endpoint(self, entry: EndpointEntry) -> None:
        """Write the entry."""
        self._enter("put_endpoint", entry.endpoint)
        self.world.entries[entry.endpoint] = replace(entry, addresses=tuple(sorted(entry.addresses)))
        self.world.log.append(f"put_endpoint {entry.endpoint} {'held' if entry.held else entry.identity}")

    def delete_endpoint(self, endpoint: int) -> None:
        """Remove the entry."""
        self._enter("delete_endpoint", endpoint)
        self.world.entries.pop(endpoint, None)
        self.world.glass.pop(endpoint, None)
        self.world.log.append(f"delete_endpoint {endpoint}")

    def policy(self, endpoint: int) -> dict[PolicyKey, tuple[PolicyValue, PolicyCounters]]:
        """Return the policy map with its counters."""
        self._enter("policy", endpoint)
        entries = self.world.policies.get(endpoint, {})
        return {
            key: (value, self.world.counters.get((endpoint, key), PolicyCounters())) for key, value in entries.items()
        }

    def holds_policy(self, endpoint: int, entries: Mapping[PolicyKey, PolicyValue]) -> bool:
        """Tell whether the endpoint's policy map is there and holds exactly these entries."""
        self._enter("policy", endpoint)
        return self.world.policies.get(endpoint) == entries

    def apply_policy(self, endpoint: int, puts: Mapping[PolicyKey, PolicyValue], deletes: Iterable[PolicyKey]) -> None:
        """Change the policy map, or leave it as it is when the result does not fit."""
        self._enter("apply_policy", endpoint)
        if refused := [key for key, value in puts.items() if value.proxy_port]:
            raise KernelError(f"{refused[0]} asks for an L7 proxy, which this datapath does not have")
        if refused := [key for key in puts if not key.is_sound]:
            raise KernelError(f"{refused[0]} is no block of ports of a protocol")
        gone = set(deletes)
        entries = {key: value for key, value in self.world.policies.get(endpoint, {}).items() if key not in gone}
        entries.update(puts)
        if len(entries) > self.world.capacity:
            raise KernelError(f"policy map of endpoint {endpoint} is full: {len(entries)} of {self.world.capacity}")
        self.world.policies[endpoint] = entries
        self.world.log.append(f"apply_policy {endpoint} +{len(puts)} -{len(gone)}")

    def broken_glass(self) -> dict[int, int]:
        """Return until when somebody broke the glass."""
        self._enter("broken_glass")
        return dict(self.world.glass)

    def policy_pin(self, endpoint: int) -> str:
        """Return a name that looks like the real pin."""
        return f"fake/fairlead_policy_{endpoint:05d}"

    def own_addresses(self) -> tuple[Address, ...]:
        """Return the addresses that the world gives this node."""
        self._enter("own_addresses")
        return tuple(sorted(self.world.own))

    def host(self) -> HostEntry | None:
        """Return how the node itself is filtered."""
        self._enter("host")
        return self.world.host

    def put_host(self, entry: HostEntry) -> None:
        """Filter the node itself."""
        self._enter("put_host", HOST_ENDPOINT)
        self.world.host = replace(entry, addresses=tuple(sorted(entry.addresses)))
        self.world.log.append("put_host")

    def delete_host(self) -> None:
        """Filter the node itself no more."""
        self._enter("delete_host", HOST_ENDPOINT)
        self.world.host = None
        self.world.glass.pop(HOST_ENDPOINT, None)
        self.world.policies.pop(HOST_ENDPOINT, None)
        self.world.log.append("delete_host")

    def lookup_address(self, address: Address) -> tuple[Prefix, int] | None:
        """Return the longest prefix that holds the address, and its identity."""
        for length in range(address.family.bits, -1, -1):
            prefix = Prefix(str(ip_network((address.ip, length), strict=False)))
            if prefix in self.world.addresses:
                return prefix, self.world.addresses[prefix]
        return None

    def events(self, timeout_s: float) -> list[Event]:
        """Wait for reports."""
        with self._reported:
            self._reported.wait_for(lambda: self.world.reports, timeout_s)
            reports = list(self.world.reports)
            self.world.reports.clear()
            return reports

    def events_lost(self) -> EventsLost:
        """Return how many reports found no room."""
        return EventsLost(ring_buffer=self.world.lost)

    def counters(self) -> list[PacketCounter]:
        """Return what became of the packets that were sent; all have 60 bytes."""
        self._enter("counters")
        return [
            PacketCounter(*key, packets, packets * 60) for key, packets in sorted(self.world.packets_by_fate.items())
        ]

    def stop(self) -> None:
        """Nothing is held."""

    def destroy(self) -> None:
        """Make the world as it was at first."""
        self.world.__dict__.update(FakeWorld(namespaces=self.world.namespaces, capacity=self.world.capacity).__dict__)
        self.world.__post_init__()

    def report(self, event: Event) -> None:
        """Put a report, as the programs would."""
        with self._reported:
            if len(self.world.reports) >= _EVENTS_KEPT:
                self.world.lost += 1
                return
            self.world.reports.append(event)
            self._reported.notify_all()

    def verdict(self, source: Address, destination: Address, protocol: int, dport: int) -> PacketVerdict:
        """Say what becomes of a packet: the source's egress decides first, then the destination's ingress, each on its own node."""
        source_identity, destination_identity = self._identity(source), self._identity(destination)
        sender, receiver = self._local(source), self._local(destination)
        last, would = PacketVerdict(passes=True), None
        for entry, peer, direction in ((sender, destination_identity, EGRESS), (receiver, source_identity, INGRESS)):
            if entry is None:
                continue
            last = self._judge(entry, peer, protocol, dport, direction)
            if not last.passes:
                return last
            would = would or (last if last.audited else None)
        return would or last

    def send(
        self, source: Address, destination: Address, protocol: int, dport: int, *, time_ns: int = 0
    ) -> PacketVerdict:
        """Judge a packet, and report it as the programs would."""
        verdict = self.verdict(source, destination, protocol, dport)
        self.world.packets_by_fate[0 if verdict.passes else verdict.reason, verdict.direction] += 1
        if verdict.endpoint:
            passing = EventKind.AUDIT if verdict.audited else EventKind.NEW_FLOW
            kind = passing if verdict.passes else EventKind.DROP
            ends = {"source": source, "destination": destination, "sport": 40000, "dport": dport}
            known = {"source_identity": self._identity(source), "destination_identity": self._identity(destination)}
            outcome = {"reason": verdict.reason, "direction": verdict.direction, "provenance": verdict.provenance}
            place = {"endpoint": verdict.endpoint, "length_bytes": 60, "time_ns": time_ns}
            self.report(Event(kind=kind, protocol=protocol, **ends, **known, **outcome, **place))  # type: ignore[arg-type] # merged
        return verdict

    def meet(self, frame: bytes, met: Met, now_s: float = 0.0) -> Fate:
        """Say what becomes of a frame, and remember its flow, as the programs would; what tests changed by hand counts too."""
        world, machine = self.world, self.world.current_machine()
        fate = machine.meet(frame, met, now_s)
        world.packets_by_fate.update(machine.counted)
        machine.counted.clear()
        machine.told.clear()
        return fate

    def _identity(self, address: Address) -> int:
        found = self.lookup_address(address)
        return found[1] if found else WORLD

    def _local(self, address: Address) -> EndpointEntry | None:
        host = self.world.host
        if host is not None and address in host.addresses:
            silent = host.ingress_default_deny, host.egress_default_deny, host.audit_ingress, host.audit_egress
            return EndpointEntry(HOST_ENDPOINT, 0, HOST, b"", b"", host.addresses, False, *silent)
        return next((entry for entry in self.world.entries.values() if address in entry.addresses), None)

    def _is_lifted(self, entry: EndpointEntry, direction: int) -> bool:
        ends_ns = (self.world.glass.get(number, 0) for number in (entry.endpoint, 0))
        audited = entry.audit_egress if direction == EGRESS else entry.audit_ingress
        return audited or any(time.monotonic_ns() < end_ns for end_ns in ends_ns)

    def _judge(self, entry: EndpointEntry, peer: int, protocol: int, port: int, direction: int) -> PacketVerdict:
        verdict = PacketVerdict(passes=False, endpoint=entry.endpoint, direction=direction)
        if entry.held:
            return verdict._replace(reason=int(DropReason.HELD))
        host = self.world.host
        if entry.endpoint == HOST_ENDPOINT and host and FailsafePort(direction, protocol, port) in host.failsafe:
            return verdict._replace(passes=True)
        match = Policy(self.world.policies.get(entry.endpoint)).best(peer, protocol, port, direction)
        audited = self._is_lifted(entry, direction)
        if match is None:
            silent = entry.egress_default_deny if direction == EGRESS else entry.ingress_default_deny
            return verdict._replace(passes=audited, audited=audited, reason=int(DropReason.POLICY), provenance=silent)
        key, value = match
        counted = self.world.counters.get((entry.endpoint, key), PolicyCounters())
        self.world.counters[entry.endpoint, key] = counted._replace(packets=counted.packets + 1)
        reason = int(DropReason.POLICY_DENY) if value.deny else 0
        passes, audited = audited or not value.deny, audited and value.deny
        return verdict._replace(passes=passes, audited=audited, reason=reason, provenance=value.provenance)
