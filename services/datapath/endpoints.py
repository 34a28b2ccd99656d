"""Endpoints on the event loop's side: records, decisions, and the reconciler's operations."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Protocol

import msgspec

from fairlead.clock import Clock
from fairlead.errors import FairleadError
from fairlead.labels import normalise, refuse_reserved
from fairlead.schema.base import EndpointId, IdentityId, NodeName
from fairlead.schema.datapath import AttachEndpoint, EndpointState, EndpointStatus
from fairlead.schema.identity import UNKNOWN
from fairlead.table import StatusKind, Table, TableRow
from services.datapath.model import Decision, EndpointRecord, EndpointWant, Knowledge, PolicyMap, attach, decide
from services.datapath.operations import PolicyKey
from services.datapath.realise import Realiser, Standing
from services.datapath.store import Store
from services.datapath.worker import KernelThread

_LOG = logging.getLogger("datapath.endpoints")
_ANY = PolicyKey(0, 0, 0, 0)
_DETACH_WAIT_S = 2.0


class Oracle(Protocol):
    """What the rest of the service knows and needs to know about endpoints."""

    def identity_of(self, record: EndpointRecord) -> int:
        """Return the number of the record's labels, 0 when unknown."""

    def policy_of(self, identity: int) -> tuple[PolicyMap | None, str]:
        """Return the newest policy of the identity, or why it cannot be had."""

    def changed(self, record: EndpointRecord) -> None:
        """Hear that a record was made, changed or detached."""

    def decided(self, record: EndpointRecord, decision: Decision) -> None:
        """Hear what should stand for the endpoint."""


