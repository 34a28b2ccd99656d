"""What the datapath service can ask of a kernel. The real one is `kernel.linux.LinuxKernel`, its twin `kernel.fake.FakeKernel`.

Every call is synchronous, idempotent and safe to repeat; none waits for the bus. Callers run them in one worker thread. Failures of
the world raise `KernelError` with what to do; a row that fails never leaves half of itself behind for the packet path: programs see
an endpoint only after `put_endpoint`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from fairlead.address import Address, Prefix
from fairlead.errors import FairleadError
from services.datapath.addressmaps import AddressMaps
from services.datapath.failsafe import HostEntry
from services.datapath.outside import Masquerade, MasqueradedFlow
from services.datapath.reports import Event, EventsLost, KernelReport, PacketCounter, Sweep


class KernelError(FairleadError):
    """The kernel refused; the message names the object and the reason."""

    code = "kernel"


POLICY_MAP_CAPACITY = 16384
"""Entries that one endpoint's policy map holds; its map of port ranges holds as many blocks."""


@dataclass(frozen=True)
class Link:
    """The plumbing of one endpoint: a veth pair whose far end is `interface` in the namespace `netns`.

    With `netns` empty the far end is left in the node's own namespace, for somebody who moves it and gives it all else.
    """

    endpoint: int
    netns: str
    interface: str
    addresses: tuple[Address, ...]
    mtu_bytes: int
    """0: the MTU of the uplinks."""


@dataclass(frozen=True)
class Plugged:
    """What `plug` made or found."""

    endpoint: int
    host_interface: str
    """`fl` and the endpoint's number in five digits, for instance fl00007."""
    ifindex: int
    host_mac: bytes
    pod_mac: bytes


@dataclass(frozen=True)
class EndpointEntry:
    """What the programs need to know of a local endpoint."""

    endpoint: int
    ifindex: int
    identity: int
    host_mac: bytes
    pod_mac: bytes
    addresses: tuple[Address, ...]
    held: bool = True
    """True: nothing passes, whatever the policy map holds (identity or policy is not known yet)."""
    ingress_default_deny: int = 0
    """Provenance number reported with a drop that no entry caused; 0: none."""
    egress_default_deny: int = 0
    audit_ingress: bool = False
    """What the policy of this direction denies passes, and is reported as AUDIT; the next one alike."""
    audit_egress: bool = False


class PolicyKey(NamedTuple):
    """Key of a policy map, 8 bytes: identity u32 host order, port u16 network order, protocol u8, direction u8.

    With `port_bits` it is no key of that map but a block of ports in the endpoint's companion map of ranges.
    """

    identity: int
    port: int
    protocol: int
    direction: int
    port_bits: int = 0
    """1 to 16: every port whose first bits are those of `port`, the others of which are 0; 0: just `port`, or any if that is 0."""

    @property
    def is_sound(self) -> bool:
        """Tell whether such a key can exist: a block begins where its bits end, and belongs to a protocol."""
        return not self.port_bits or bool(
            0 < self.port_bits <= 16 and self.protocol and not self.port & 0xFFFF >> self.port_bits
        )


class PolicyValue(NamedTuple):
    """Value of a policy map without its counters, 24 bytes in all; all zero is a plain allow.

    Proxy port u16 network order, flags u8 (bit 0 deny), precedence u8, provenance u32 host order, packets u64, bytes u64.
    """

    deny: bool = False
    precedence: int = 0
    proxy_port: int = 0
    provenance: int = 0


class PolicyCounters(NamedTuple):
    """What an entry has decided so far (first packets of flows and re-judged ones; established packets count in the flow)."""

    packets: int = 0
    bytes: int = 0


