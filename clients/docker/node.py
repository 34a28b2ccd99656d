"""The services of this node, as the plugin needs them. Every question ends within two seconds, whoever is away."""

from __future__ import annotations

from clients.docker.state import PREFIX, Endpoint
from fairlead.address import Address, Family, Prefix
from fairlead.bus import Bus
from fairlead.errors import FairleadError, Unavailable
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
from fairlead.schema.ipam import ALLOCATE, LEASES, RELEASE, AllocateAddress, Lease, LeaseState, ReleaseAddress

_ANSWER_S = 2.0
_PLUG_S = 1.5


class NodeServices:
    """Asks ipam and datapath of one node."""

    def __init__(self, bus: Bus, node: NodeName) -> None:
        self._bus = bus
        self._node = node

    async def prefixes(self) -> tuple[Prefix, ...]:
        """Return the node's prefixes, at most one per family. Raises Unavailable."""
        answer = await self._bus.request(LEASES, Empty(), node=self._node, timeout_s=_ANSWER_S)
        return answer.prefixes

    async def leases(self) -> tuple[Lease, ...]:
        """Return what containers hold. Raises Unavailable."""
        answer = await self._bus.request(LEASES, Empty(), node=self._node, timeout_s=_ANSWER_S)
        return tuple(
            lease for lease in answer.leases if lease.owner.startswith(PREFIX) and lease.state is LeaseState.LEASED
        )

    async def lease(self, owner: str, family: Family, wanted: Address | None) -> Address:
        """Lease one address; the same owner asking again gets the same. Raises what ipam raised."""
        ask = AllocateAddress(owner=owner, addresses=(wanted,) if wanted else (), families=(family,))
        answer = await self._bus.request(ALLOCATE, ask, node=self._node, timeout_s=_ANSWER_S)
        return next(address for address in answer.addresses if address.family is family)

    async def release(self, address: Address) -> None:
        """Give an address back, if a container's it is. Raises Unavailable."""
        for lease in await self.leases():
            if lease.address == address:
                await self._bus.request(
                    RELEASE, ReleaseAddress(owner=lease.owner), node=self._node, timeout_s=_ANSWER_S
                )

    async def attach(self, endpoint: Endpoint, mtu_bytes: int) -> EndpointStatus:
        """Have the pair made, its far end left for the engine; held until labels are given. Raises what datapath raised."""
        ask = AttachEndpoint(
            name=endpoint.name,
            addresses=endpoint.addresses,
            labels=endpoint.labels,
            unlabelled=not endpoint.container,
            interface=endpoint.interface,
            mtu_bytes=mtu_bytes,
            wait_s=0 if endpoint.container else _PLUG_S,
        )
        status = await self._bus.request(ATTACH, ask, node=self._node, timeout_s=_ANSWER_S + _PLUG_S)
        if status.state is EndpointState.FAILED:
            raise FairleadError(f"datapath could not make {endpoint.name}: {status.detail or 'see its log'}")
        if not status.mac and not endpoint.container:
            raise Unavailable(f"datapath did not make {endpoint.name} within {_PLUG_S:g} s: see `fairlead status`")
        return status

    async def detach(self, name: str) -> None:
        """Have an endpoint removed; none is fine. Raises Unavailable."""
        await self._bus.request(DETACH, DetachEndpoint(name=name), node=self._node, timeout_s=_ANSWER_S + 2)

    async def endpoints(self) -> dict[str, EndpointStatus]:
        """Return the containers' endpoints, by name. Raises Unavailable."""
        answer = await self._bus.request(ENDPOINTS, Empty(), node=self._node, timeout_s=_ANSWER_S)
        return {one.name: one for one in answer.endpoints if one.name.startswith(PREFIX)}
