"""Endpoints made ahead, so that a container waits neither for a lease nor for its pair.

A spare is like every endpoint whose labels are not known: leased, plugged, and held. The engine asks for addresses first, and then for an
endpoint with them: whoever was lent all addresses of a spare gets its pair. If anything comes differently, the spare is given up and the
endpoint is made as if there were none. New ones are made in quiet moments only.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Collection
from datetime import datetime
from typing import NamedTuple

import msgspec

from clients.docker.node import NodeServices
from clients.docker.state import PREFIX, Spare, State
from fairlead.address import Address, Family, Prefix
from fairlead.clock import Clock
from fairlead.errors import FairleadError

_LOG = logging.getLogger("docker.spares")
_CALM_S = 1.0
"""Nothing is made ahead within so long of the engine's last wish: what starts just then has the machine to itself."""
_AGAIN_S = 10.0


class Shape(NamedTuple):
    """What an endpoint needs."""

    families: tuple[Family, ...]
    mtu_bytes: int


def stands(interface: str) -> bool:
    """Tell whether an interface of that name is here."""
    try:
        socket.if_nametoindex(interface)
    except OSError:
        return False
    return True


class Stock:
    """The spares of one node. They have the shape of the endpoint or network that was made last."""

    def __init__(
        self,
        node: NodeServices,
        state: State,
        size: int,
        clock: Clock,
        new_id: Callable[[], str],
        is_there: Callable[[str], bool] = stands,
    ) -> None:
        self._node, self._state, self._size, self._clock = node, state, size, clock
        self._new_id, self._is_there = new_id, is_there
        self._shape: Shape | None = None
        self._used_s = clock.monotonic_s()
        self._wake = asyncio.Event()
        self._wake.set()

    def expect(self, shape: Shape) -> None:
        """Have spares of this shape made from now on."""
        self._shape = shape
        self._stir()

    def _stir(self) -> None:
        self._used_s = self._clock.monotonic_s()
        self._wake.set()

    def _idle(self) -> list[Spare]:
        """Return the spares of which the engine has nothing, oldest first."""
        idle = [spare for spare in self._state.spares.values() if not spare.lent]
        return sorted(idle, key=lambda spare: spare.since)

    async def lend(self, pool: Prefix) -> Address | None:
        """Return an address of a spare, or None. The engine asks for IPv6 after IPv4: then of the spare whose other address it has."""
        self._stir()
        found = self._lendable(pool)
        if found is None:
            return None
        spare, address = found
        await self._state.put(msgspec.structs.replace(spare, lent=(*spare.lent, address), since=self._clock.now()))
        return address

    def _lendable(self, pool: Prefix) -> tuple[Spare, Address] | None:
        begun = [spare for spare in self._state.spares.values() if spare.lent]
        for spare in (*begun, *self._idle()):
            left = [address for address in spare.addresses if address not in spare.lent]
            if left and left[0] in pool and _shape(spare) == self._shape:
                return spare, left[0]
        return None

    async def give_back(self, address: Address) -> bool:
        """Take back what was lent and not used; False when it is no spare's."""
        self._stir()
        for spare in tuple(self._state.spares.values()):
            if address in spare.lent:
                lent = tuple(one for one in spare.lent if one != address)
                await self._state.put(msgspec.structs.replace(spare, lent=lent))
                return True
        return False

    def take(self, addresses: Collection[Address], mtu_bytes: int) -> Spare | None:
        """Return the spare with just these addresses, which is nobody else's from now on; None if there is none.

        Its file stays until the caller has written who has it.
        """
        self._stir()
        self._shape = Shape(tuple(sorted(address.family for address in addresses)), mtu_bytes)
        for spare in tuple(self._state.spares.values()):
            fits = set(spare.addresses) == set(addresses) and spare.mtu_bytes == mtu_bytes
            if fits and self._is_there(spare.interface):
                return self._state.spares.pop(spare.id)
        return None

    async def part_with(self, addresses: Collection[Address]) -> None:
        """Give up the spares with any of these addresses, which the engine has for an endpoint that needs another pair."""
        for spare in self._with(addresses):
            await self._give_up(spare)

    async def free(self, address: Address) -> None:
        """Give up the spare with this address, so that it can be leased to somebody who asks for just this one."""
        for spare in self._with((address,)):
            if not spare.lent:
                await self._give_up(spare)

    async def spend(self) -> bool:
        """Give up a spare, since its addresses are the last ones that somebody can have; False when there is none."""
        idle = self._idle()
        if idle:
            await self._give_up(idle[0])
        return bool(idle)

    def _with(self, addresses: Collection[Address]) -> list[Spare]:
        wanted = set(addresses)
        return [one for one in self._state.spares.values() if wanted & set(one.addresses)]

    async def _give_up(self, spare: Spare) -> None:
        """Remove a spare, and give back those of its addresses that the engine has not. What fails is swept later."""
        self._state.spares.pop(spare.id, None)
        await self._node.detach(spare.name)
        for address in spare.addresses:
            if address not in spare.lent:
                await self._node.forgo(_owner(spare.id, address.family))
        await self._state.drop(spare)

    async def keep(self) -> None:
        """Keep the stock, for ever."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_AGAIN_S):
                    await self._wake.wait()
            while (rest_s := self._used_s + _CALM_S - self._clock.monotonic_s()) > 0:
                await self._clock.sleep(rest_s)
            self._wake.clear()
            try:
                if await self.adjust():
                    self._wake.set()
            except FairleadError as error:
                _LOG.info("no endpoint is made ahead for now: %s", error.message)

    async def adjust(self) -> bool:
        """Make or remove one spare; whether there is more to do."""
        idle = self._idle()
        shape = self._shape or next(map(_shape, reversed(idle)), None)
        wanted = self._size if self._state.networks and shape else 0
        other = [spare for spare in idle if _shape(spare) != shape]
        if idle and (other or len(idle) > wanted):
            await self._give_up((other or idle)[0])
            return True
        if shape is None or len(idle) >= wanted:
            return False
        self._shape = shape
        await self._make(shape)
        return True

    async def _make(self, shape: Shape) -> None:
        new = self._new_id()
        leased = [await self._node.lease(_owner(new, family), family, None) for family in shape.families]
        spare = Spare(id=new, addresses=tuple(leased), mac="", mtu_bytes=shape.mtu_bytes, since=self._clock.now())
        mac = await self._node.attach_spare(spare.name, spare.addresses, spare.interface, shape.mtu_bytes)
        await self._state.put(msgspec.structs.replace(spare, mac=mac))

    async def compare(self, standing: Collection[str], known: Collection[Address], before: datetime) -> None:
        """Give up spares that the datapath has lost, and those that were lent and of which the engine knows nothing."""
        for spare in [one for one in self._state.spares.values() if one.since < before]:
            if spare.name not in standing or (spare.lent and not set(spare.lent) & set(known)):
                await self._give_up(spare)


def _owner(spare: str, family: Family) -> str:
    return f"{PREFIX}{spare}-{family.value}"


def _shape(spare: Spare) -> Shape:
    return Shape(tuple(sorted(address.family for address in spare.addresses)), spare.mtu_bytes)