class Kernel(AddressMaps, Protocol):
    """The kernel of one node."""

    def start(self) -> KernelReport:
        """Adopt or create maps and programs, and attach them to the uplinks. An adopted datapath never stops forwarding meanwhile."""

    def plug(self, link: Link) -> Plugged:
        """Make the veth pair, addresses, routes and filter be there. The endpoint passes nothing before `put_endpoint`."""

    def intact_links(self, wanted: Iterable[Link]) -> dict[int, Plugged]:
        """Return those of the links that stand as `plug` left them, by endpoint number: what a kill cut short is not among them.

        Only the node's own side is looked at; what somebody has changed within an endpoint's namespace is not seen.
        """

    def unplug(self, endpoint: int) -> None:
        """Remove the veth pair, the endpoint's policy map and everything else of the endpoint."""

    def plugged(self) -> dict[int, Plugged]:
        """Return the links that exist now and carry our filter, by endpoint number."""

    def set_prefixes(self, prefixes: Iterable[Prefix]) -> None:
        """Make the node's own stack reach these prefixes, and no others, through its pods' programs. The main table stays as it is."""

    def set_masquerade(self, wanted: Masquerade) -> None:
        """Make new flows to the world leave as wanted; flows that stand keep what they have while the family is masqueraded."""

    def masquerade(self) -> Masquerade:
        """Return what programs do now; `addresses` are those that flows leave with."""

    def masqueraded(self) -> list[MasqueradedFlow]:
        """Return the outer ends that are held, sorted."""

    def endpoints(self) -> dict[int, EndpointEntry]:
        """Return the endpoint entries that stand in the maps, their addresses sorted."""

    def put_endpoint(self, entry: EndpointEntry) -> None:
        """Write the endpoint's entry; addresses it had before and lacks now are removed. Flows are judged anew."""

    def delete_endpoint(self, endpoint: int) -> None:
        """Remove the entry; from then on nothing passes to or from it."""

    def policy(self, endpoint: int) -> dict[PolicyKey, tuple[PolicyValue, PolicyCounters]]:
        """Return the endpoint's policy map; empty when it has none."""

    def holds_policy(self, endpoint: int, entries: Mapping[PolicyKey, PolicyValue]) -> bool:
        """Tell whether the endpoint's policy map is there and holds exactly these entries."""

    def apply_policy(self, endpoint: int, puts: Mapping[PolicyKey, PolicyValue], deletes: Iterable[PolicyKey]) -> None:
        """Change the endpoint's policy map (made on first use), then have its flows judged anew. Raises KernelError when it is full."""

    def broken_glass(self) -> dict[int, int]:
        """Return until when (CLOCK_MONOTONIC, ns) somebody broke the glass, by endpoint (0: the whole node); ended rows too.

        Nothing here breaks any. A row goes with its endpoint (`delete_endpoint`, `delete_host`); all else leaves it as it is.
        """

    def policy_pin(self, endpoint: int) -> str:
        """Return the path at which the endpoint's policy map is pinned."""

    def own_addresses(self) -> tuple[Address, ...]:
        """Return every address of the node itself, link-local ones too, sorted; loopback's are left out."""

    def host(self) -> HostEntry | None:
        """Return how the node itself is filtered; None: it is not."""

    def put_host(self, entry: HostEntry) -> None:
        """Filter what the node itself receives and sends by the policy map of HOST_ENDPOINT. Flows are judged anew."""

    def delete_host(self) -> None:
        """Filter the node itself no more, and remove its policy map."""

    def tunnels(self) -> dict[Prefix, Address]:
        """Return prefix to the node that has it, as far as both the programs and the node's own stack know the way."""

    def apply_tunnels(self, puts: Mapping[Prefix, Address], deletes: Iterable[Prefix]) -> None:
        """Change prefix to node, and the way of the node's own stack, then have flows judged anew. An address outside is a node's."""

    def events(self, timeout_s: float) -> list[Event]:
        """Wait up to `timeout_s` for reports, and return those that came. The one call that comes from a second thread."""

    def events_lost(self) -> EventsLost:
        """Return how many reports did not come, by why: since the maps were created, but `unknown` since `start`."""

    def sweep(self) -> Sweep:
        """Look through the next slice of the flow table, and delete what has been over for a while; never a flow that is valid."""

    def counters(self) -> list[PacketCounter]:
        """Return the packets forwarded and dropped, per reason and direction; what never happened is left out."""

    def stop(self) -> None:
        """Close descriptors. Nothing is detached, unpinned or removed."""

    def destroy(self) -> None:
        """Remove everything of this node: filters, links, pins. For `lab-down` and uninstall only."""
