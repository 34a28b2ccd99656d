"""The kernel of one node, for real: `operations.Kernel` on pinned eBPF maps, tc filters, veth pairs and our own routes.

Calls come from one thread. Everything lives in the network namespace in which `start` was called. A call that was cut
short by a kill is completed by making it again; programs see an endpoint only when `put_endpoint` has written it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from fairlead.address import Address, Prefix
from services.datapath.kernel import abi, door, features, links, masquerade, overlay, pins, plumbing, routes
from services.datapath.kernel.addressing import LinuxAddresses
from services.datapath.kernel.events import EventReader
from services.datapath.kernel.firewall import Firewall, FirewallCalls
from services.datapath.kernel.loader import BETWEEN
from services.datapath.kernel.maps import ensure_pin_directory, jiffies_per_second, remove_pins
from services.datapath.kernel.netlink import Netlink
from services.datapath.kernel.programs import Programs
from services.datapath.kernel.sweep import Sweeper, judge_of_age
from services.datapath.kernel.tables import Tables
from services.datapath.kernel.tuning import Tuning
from services.datapath.operations import (
    EndpointEntry,
    KernelError,
    Link,
    Plugged,
    PolicyCounters,
    PolicyKey,
    PolicyValue,
)
from services.datapath.outside import Masquerade, MasqueradedFlow
from services.datapath.overlay import Overlay
from services.datapath.reports import Event, EventsLost, Feature, KernelReport, PacketCounter, Sweep

DEFAULT_PIN_DIRECTORY = Path("/sys/fs/bpf/tc/globals")


class LinuxKernel(LinuxAddresses, FirewallCalls):
    """The kernel of the network namespace in which `start` is called."""

    def __init__(
        self,
        pin_directory: Path = DEFAULT_PIN_DIRECTORY,
        uplinks: Sequence[str] = (),
        tuning: Tuning | None = None,
        tunnels: Overlay | None = None,
    ) -> None:
        links.check_names(uplinks)
        self._directory = pin_directory
        self._uplinks = tuple(uplinks)
        self._tuning = tuning or Tuning()
        self._overlay = tunnels
        self._tables = Tables(pin_directory, self._tuning.flows, self._tuning.addresses, self._tuning.masquerades)
        self._firewall = Firewall(self._tables)
        self._programs = Programs(pin_directory)
        self._netlink: Netlink | None = None
        self._reader: EventReader | None = None
        self._sweeper: Sweeper | None = None
        self._door = door.Door()
        self._mtu_bytes = 0
        self._features: tuple[Feature, ...] = ()

    @property
    def _wire(self) -> Netlink:
        if self._netlink is None:
            raise KernelError("the kernel is not started: call start() first")
        return self._netlink

    # start and stop

    def start(self) -> KernelReport:
        """Adopt or create maps and programs, and attach them to the uplinks. Forwarding never stops meanwhile."""
        ensure_pin_directory(self._directory)
        self._netlink = self._netlink or Netlink()
        self._features = self._features or features.probe(self._netlink)
        features.require(self._features)
        pins.restore(self._netlink, self._directory, self._uplinks)
        pins.settle(self._netlink, self._directory, self._uplinks)
        moved = self._tables.open()
        schema, _, source = self._tables.version()
        compile_s = self._load_programs(bytes(32) if moved else source)
        self._prepare_host()
        self._attach_all()
        events = self._tables.maps["events"]
        self._reader = self._reader or EventReader(events.fd, events.spec.entries)
        return KernelReport(
            adopted=schema != 0,
            compile_s=compile_s,
            features=self._features,
            kernel_release=os.uname().release,
            pin_directory=str(self._directory),
            uplinks=self._uplinks,
            migrated_from=schema if moved else 0,
        )

    def _load_programs(self, standing: bytes) -> float:
        if standing == abi.source_hash() and self._programs.stand():
            return 0.0
        self._tables.unset_version()
        return self._programs.make(self._tables.migration.former)

    def _prepare_host(self) -> None:
        uplinks = [links.find_uplink(self._wire, name) for name in self._uplinks]
        self._mtu_bytes = min((uplink.mtu_bytes for uplink in uplinks), default=1500)
        if self._overlay is not None:
            self._mtu_bytes -= self._overlay.overhead_bytes
        tunnel_ifindex = overlay.ensure(self._wire, self._overlay, self._mtu_bytes)
        self._door = door.ensure(self._wire, self._mtu_bytes, self._features)
        tuning, second = self._tuning, jiffies_per_second()
        self._tables.set_settings(
            abi.Settings(
                host_ifindex=self._door.ifindex,
                second=second,
                syn_timeout=second * tuning.syn_timeout_s,
                established_timeout=second * tuning.established_timeout_s,
                closing_timeout=second * tuning.closing_timeout_s,
                other_timeout=second * tuning.other_timeout_s,
                drops_per_second=tuning.drop_events_per_second,
                new_flows_per_second=tuning.flow_events_per_second,
                closed_flows_per_second=tuning.flow_events_per_second,
                audits_per_second=tuning.drop_events_per_second,
                report_interval=second * tuning.report_interval_s,
                mtu_bytes=self._mtu_bytes,
                tunnel_ifindex=tunnel_ifindex,
            )
        )

    def _attach_all(self) -> None:
        """Put the programs where they belong, by way of those that go between where tables move."""
        migration = self._tables.migration
        migration.fold(attached=False)
        if migration.former:
            self._attach_everywhere(BETWEEN)
            migration.carry_over(judge_of_age(self._tables))
        self._attach_everywhere()
        migration.fold(attached=True)
        self._tables.set_version(abi.source_hash())
        migration.finish()
        self._programs.forget_between()
        # rows that were changed by hand, or by a process that died before it could say so, count from now on
        self._tables.bump_addresses()

    def _attach_everywhere(self, suffix: str = "") -> None:
        """Put programs on each place; a filter that has the right one already is left alone."""
        self._programs.use(suffix)
        for place in pins.places(self._wire, self._uplinks):
            self._attach(*place)
        self._guard_uplinks()

    def _lacks(self, ifindex: int, hook: int, program: str) -> bool:
        standing = links.attached(self._wire, ifindex, hook)
        return standing is None or standing.program_id != self._programs.number(program)

    def _attach(self, ifindex: int, hook: int, program: str) -> None:
        if self._lacks(ifindex, hook, program):
            self._wire.send(links.attach(ifindex, hook, program, self._programs.fd(program)))

    def stop(self) -> None:
        """Close descriptors. Nothing is detached, unpinned or removed."""
        self._programs.close()
        for helper in (self._reader, self._sweeper):
            if helper is not None:
                helper.close()
        self._reader = self._sweeper = None
        if self._netlink is not None:
            self._netlink.close()
            self._netlink = None
        self._tables.close()

    def destroy(self) -> None:
        """Remove everything of this node: filters, links, pins. For `lab-down` and uninstall only."""
        wire = self._netlink or Netlink()
        plumbing.remove_all(wire, self._uplinks)
        self._netlink = wire
        self.stop()
        remove_pins(self._directory)

    # links

    def plug(self, link: Link) -> Plugged:
        """Make veth pair, addresses, routes and filter be there. The endpoint passes nothing before `put_endpoint`."""
        self._tables.policies.mend(link.endpoint)
        return plumbing.plug(self._wire, link, self._mtu_bytes, self._attach)

    def intact_links(self, wanted: Iterable[Link]) -> dict[int, Plugged]:
        """Return those of the links that stand as `plug` left them, as far as the node's own side tells."""
        found = plumbing.intact(self._wire, wanted, self._mtu_bytes, self._lacks)
        for endpoint in found:
            self._tables.policies.mend(endpoint)
        return found

    def unplug(self, endpoint: int) -> None:
        """Remove the veth pair, the endpoint's policy map and everything else of the endpoint."""
        self._tables.delete_endpoint(endpoint)
        self._wire.send([links.remove_device(links.host_interface(endpoint))])
        self._tables.delete_policy(endpoint)

    def plugged(self) -> dict[int, Plugged]:
        """Return the links that exist now and carry our filter, by endpoint number."""
        return plumbing.plugged(self._wire)

    def set_prefixes(self, prefixes: Iterable[Prefix]) -> None:
        """Make the node's own stack reach these prefixes, and no others, through its pods' programs."""
        routes.set_routes(self._wire, prefixes, self._door)

    # masquerade

    def set_masquerade(self, wanted: Masquerade) -> None:
        """Make new flows to the world leave as wanted; flows that stand keep what they have while the family is masqueraded."""
        addresses = masquerade.own_addresses(self._wire, self._uplinks, wanted.addresses)
        self._tables.set_masquerade(wanted, addresses)

    def masquerade(self) -> Masquerade:
        """Return what programs do now; `addresses` are those that flows leave with."""
        return self._tables.standing_masquerade()

    def masqueraded(self) -> list[MasqueradedFlow]:
        """Return the outer ends that are held, sorted."""
        return self._tables.outer_ends.flows(jiffies_per_second())

    # rows

    def endpoints(self) -> dict[int, EndpointEntry]:
        """Return the endpoint entries that stand in the maps."""
        return self._tables.endpoints()

    def put_endpoint(self, entry: EndpointEntry) -> None:
        """Write the endpoint's entry; addresses it had before and lacks now are removed. Flows are judged anew."""
        self._tables.put_endpoint(entry)

    def delete_endpoint(self, endpoint: int) -> None:
        """Remove the entry; from then on nothing passes to or from it."""
        self._tables.delete_endpoint(endpoint)

    def policy(self, endpoint: int) -> dict[PolicyKey, tuple[PolicyValue, PolicyCounters]]:
        """Return the endpoint's policy map; empty when it has none."""
        return self._tables.policies.rows(endpoint)

    def holds_policy(self, endpoint: int, entries: Mapping[PolicyKey, PolicyValue]) -> bool:
        """Tell whether the endpoint's policy map is there and holds exactly these entries."""
        return self._tables.policies.hold(endpoint, entries)

    def apply_policy(self, endpoint: int, puts: Mapping[PolicyKey, PolicyValue], deletes: Iterable[PolicyKey]) -> None:
        """Change the endpoint's policy map, then have its flows judged anew. Raises KernelError when it is full."""
        self._tables.apply_policy(endpoint, puts, deletes)

    def broken_glass(self) -> dict[int, int]:
        """Return until when (CLOCK_MONOTONIC, ns) somebody broke the glass, by endpoint (0: the whole node); ended rows too."""
        return self._tables.broken_glass()

    def policy_pin(self, endpoint: int) -> str:
        """Return the path at which the endpoint's policy map is pinned."""
        return str(self._tables.policies.pin(endpoint))

    def tunnels(self) -> dict[Prefix, Address]:
        """Return prefix to the node that has it, where the stack's route stands too; a route alone leads to `::`, which is no node's."""
        rows, mtus = self._tables.tunnels(), routes.routes(self._wire, routes.TUNNELS)
        routed = {prefix for prefix, mtu_bytes in mtus.items() if mtu_bytes == self._door.route_mtu_bytes}
        stray = dict.fromkeys(mtus.keys() - rows.keys(), Address("::"))
        return {prefix: node for prefix, node in rows.items() if prefix.is_host or prefix in routed} | stray

    def apply_tunnels(self, puts: Mapping[Prefix, Address], deletes: Iterable[Prefix]) -> None:
        """Change prefix to node, and the way of the node's own stack, then have flows judged anew."""
        gone = [prefix for prefix in deletes if prefix not in puts]
        speak = self._overlay.source if self._overlay else lambda _family: None
        # a node's own addresses have no route here: what carries the tunnels must find its way outside them
        ways = {prefix: speak(int(prefix.family)) for prefix in puts if not prefix.is_host}
        self._tables.apply_tunnels(puts, gone)
        routes.change_tunnels(self._wire, ways, gone, self._door)

    def events(self, timeout_s: float) -> list[Event]:
        """Wait up to `timeout_s` for reports, and return those that came."""
        if self._reader is None:
            raise KernelError("the kernel is not started: call start() first")
        return self._reader.read(timeout_s)

    def events_lost(self) -> EventsLost:
        """Return how many reports did not come, by why."""
        unknown = self._reader.strange if self._reader else 0
        return EventsLost(*self._tables.events_lost(), unknown)

    def sweep(self) -> Sweep:
        """Look through the next slice of the flow table, and delete what has been over for a while."""
        self._sweeper = self._sweeper or Sweeper(self._tables)
        return self._sweeper.sweep()

    def counters(self) -> list[PacketCounter]:
        """Return the packets forwarded and dropped, per reason and direction; what never happened is left out."""
        return self._tables.counters()
