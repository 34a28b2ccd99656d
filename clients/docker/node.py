"""The services of this node, as the plugin needs them. Every question ends within a few seconds, whoever is away.

One that is just being started again, as in an upgrade, is asked again for a moment, so that a `docker run` does not fail for it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from clients.docker.state import PREFIX, Endpoint, spare_name
from fairlead.address import Address, Family, Prefix
from fairlead.bus import Bus
from fairlead.clock import SYSTEM, Clock
from fairlead.errors import Unavailable
from fairlead.node import Node
from fairlead.schema.base import NodeName
from fairlead.schema.datapath import AttachEndpoint, EndpointStatus
from fairlead.schema.ipam import Lease, LeaseState

_ANSWER_S = 2.0
_PLUG_S = 1.5
_UNPLUG_S = 2.0
_MOMENT_S = 1.5
_AGAIN_S = 0.1

T = TypeVar("T")


class NodeServices:
    """Asks ipam and datapath of one node."""

    def __init__(self, bus: Bus, node: NodeName, clock: Clock = SYSTEM) -> None:
        self._node = Node(bus, node, _ANSWER_S)
        self._clock = clock

    async def _patiently(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask; where nobody is there to answer, again for a moment. Whoever answers must not mind a repetition."""
        began_s = self._clock.monotonic_s()
        while True:
            try:
                return await ask()
            except Unavailable:
                if self._clock.monotonic_s() - began_s > _MOMENT_S:
                    raise
            await self._clock.sleep(_AGAIN_S)

    async def prefixes(self) -> tuple[Prefix, ...]:
        """Return the node's prefixes, at most one per family. Raises Unavailable."""
        return (await self._patiently(self._node.leases)).prefixes

    async def leases(self) -> tuple[Lease, ...]:
        """Return what containers hold. Raises Unavailable."""
        found = (await self._node.leases()).leases
        return tuple(one for one in found if one.owner.startswith(PREFIX) and one.state is LeaseState.LEASED)

    async def lease(self, owner: str, family: Family, wanted: Address | None) -> Address:
        """Lease one address; the same owner asking again gets the same. Raises what ipam raised."""
        found = await self._patiently(lambda: self._node.allocate(owner, (wanted,) if wanted else (), (family,)))
        return next(address for address in found if address.family is family)

    async def release(self, address: Address) -> None:
        """Give an address back, if a container's it is. Raises Unavailable."""
        for lease in await self.leases():
            if lease.address == address:
                await self._node.release(lease.owner)

    async def forgo(self, owner: str) -> None:
        """Give back addresses that were leased and never used. Raises Unavailable."""
        await self._node.release(owner, unused=True)

    async def attach(self, endpoint: Endpoint, mtu_bytes: int) -> EndpointStatus:
        """Have the pair made, its far end left for the engine; held until labels are given. Raises what datapath raised."""
        ask = AttachEndpoint(
            name=endpoint.name,
            addresses=endpoint.addresses,
            labels=endpoint.labels,
            unlabelled=not endpoint.container,
            instead_of=spare_name(endpoint.spare) if endpoint.spare else "",
            interface=endpoint.interface,
            mtu_bytes=mtu_bytes,
            wait_s=0 if endpoint.container else _PLUG_S,
        )
        status = await self._patiently(lambda: self._node.attach(ask, extra_s=_PLUG_S))
        if not status.mac and not endpoint.container:
            raise Unavailable(f"datapath did not make {endpoint.name} within {_PLUG_S:g} s: see `fairlead status`")
        return status

    async def attach_spare(self, name: str, addresses: tuple[Address, ...], interface: str, mtu_bytes: int) -> str:
        """Have a pair made that nobody needs yet; return the MAC of its far end. Raises what datapath raised."""
        ask = AttachEndpoint(
            name=name, addresses=addresses, unlabelled=True, interface=interface, mtu_bytes=mtu_bytes, wait_s=_PLUG_S
        )
        status = await self._node.attach(ask, extra_s=_PLUG_S)
        if not status.mac:
            raise Unavailable(f"datapath did not make {name} within {_PLUG_S:g} s")
        return status.mac

    async def detach(self, name: str) -> bool:
        """Have an endpoint removed; False when there was none. Raises Unavailable."""
        return await self._node.detach(name, extra_s=_UNPLUG_S)

    async def remove(self, endpoint: Endpoint) -> None:
        """Have an endpoint removed, under whichever name it stands; none is fine. Raises Unavailable."""
        if not await self.detach(endpoint.name) and endpoint.spare:
            await self.detach(spare_name(endpoint.spare))

    async def endpoints(self) -> dict[str, EndpointStatus]:
        """Return the containers' endpoints, by name. Raises Unavailable."""
        return {name: one for name, one in (await self._node.endpoints()).items() if name.startswith(PREFIX)}
