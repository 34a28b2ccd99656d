"""Leases this node's addresses. Needs neither etcd nor the hub once the node has its prefixes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable

from fairlead.address import Address, Prefix
from fairlead.bus import Route, route
from fairlead.clock import Clock
from fairlead.errors import Unavailable
from fairlead.schema.base import Empty, NodeName
from fairlead.schema.ipam import (
    ALLOCATE,
    LEASES,
    RELEASE,
    AddressAllocated,
    AddressReleased,
    AllocateAddress,
    Leases,
    ReleaseAddress,
)
from services.ipam import model
from services.ipam.model import Rules, State
from services.ipam.store import StateFile

SetCondition = Callable[[str, bool, str], None]


class Ipam:
    """Answers who may use which address. What it answers is on the disk before."""

    def __init__(
        self, node: NodeName, file: StateFile, condition: SetCondition, clock: Clock, *, quarantine_s: float = 60
    ) -> None:
        self.node = node
        self._file = file
        self._condition = condition
        self._clock = clock
        self._quarantine_s = quarantine_s
        self._state: State | None = None
        self._waiting = "no prefix claimed yet"
        self._turn = asyncio.Lock()
        self.lost: dict[Prefix, str] = {}
        """Why a prefix of ours gives no new leases."""
        with contextlib.suppress(Unavailable):
            self.state()

    def routes(self) -> tuple[Route, ...]:
        """Return what this service answers."""
        return (
            route(ALLOCATE, self.allocate, self.node),
            route(RELEASE, self.release, self.node),
            route(LEASES, self.leases, self.node),
        )

    @property
    def _rules(self) -> Rules:
        return Rules(self._quarantine_s, self.lost)

    def state(self) -> State:
        """Return the state, read from the disk until that works once. Raises Unavailable."""
        if self._state is None:
            try:
                self._state = self._file.load()
            except Unavailable as error:
                self._condition("state", False, error.message)
                raise
            self._condition("state", True, "")
        return self._state

    async def allocate(self, ask: AllocateAddress) -> AddressAllocated:
        """Lease one address per family; the same owner gets the same again."""
        async with self._turn:
            state = self._ready()
            after, addresses = model.allocate(
                state, ask.owner, ask.addresses, self._clock.now(), self._rules, ask.families
            )
            await self._keep(state, after)
        return AddressAllocated(owner=ask.owner, addresses=_sorted(addresses))

    async def release(self, ask: ReleaseAddress) -> AddressReleased:
        """Take the owner's addresses back; an owner without any is no error."""
        async with self._turn:
            state = self.state()
            after, addresses = model.release(state, ask.owner, self._clock.now(), self._rules, unused=ask.unused)
            await self._keep(state, after if addresses else state)
        return AddressReleased(owner=ask.owner, addresses=_sorted(addresses))

    async def leases(self, _ask: Empty) -> Leases:
        """Return what is leased and quarantined."""
        state, now = self.state(), self._clock.now()
        return Leases(
            node=self.node,
            prefixes=state.prefixes,
            leases=model.visible(state, now, self._rules),
            free=model.free_count(state, now, self._rules),
        )

    async def take(self, prefixes: Iterable[Prefix]) -> None:
        """Remember that these prefixes are ours, beside those that we have."""
        async with self._turn:
            state = self.state()
            more = tuple(prefix for prefix in prefixes if prefix not in state.prefixes)
            await self._keep(state, State((*state.prefixes, *more), state.leases))

    def wait_for(self, reason: str) -> None:
        """Say why there is no prefix yet; askers get to hear it."""
        self._waiting = reason

    def _ready(self) -> State:
        state = self.state()
        if not state.prefixes:
            raise Unavailable(f"ipam of {self.node} has no prefix to lease from: {self._waiting}")
        return state

    async def _keep(self, before: State, after: State) -> None:
        """Make the new state durable, then true."""
        if after != before:
            await asyncio.to_thread(self._file.save, after)
            self._state = after


def _sorted(addresses: Iterable[Address]) -> tuple[Address, ...]:
    return tuple(sorted(addresses, key=lambda address: (address.family, address.packed)))
