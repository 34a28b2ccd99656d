"""What this node has to tell identity: itself, its endpoints, and endpoints that are gone. Repeated until it is acknowledged."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from fairlead.address import Address, Prefix
from fairlead.bus import Bus
from fairlead.errors import FairleadError
from fairlead.schema.base import EndpointId, NodeName
from fairlead.schema.identity import (
    REGISTER_ENDPOINT,
    REGISTER_NODE,
    WITHDRAW_ENDPOINT,
    RegisterEndpoint,
    RegisterNode,
    WithdrawEndpoint,
)
from fairlead.table import DONE, Table
from services.datapath.endpoints import Endpoints
from services.datapath.model import EndpointRecord

_LOG = logging.getLogger("datapath.registration")
_TIMEOUT_S = 2.0
_AT_ONCE = 16
_NODE = EndpointId(0)
"""The key of the node's own statement; endpoints have theirs from 1 on."""

Statement = RegisterNode | RegisterEndpoint | WithdrawEndpoint


class Registration:
    """The statements that are to be made, by endpoint number; the reconciler makes them."""

    def __init__(self, node: NodeName, addresses: tuple[Address, ...]) -> None:
        self._node = node
        self.addresses = addresses
        self.labels: tuple[str, ...] = ()
        """What host policies select the node by."""
        self.table: Table[int, Statement] = Table("registration")

    def state_node(self, prefixes: tuple[Prefix, ...]) -> None:
        """State this node's addresses, its labels and the prefixes of its workloads."""
        if self.addresses:
            statement = RegisterNode(node=self._node, addresses=self.addresses, prefixes=prefixes, labels=self.labels)
            self.table.put(_NODE, statement)

    def state_endpoint(self, record: EndpointRecord) -> None:
        """State the endpoint as it is, or that it is gone; what identity has acknowledged is repeated now and then only."""
        if (record.detached and record.withdrawn) or (record.unlabelled and not record.detached):
            return
        self.table.put(record.endpoint, self._withdrawal(record) if record.detached else self._registration(record))
        row = self.table.get(record.endpoint)
        if row is not None and record.is_registered and not record.detached:
            self.table.settle(row, DONE)

    def _registration(self, record: EndpointRecord) -> RegisterEndpoint:
        return RegisterEndpoint(
            node=self._node,
            endpoint=record.name,
            addresses=record.addresses,
            labels=record.labels,
            node_address=self.addresses[0] if self.addresses else None,
            generation=record.generation,
        )

    def _withdrawal(self, record: EndpointRecord) -> WithdrawEndpoint:
        return WithdrawEndpoint(
            node=self._node, endpoint=record.name, addresses=record.addresses, generation=record.generation
        )

    def restate(self) -> None:
        """Say everything again: identity may have lost what it knew."""
        self.table.touch(row.key for row in self.table)


class RegistrationOperations:
    """What the reconciler does with statements: it asks identity, several at once."""

    def __init__(self, bus: Bus, registration: Registration, endpoints: Endpoints) -> None:
        self._bus = bus
        self._registration = registration
        self._endpoints = endpoints
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._begun = False

    async def update(self, rows: Mapping[int, Statement]) -> Mapping[int, str]:
        """Make these statements."""
        outcomes = await asyncio.gather(*(self._state(key, statement) for key, statement in rows.items()))
        return {key: outcome for key, outcome in zip(rows, outcomes, strict=True) if outcome}

    async def _state(self, endpoint: int, statement: Statement) -> str:
        async with self._slots:
            try:
                await self._ask(endpoint, statement)
            except FairleadError as error:
                return error.message
        return ""

    async def _ask(self, endpoint: int, statement: Statement) -> None:
        match statement:
            case RegisterNode():
                await self._bus.request(REGISTER_NODE, statement, node=statement.node, timeout_s=_TIMEOUT_S)
            case RegisterEndpoint(generation=generation):
                known = await self._bus.request(REGISTER_ENDPOINT, statement, node=statement.node, timeout_s=_TIMEOUT_S)
                await self._endpoints.acknowledge(endpoint, generation, known.identity)
            case WithdrawEndpoint():
                await self._bus.request(WITHDRAW_ENDPOINT, statement, node=statement.node, timeout_s=_TIMEOUT_S)
                self._registration.table.remove(endpoint)
                await self._endpoints.withdrawn(endpoint)

    async def delete(self, rows: Mapping[int, Statement]) -> Mapping[int, str]:
        """Nothing is left to say about these."""
        del rows
        return {}

    async def prune(self, desired: Mapping[int, Statement]) -> None:
        """Say everything again, for identity may have lost what it knew; not at the very start, when all has just been said."""
        del desired
        if self._begun:
            self._registration.restate()
        self._begun = True
