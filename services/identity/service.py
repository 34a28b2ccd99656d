"""Answers who is who: decides, commits to etcd, and leaves the telling to the announcer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec

from fairlead import telemetry
from fairlead.address import Address, Prefix
from fairlead.allowance import Allowance
from fairlead.bus import ANY_NODE, Route, route
from fairlead.clock import Clock
from fairlead.errors import Conflict, InvalidInput, Unavailable
from fairlead.kv import Check, Kv, Put
from fairlead.labels import normalise, refuse_reserved
from fairlead.schema.base import IdentityId
from fairlead.schema.identity import (
    PUT_WORKLOAD,
    REGISTER_ENDPOINT,
    REGISTER_NODE,
    REMOVE_WORKLOAD,
    WITHDRAW_ENDPOINT,
    WORKLOAD_PUBLISHED,
    WORKLOAD_WITHDRAWN,
    Committed,
    EndpointRegistered,
    ExternalWorkload,
    RegisterEndpoint,
    RegisterNode,
    WithdrawEndpoint,
    WithdrawWorkload,
)
from services.identity import model
from services.identity.catalogue import Catalogue
from services.identity.cilium import NodeValue, node_value, read_node
from services.identity.keys import Keys, endpoint_record, external_record
from services.identity.model import Record
from services.identity.numbers import Numbered, Numbers
from services.identity.store import Raced, Store, Stored

R = TypeVar("R")

_ATTEMPTS = 16
_PAUSE_S = 0.01
_MAX_CHANGES = 95
"""Keys that one commit may change; the store takes 100, and a commit carries a few beside the plan's."""
EXTERNAL_USER = "fairlead"
"""Who uses a number, in `value/<labels>/<user>`, when no node of ours does."""