class Endpoints:
    """All endpoints of the node."""

    def __init__(self, node: NodeName, store: Store, oracle: Oracle, clock: Clock) -> None:
        self._node = node
        self._store = store
        self._oracle = oracle
        self._clock = clock
        self._last = 0
        """The number given last; numbers are reused late, so that nothing confuses an endpoint with an earlier one."""
        self._turn = asyncio.Lock()
        self._moved: dict[int, asyncio.Event] = {}
        """What those wait for who wait for an endpoint: hundreds may be waited for at once."""
        self._since: dict[int, tuple[EndpointState, datetime]] = {}
        self.table: Table[int, EndpointWant] = Table("endpoints")
        self.records: dict[int, EndpointRecord] = {record.endpoint: record for record in store.endpoints()}
        self.kept: dict[int, PolicyMap] = {}
        """The policy that was confirmed last."""
        self.standing: dict[int, Standing] = {}
        self.decisions: dict[int, Decision] = {}
        self.recheck: set[int] = set()
        """Endpoints whose namespace may be another one under the same path."""
        self.strangers: set[int] = set()
        """Endpoints that stand in the kernel and that nothing on disk explains: kept, and shown."""

    def live(self) -> list[EndpointRecord]:
        """Return the endpoints that are not detached."""
        return [record for record in self.records.values() if not record.detached]

    def find(self, text: str) -> EndpointRecord | None:
        """Return the endpoint meant by number, name or address."""
        return next(
            (record for record in self.live() if text in (str(record.endpoint), record.name, *record.addresses)), None
        )

    async def attach(self, ask: AttachEndpoint) -> EndpointRecord:
        """Keep the wish on disk, have it realised, and return its record. Raises InvalidInput, Conflict, Exhausted."""
        labels = normalise(ask.labels)
        refuse_reserved(labels)
        async with self._turn:
            taken = {*self.records, *self.strangers, self._last}
            record = attach(ask, labels, self.records.values(), taken, self._clock.now())
            old = self.records.get(record.endpoint)
            if old != record:
                await asyncio.to_thread(self._store.save_endpoint, record)
                self.records[record.endpoint] = record
                self._last = record.endpoint
                self._oracle.changed(record)
        self.refresh(record.endpoint)
        if (
            old in (None, record) or record.netns
        ):  # a pair without namespace goes with whoever has it: new labels do not touch it
            self.recheck.add(record.endpoint)
        self.table.touch([record.endpoint])
        return record

    async def detach(self, name: str) -> bool:
        """Keep the wish on disk, have the endpoint removed, and wait a moment for it; False when there was none."""
        async with self._turn:
            record = next((record for record in self.live() if record.name == name), None)
            if record is None:
                return False
            await self._keep(msgspec.structs.replace(record, detached=True))
            self._oracle.changed(self.records[record.endpoint])
        self.table.put(record.endpoint, EndpointWant(record.link, None))
        self.table.remove(record.endpoint)
        await self._wait(record.endpoint, lambda: self.table.get(record.endpoint) is None, _DETACH_WAIT_S)
        return True

    def load(self) -> None:
        """Want what the disk says."""
        for record in self.records.values():
            if not record.detached:
                self.refresh(record.endpoint)
            elif not record.unplugged:
                self.table.put(record.endpoint, EndpointWant(record.link, None))
                self.table.remove(record.endpoint)
        self.table.initialise()

    def refresh(self, endpoint: int) -> None:
        """Decide anew what should stand for the endpoint."""
        record = self.records.get(endpoint)
        if record is None or record.detached:
            return
        identity = UNKNOWN if record.unlabelled else self._oracle.identity_of(record)
        policy, refusal = self._oracle.policy_of(identity) if identity else (None, "")
        decision = decide(record, Knowledge(identity, policy, refusal, self.kept.get(endpoint)))
        self.decisions[endpoint] = decision
        self._oracle.decided(record, decision)
        self.table.put(endpoint, decision.want)
        self._mark(endpoint)

    async def acknowledge(self, endpoint: int, generation: int, identity: int) -> None:
        """Hear that identity has committed the endpoint as of `generation`."""
        async with self._turn:
            record = self.records.get(endpoint)
            if record is None or record.generation != generation or record.detached:
                return
            newer = self.records[endpoint] = msgspec.structs.replace(record, acknowledged=generation, identity=identity)
            self.refresh(endpoint)  # the disk may take its time: asking again would give the same answer
            await asyncio.to_thread(self._store.save_endpoint, newer)

    async def withdrawn(self, endpoint: int) -> None:
        """Hear that identity has forgotten the endpoint."""
        async with self._turn:
            await self._over(endpoint, withdrawn=True)

    async def unplugged(self, endpoint: int) -> None:
        """Hear that the kernel holds nothing of the endpoint any more."""
        async with self._turn:
            await self._over(endpoint, unplugged=True)

    async def _over(self, endpoint: int, **done: bool) -> None:
        record = self.records.get(endpoint)
        if record is None or not record.detached:
            return
        newer = msgspec.structs.replace(record, **done)
        if newer.is_over:
            del self.records[endpoint]
            await asyncio.to_thread(self._store.drop_endpoint, endpoint)
        else:
            await self._keep(newer)

    async def _keep(self, record: EndpointRecord) -> None:
        await asyncio.to_thread(self._store.save_endpoint, record)
        self.records[record.endpoint] = record

    async def wait_ready(self, endpoint: int, wait_s: float) -> None:
        """Wait until the endpoint's newest wish is ready or has failed, at most so long."""
        await self._wait(endpoint, lambda: self._is_settled(endpoint), wait_s)

    def _is_settled(self, endpoint: int) -> bool:
        row = self.table.get(endpoint)
        if row is None or row.doomed or endpoint not in self.decisions:
            return True
        # without labels it has come as far as it can by itself
        final = (EndpointState.READY, EndpointState.FAILED, EndpointState.WAITING_FOR_LABELS)
        return row.status.kind is not StatusKind.PENDING and self.state(endpoint)[0] in final

    async def _wait(self, endpoint: int, reached: Callable[[], bool], wait_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                while not reached():
                    await self._moved.setdefault(endpoint, asyncio.Event()).wait()

    def state(self, endpoint: int) -> tuple[EndpointState, str]:
        """Return how far the endpoint has come, and why no further."""
        decision, row = self.decisions[endpoint], self.table.get(endpoint)
        stands = self.standing.get(endpoint, Standing())
        if row is not None and row.status.kind is StatusKind.FAILED:
            state = EndpointState.READY if stands.passes else EndpointState.FAILED
            return state, row.status.detail
        if decision.state is EndpointState.READY and not stands.passes:
            return EndpointState.WAITING_FOR_POLICY, "the kernel is being written"
        return decision.state, decision.detail

    def status(self, endpoint: int) -> EndpointStatus:
        """Return the endpoint, desired and realised."""
        record, decision = self.records[endpoint], self.decisions[endpoint]
        stands = self.standing.get(endpoint, Standing())
        state, detail = self.state(endpoint)
        entries = stands.policy.entries if stands.policy else {}
        return EndpointStatus(
            endpoint=EndpointId(record.endpoint),
            name=record.name,
            node=self._node,
            addresses=record.addresses,
            labels=record.labels,
            identity=IdentityId(decision.identity),
            state=state,
            detail=detail,
            since=self._since.get(endpoint, (state, record.created))[1],
            host_interface=stands.plugged.host_interface if stands.plugged else "",
            mac=stands.plugged.pod_mac.hex(":") if stands.plugged else "",
            netns=record.netns,
            policy_revision=stands.policy.revision if stands.policy else 0,
            ingress_enforced=stands.policy is not None and _ANY not in entries,
            egress_enforced=stands.policy is not None and PolicyKey(0, 0, 0, 1) not in entries,
        )

    def settled(self, rows: Sequence[TableRow[int, EndpointWant]]) -> None:
        """Hear from the reconciler that it has worked on these rows."""
        for row in rows:
            if not row.doomed:
                self._mark(row.key)
            if moved := self._moved.pop(row.key, None):
                moved.set()

    def _mark(self, endpoint: int) -> None:
        """Note since when the endpoint is in its state."""
        if endpoint in self.decisions and endpoint in self.records:
            state, detail = self.state(endpoint)
            if self._since.get(endpoint, (None,))[0] is not state:
                self._since[endpoint] = (state, self._clock.now())
                _LOG.info("endpoint %d %s: %s %s", endpoint, self.records[endpoint].name, state, detail)

    def gone(self, endpoint: int) -> None:
        """Forget what was known of an endpoint that is no more."""
        for memory in (self.standing, self.decisions, self.kept, self._since):
            memory.pop(endpoint, None)


class EndpointOperations:
    """What the reconciler does to endpoints."""

    def __init__(self, endpoints: Endpoints, realiser: Realiser, thread: KernelThread) -> None:
        self._endpoints = endpoints
        self._realiser = realiser
        self._thread = thread

    async def update(self, rows: Mapping[int, EndpointWant]) -> Mapping[int, str]:
        """Realise these endpoints."""
        hindered = {}
        for endpoint, want in rows.items():
            anew = endpoint in self._endpoints.recheck
            self._endpoints.recheck.discard(endpoint)
            try:
                stands = await self._thread.call(self._realiser.realise, want, anew=anew)
            except FairleadError as error:
                hindered[endpoint] = error.message
                stands = await self._thread.call(self._realiser.standing, endpoint)
            self._endpoints.standing[endpoint] = stands
            if stands.policy is not None:
                self._endpoints.kept[endpoint] = stands.policy
        return hindered

    async def delete(self, rows: Mapping[int, EndpointWant]) -> Mapping[int, str]:
        """Remove these endpoints."""
        hindered = {}
        for endpoint in rows:
            try:
                await self._thread.call(self._realiser.remove, endpoint)
            except FairleadError as error:
                hindered[endpoint] = error.message
                continue
            self._endpoints.gone(endpoint)
            await self._endpoints.unplugged(endpoint)
        return hindered

    async def prune(self, desired: Mapping[int, EndpointWant]) -> None:
        """Repair links and entries that drifted. What nothing explains stays: somebody must look at it."""
        drifted, strangers = await self._thread.call(self._realiser.inspect)
        self._endpoints.strangers = strangers - desired.keys() - self._endpoints.records.keys()
        self._endpoints.table.touch(drifted & desired.keys())

    async def patrol(self) -> None:
        """Compare every policy map with what was written, and have those that drifted repaired. One by one: writes go between."""
        for endpoint in self._endpoints.table.desired():
            if await self._thread.call(self._realiser.inspect_policy, endpoint):
                self._endpoints.table.touch([endpoint])
