"""The services of one node, as every client of it needs them: addresses from ipam, endpoints from datapath."""

from __future__ import annotations

from collections.abc import Sequence

from fairlead.address import Address, Family
from fairlead.bus import Bus
from fairlead.errors import FairleadError
from fairlead.schema.base import Empty, NodeName
from fairlead.schema.datapath import (
    ATTACH,
    DETACH,
    ENDPOINTS,
    AttachEndpoint,
    DetachEndpoint,
    EndpointState,
    EndpointStatus,
)
from fairlead.schema.ipam import ALLOCATE, LEASES, RELEASE, AllocateAddress, Leases, ReleaseAddress


class Node:
    """Asks ipam and datapath of one node; each raises what the service raised, or Unavailable after `answer_s`."""

    def __init__(self, bus: Bus, name: NodeName, answer_s: float = 5.0) -> None:
        self._bus = bus
        self.name = name
        self.answer_s = answer_s

    async def leases(self) -> Leases:
        """Return what ipam has given away, and what it has left."""
        return await self._bus.request(LEASES, Empty(), node=self.name, timeout_s=self.answer_s)

    async def allocate(
        self, owner: str, addresses: Sequence[Address] = (), families: Sequence[Family] = ()
    ) -> tuple[Address, ...]:
        """Lease addresses, these or one of each family; the same owner asking again gets the same."""
        ask = AllocateAddress(owner=owner, addresses=tuple(addresses), families=tuple(families))
        return (await self._bus.request(ALLOCATE, ask, node=self.name, timeout_s=self.answer_s)).addresses

    async def release(self, owner: str, *, unused: bool = False) -> bool:
        """Give an owner's addresses back; False when there were none."""
        ask = ReleaseAddress(owner=owner, unused=unused)
        return bool((await self._bus.request(RELEASE, ask, node=self.name, timeout_s=self.answer_s)).addresses)

    async def attach(self, ask: AttachEndpoint, *, extra_s: float = 0) -> EndpointStatus:
        """Make an endpoint, or give it other labels. Raises FairleadError also where datapath says that it cannot."""
        timeout_s = self.answer_s + max(ask.wait_s, extra_s)
        status = await self._bus.request(ATTACH, ask, node=self.name, timeout_s=timeout_s)
        if status.state is EndpointState.FAILED:
            raise FairleadError(f"datapath could not make {ask.name}: {status.detail or 'see its log'}")
        return status

    async def detach(self, name: str, *, extra_s: float = 0) -> bool:
        """Remove an endpoint; False when there was none."""
        ask = DetachEndpoint(name=name)
        return (await self._bus.request(DETACH, ask, node=self.name, timeout_s=self.answer_s + extra_s)).removed

    async def remove(self, name: str) -> bool:
        """Remove an endpoint and give its addresses back, once nothing uses them; False when there was neither."""
        gone = await self.detach(name)
        return await self.release(name) or gone

    async def endpoints(self) -> dict[str, EndpointStatus]:
        """Return the endpoints by name."""
        answer = await self._bus.request(ENDPOINTS, Empty(), node=self.name, timeout_s=self.answer_s)
        return {one.name: one for one in answer.endpoints}