class Identity:
    """Numbers label sets, and keeps which address is whose."""

    def __init__(
        self,
        kv: Kv,
        names: Keys,
        catalogue: Catalogue,
        clock: Clock,
        *,
        tombstone_s: int = 86400,
        allowance: Allowance | None = None,
    ) -> None:
        self._store = Store(kv, names)
        self._catalogue = catalogue
        self._numbers = Numbers(kv, names, catalogue, clock)
        self._clock = clock
        self._tombstone_s = tombstone_s
        self._allowance = allowance or Allowance(100, 1000, clock.monotonic_s)

    def routes(self) -> tuple[Route, ...]:
        """Return what this service answers."""
        return (
            route(REGISTER_NODE, self.register_node, ANY_NODE),
            route(REGISTER_ENDPOINT, self.register_endpoint, ANY_NODE),
            route(WITHDRAW_ENDPOINT, self.withdraw_endpoint, ANY_NODE),
            route(PUT_WORKLOAD, self.put_workload),
            route(REMOVE_WORKLOAD, self.remove_workload),
            route(WORKLOAD_PUBLISHED, self.put_workload),
            route(WORKLOAD_WITHDRAWN, self.remove_workload),
        )

    async def register_node(self, ask: RegisterNode) -> Committed:
        """Store a node's own facts; equal facts are no change. Raises InvalidInput when its labels are not a node's."""
        self._allowance.take(ask.node)
        normal = normalise(ask.labels)
        refuse_reserved(normal)
        ask = msgspec.structs.replace(ask, labels=normal)
        return await self._until_settled(lambda: self._register_node(ask))

    async def _register_node(self, ask: RegisterNode) -> Committed:
        names, kv = self._store.keys, self._store.kv
        key = names.node(ask.node)
        item = await kv.get(key)
        value = node_value(ask, names.cluster, telemetry.traceparent())
        if item is not None and _same_node(ask, names.cluster, item.value, value):
            return Committed(revision=item.revision, changed=False)
        try:
            put = Put(key, msgspec.json.encode(value))
            return Committed(revision=await kv.commit([Check(key, item.revision if item else 0)], [put]))
        except Conflict as error:
            raise Raced(error.message) from error

    async def register_endpoint(self, ask: RegisterEndpoint) -> EndpointRegistered:
        """Store an endpoint, and return its identity. Raises Conflict for old generations and for addresses of others."""
        self._allowance.take(ask.node)
        labels = _workload_labels(ask.labels)
        return await self._until_settled(lambda: self._register_endpoint(ask, labels))

    async def _register_endpoint(self, ask: RegisterEndpoint, labels: tuple[str, ...]) -> EndpointRegistered:
        key = endpoint_record(ask.node, ask.endpoint)
        stored = await self._store.record(key)
        model.require_newer(f"endpoint {ask.node}/{ask.endpoint}", stored.record, ask.generation)
        host = ask.node_address or self._address_of(ask.node)
        numbered = await self._numbers.ensure(labels)
        new = Record(
            generation=ask.generation,
            addresses=tuple(dict.fromkeys(address.prefix for address in ask.addresses)),
            identity=numbered.identity,
            labels=labels,
            host=host,
            trace=telemetry.traceparent(),
        )
        revision = await self._put(key, ask.endpoint, stored, new, numbered)
        return EndpointRegistered(identity=IdentityId(numbered.identity), labels=labels, revision=revision)

    def _address_of(self, node: str) -> Address:
        """Return the node's first address. Raises Unavailable before the node has registered."""
        row = self._catalogue.places.node_row(node)
        if row is None or not row.addresses:
            raise Unavailable(f"node {node} has not registered its addresses: register it, or give `node_address`")
        return row.addresses[0]

    async def withdraw_endpoint(self, ask: WithdrawEndpoint) -> Committed:
        """Forget an endpoint; what a newer generation owns stays."""
        self._allowance.take(ask.node)
        key = endpoint_record(ask.node, ask.endpoint)
        addresses = tuple(address.prefix for address in ask.addresses)
        return await self._until_settled(lambda: self._withdraw(key, ask.generation, addresses, self._tombstone_s))

    async def put_workload(self, ask: ExternalWorkload) -> Committed:
        """Store an external workload; generations already known are no change. Raises Conflict for addresses of others."""
        labels = _workload_labels(ask.labels)
        return await self._until_settled(lambda: self._put_workload(ask, labels))

    async def _put_workload(self, ask: ExternalWorkload, labels: tuple[str, ...]) -> Committed:
        key = external_record(ask.source, ask.source_id)
        stored = await self._store.record(key)
        if stored.record is not None and ask.generation <= stored.record.generation:
            await self._note_heard(key, stored, stored.record, ask.generation)
            known = IdentityId(stored.record.identity)
            return Committed(revision=stored.revision, identity=known, changed=False)
        numbered = await self._numbers.ensure(labels)
        new = Record(
            generation=ask.generation,
            addresses=tuple(dict.fromkeys(ask.addresses)),
            identity=numbered.identity,
            labels=labels,
            trace=telemetry.traceparent(),
            responsible=ask.owner,
            lease_s=ask.lease_s,
            heard=self._clock.now() if ask.lease_s else None,
            site=ask.site,
        )
        revision = await self._put(key, ask.source_id, stored, new, numbered)
        return Committed(revision=revision, identity=IdentityId(numbered.identity))

    async def _note_heard(self, key: str, stored: Stored, record: Record, generation: int) -> None:
        """Remember that a leased workload was heard of again, now and then."""
        if generation == record.generation and model.should_note_heard(record, self._clock.now()):
            again = msgspec.structs.replace(record, heard=self._clock.now())
            await self._store.commit(key, stored, model.Plan(again, {}, (), frozenset()), {})

    async def remove_workload(self, ask: WithdrawWorkload) -> Committed:
        """Forget an external workload; ignored when a newer generation is known."""
        key = external_record(ask.source, ask.source_id)
        return await self._until_settled(lambda: self._withdraw(key, ask.generation, (), 0))

    async def _put(self, key: str, name: str, stored: Stored, new: Record, numbered: Numbered) -> int:
        """Make a record and its addresses stand, and return the revision from which on they do."""
        old = stored.record
        held = await self._store.held((*new.addresses, *(old.addresses if old else ())))
        plan = model.plan_put(key, name, old, new, held)
        if plan is None:
            return max(stored.revision, *(found.revision for found in held.values()))
        if old is not None and plan.size > _MAX_CHANGES:
            await self._store.commit(key, stored, model.plan_release(key, old, plan, held), held)
            raise Raced("addresses were given back first; the rest follows")
        user = self._store.keys.values(new.labels) + str(new.host or EXTERNAL_USER)
        note = Put(user, str(new.identity).encode())
        return await self._store.commit(key, stored, plan, held, numbered.check, note)

    async def _withdraw(self, key: str, generation: int, named: tuple[Prefix, ...], tombstone_s: int) -> Committed:
        stored = await self._store.record(key)
        old = stored.record
        if old is not None and old.generation > generation:
            return Committed(revision=stored.revision, changed=False)
        held = await self._store.held((*(old.addresses if old else ()), *named))
        tombstone = Record(generation=generation, withdrawn=True, trace=telemetry.traceparent())
        plan = model.plan_withdraw(key, old, tombstone, held)
        if plan is None:
            return Committed(revision=stored.revision, changed=False)
        lease = await self._store.kv.grant(tombstone_s) if tombstone_s else 0
        revision = await self._store.commit(key, stored, plan, held, lease=lease)
        return Committed(revision=revision, changed=bool(plan.deletes) or (old is not None and not old.withdrawn))

    async def _until_settled(self, attempt: Callable[[], Awaitable[R]]) -> R:
        """Decide and commit until nobody else was faster in between."""
        for number in range(_ATTEMPTS):
            try:
                return await attempt()
            except Raced:
                await self._clock.sleep(_PAUSE_S * number)
        raise Unavailable(f"other writers were faster {_ATTEMPTS} times: try again")


def _workload_labels(labels: tuple[str, ...]) -> tuple[str, ...]:
    """Return the normal form of a workload's labels. Raises InvalidInput naming the label."""
    normal = normalise(labels)
    refuse_reserved(normal)
    return normal or ("container:unlabelled",)


def _same_node(ask: RegisterNode, cluster: str, data: bytes, value: NodeValue) -> bool:
    """Tell whether a stored node says the same, whatever caused it."""
    try:
        stored = read_node(ask.node, cluster, data)
    except InvalidInput:
        return False
    return bool(msgspec.structs.replace(stored, fairlead=None) == msgspec.structs.replace(value, fairlead=None))
