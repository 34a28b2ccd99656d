"""Everything the node knows, put together: what is heard from the bus changes what is wanted of the kernel.

Handlers are synchronous, so that what one message means is decided at once and in order.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from fairlead.address import Address, Prefix
from fairlead.clock import Clock
from fairlead.schema.base import NodeName
from fairlead.schema.identity import FIRST_CIDR_IDENTITY, WORLD, AddressGroup, IdentityRow, NodeRow
from fairlead.schema.ipam import Claim
from fairlead.schema.policy import CidrRows, PolicyRow
from fairlead.table import Table, TableRow
from services.datapath.addresses import Addresses
from services.datapath.audit import StagedEnd
from services.datapath.directory import (
    IdentityBook,
    cidr_source,
    group_source,
    host_source,
    local_source,
    node_source,
)
from services.datapath.endpoints import Endpoints
from services.datapath.explain import End, Subject
from services.datapath.failsafe import HOST_ENDPOINT, FailsafePort
from services.datapath.hostpolicy import HostPolicy, HostWant
from services.datapath.masquerade import MasqueradeWish
from services.datapath.model import Decision, EndpointRecord, EndpointWant, PolicyMap
from services.datapath.outside import Masquerade
from services.datapath.overlay import Overlay
from services.datapath.policies import Policies
from services.datapath.registration import Registration
from services.datapath.store import Origins, Store
from services.datapath.tunnels import Tunnels

_LOG = logging.getLogger("datapath.node")


class Node:
    """One node's knowledge, and what it wants of the kernel and of identity."""

    def __init__(
        self,
        name: NodeName,
        addresses: tuple[Address, ...],
        store: Store,
        clock: Clock,
        overlay: Overlay | None = None,
        failsafe: frozenset[FailsafePort] = frozenset(),
        masquerade: Masquerade | None = None,
    ) -> None:
        self.name = name
        self._clock = clock
        self.identities = IdentityBook()
        self.origins = Origins(store.origins_path)
        self.policies = Policies(self.origins.number)
        self.host = HostPolicy(name, self.origins.number, failsafe)
        self.registration = Registration(name, addresses)
        self.addresses = Addresses(clock, store)
        self.tunnels = Tunnels(overlay)
        self.masquerade = MasqueradeWish(masquerade or Masquerade())
        self.prefixes: Table[str, tuple[Prefix, ...]] = Table("prefixes")
        self.endpoints = Endpoints(name, store, self, clock)
        self.trace = ""
        """The event behind the newest policy that was written."""
        self.on_hosted: Callable[[set[int]], None] = lambda _identities: None
        """Called with the identities whose policy matters here."""
        self.on_realised: Callable[[], None] = lambda: None
        """Called when what is realised may have changed."""
        self._record_by_address: dict[Address, EndpointRecord] = {}
        self._addresses_of: dict[int, tuple[Address, ...]] = {}
        self._identities_of: dict[int, frozenset[int]] = {}

    def begin(self) -> None:
        """Want what the disk says."""
        self.addresses.hear(host_source(self.registration.addresses))
        self.registration.state_node(self.prefixes.desired().get("own", ()))
        for record in self.endpoints.records.values():
            self._learn(record)
        self.endpoints.load()
        self.registration.table.initialise()
        self._hosted()

    def identity_of(self, record: EndpointRecord) -> int:
        """Return the number of the record's labels, 0 when unknown. What identity said of another endpoint with these labels counts too."""
        known = self.identities.number(record.labels, record.identity)
        alike = (other.identity for other in self.endpoints.live() if other.labels == record.labels)
        return known or next(filter(None, alike), 0)

    def policy_of(self, identity: int) -> tuple[PolicyMap | None, str]:
        """Return the newest policy of the identity, or why it cannot be had."""
        return self.policies.get(identity)

    def changed(self, record: EndpointRecord) -> None:
        """Hear that a record was made, changed or detached."""
        self._learn(record)
        if record.detached:
            self.addresses.hear(local_source(record, gone=True))
            self._hosted()
            self.on_realised()

    def _learn(self, record: EndpointRecord) -> None:
        self.registration.state_endpoint(record)
        for address in self._addresses_of.pop(record.endpoint, ()):
            holder = self._record_by_address.get(address)
            if holder is not None and holder.endpoint == record.endpoint:  # it may have moved on
                del self._record_by_address[address]
        if record.detached:
            self._identities_of.pop(record.endpoint, None)
            return
        self._addresses_of[record.endpoint] = record.addresses
        self._record_by_address.update(dict.fromkeys(record.addresses, record))

    def decided(self, record: EndpointRecord, decision: Decision) -> None:
        """Hear what should stand for the endpoint: its addresses belong to the identity under which it passes."""
        self.addresses.hear(local_source(record, decision.want.identity or decision.identity))
        identities = frozenset((decision.identity, decision.want.identity))
        if self._identities_of.get(record.endpoint) != identities:
            self._identities_of[record.endpoint] = identities
            self._hosted()
        self.on_realised()

    def _hosted(self) -> None:
        self.on_hosted(set().union(*self._identities_of.values()) - {0})

    def settled(self, rows: Sequence[TableRow[int, EndpointWant]]) -> None:
        """Hear from the reconciler that it has worked on these endpoints."""
        self.endpoints.settled(rows)
        self.trace = next((row.value.policy.trace for row in rows if row.value.policy), self.trace)
        self.on_realised()

    def host_settled(self, rows: Sequence[TableRow[str, HostWant]]) -> None:
        """Hear from the reconciler that it has worked on the node itself."""
        self.trace = self.host.settled(rows) or self.trace
        self.on_realised()

    async def on_identity(self, key: str, row: IdentityRow | None) -> None:
        """Hear of a label set, or that its number means nothing any more."""
        if not key.isdecimal():
            return
        concerned = {self.identities.labels(int(key))}
        if row is None:
            self.identities.remove(int(key))
        else:
            self.identities.put(row)
            concerned.add(row.labels)
        for record in self.endpoints.live():
            if record.labels in concerned:
                self.endpoints.refresh(record.endpoint)

    async def on_policy(self, key: str, row: PolicyRow | None) -> None:
        """Hear of an identity's policy, or of the node's own."""
        if key == self.host.key:
            self.host.hear(row)
            self.on_realised()
        if not key.isdecimal():
            return
        self.policies.hear(int(key), row)
        for endpoint, decision in tuple(self.endpoints.decisions.items()):
            if int(key) in (decision.identity, decision.want.identity):
                self.endpoints.refresh(endpoint)

    async def on_group(self, key: str, row: AddressGroup | None) -> None:
        """Hear of a group of workload addresses."""
        self.addresses.hear(group_source(key, row), row.trace if row else "")

    async def on_node(self, key: str, row: NodeRow | None) -> None:
        """Hear of a node of the fleet."""
        if key != self.name:
            self.addresses.hear(node_source(key, row), row.trace if row else "")
            self.tunnels.hear(key, row)
            self.masquerade.hear(key, row.prefixes if row else ())

    async def on_cidrs(self, key: str, row: CidrRows | None) -> None:
        """Hear of the prefixes that policies name."""
        del key  # the bucket has one row
        if row is not None:
            self.identities.put_cidrs(row)
        source = cidr_source(row)
        if row is not None and len(source.owners) < len(row.rows):
            _LOG.error("%d prefixes of policies make no sense or stand twice", len(row.rows) - len(source.owners))
        self.addresses.hear(source, row.trace if row else "")

    async def on_claim(self, key: str, row: Claim | None) -> None:
        """Hear of the prefixes of this node's workloads; a claim that is gone changes nothing while workloads may use it."""
        if key == self.name and row is not None:
            self.prefixes.put("own", row.prefixes)
            self.prefixes.initialise()
            self.registration.state_node(row.prefixes)
            self.masquerade.hear(self.name, row.prefixes)

    def end(self, address: Address, identity: int) -> End:
        """Return what is known of one end of a flow."""
        record, labels = self._record_by_address.get(address), self.identities.labels(identity)
        prefix, owner = self._claimed(address, identity)
        age_s = self.addresses.book.age_s(prefix, self._clock.now())
        if record is not None:
            return End(labels, record.name, record.endpoint, age_s)
        return End(labels, owner, 0, age_s)

    def staged_end(self, address: Address) -> StagedEnd | None:
        """Return what would be enforced at the endpoint with this address if nothing were merely audited; None if it is elsewhere."""
        record = self._record_by_address.get(address)
        decision = self.endpoints.decisions.get(record.endpoint) if record else None
        if record is None or decision is None:
            return None
        return StagedEnd(record.endpoint, self.policies.staged(decision.want.identity))

    def _claimed(self, address: Address, identity: int) -> tuple[Prefix, str]:
        """Return the prefix that gave the address its identity, and its owner's name; only prefixes of policies are not hosts."""
        prefix = address.prefix
        if identity >= FIRST_CIDR_IDENTITY:
            prefix = next((p for p in self.addresses.book.ranges_of(identity) if address in p), prefix)
        owner = self.addresses.book.owner(prefix)
        return prefix, owner.name if owner and identity != WORLD else ""

    def subject(self, endpoint: int) -> Subject:
        """Return what is known of the endpoint whose policy decided."""
        if endpoint == HOST_ENDPOINT:
            return Subject(f"node {self.name}", "", self.host.standing.revision if self.host.standing else 0)
        record, stands = self.endpoints.records.get(endpoint), self.endpoints.standing.get(endpoint)
        if record is None or endpoint not in self.endpoints.decisions:
            return Subject()
        return Subject(
            record.name, self.endpoints.state(endpoint)[1], stands.policy.revision if stands and stands.policy else 0
        )
