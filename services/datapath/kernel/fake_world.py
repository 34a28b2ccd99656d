"""What stands in the kernel of dicts (`fake.py`), whichever process holds it."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import NamedTuple

from fairlead.address import Address
from services.datapath.failsafe import HostEntry
from services.datapath.kernel.abi import unpack_address
from services.datapath.kernel.fake_flows import FakeTable
from services.datapath.kernel.fake_routes import FakeWays
from services.datapath.kernel.twin.cases import Route
from services.datapath.kernel.twin.machine import Machine
from services.datapath.kernel.twin.policy import INGRESS
from services.datapath.operations import (
    POLICY_MAP_CAPACITY,
    EndpointEntry,
    Link,
    Plugged,
    PolicyCounters,
    PolicyKey,
    PolicyValue,
)
from services.datapath.reports import Event


class PacketVerdict(NamedTuple):
    """What becomes of the first packet of a flow."""

    passes: bool
    reason: int = 0
    provenance: int = 0
    endpoint: int = 0
    """The endpoint whose policy decided; 0: no local endpoint had a say."""
    direction: int = INGRESS
    audited: bool = False
    """It passes although the policy denies it for `reason`, because the endpoint is only audited."""


@dataclass
class FakeWorld(FakeWays, FakeTable):
    """What outlives a process: hand the same world to a second `FakeKernel`, and it adopts what it finds."""

    started: bool = False
    links: dict[int, tuple[Link, Plugged]] = field(default_factory=dict)
    entries: dict[int, EndpointEntry] = field(default_factory=dict)
    policies: dict[int, dict[PolicyKey, PolicyValue]] = field(default_factory=dict)
    counters: dict[tuple[int, PolicyKey], PolicyCounters] = field(default_factory=dict)
    own: tuple[Address, ...] = ()
    """The node's own addresses."""
    host: HostEntry | None = None
    glass: dict[int, int] = field(default_factory=dict)
    """Until when (ns) somebody broke the glass, by endpoint; 0 is the whole node."""
    reports: deque[Event] = field(default_factory=deque)
    lost: int = 0
    packets_by_fate: Counter[tuple[int, int]] = field(default_factory=Counter)
    next_ifindex: int = 100
    namespaces: set[str] | None = None
    """The namespaces that exist; None: all."""
    capacity: int = POLICY_MAP_CAPACITY
    faults: dict[tuple[str, int], str] = field(default_factory=dict)
    """Operation and endpoint (0 for calls without one) to the error it raises."""

    def __post_init__(self) -> None:
        self.machine = Machine(self._route)

    def current_machine(self) -> Machine:
        """Return the programs with the rows of this moment; what tests changed by hand counts too."""
        machine = self.machine
        machine.rows.show(self.entries, self.policies, self.addresses, self.host, self.tunnels)
        if machine.outside.given != self.masquerade:
            machine.outside.put(self.masquerade)
        machine.rows.glass = {number: until / 1e9 for number, until in self.glass.items()}
        return machine

    def _route(self, destination: bytes) -> Route:
        address = unpack_address(destination)
        return Route.OWN_PREFIX if any(address in prefix for prefix in self.prefixes) else Route.AWAY
