<<<<<<< Updated upstream
"""The services of this node, as the plugin needs them. Every question ends within a few seconds, whoever is away."""
=======
"""The services of this node, as the plugin needs them. Every question ends within seconds, whoever is away.

One that is just being started again, as in an upgrade, is asked again for a moment, so that a `docker run` does not fail for it.
"""
>>>>>>> Stashed changes

from __future__ import annotations

from typing import Any

from clients.docker.state import PREFIX, Endpoint
from fairlead.address import Address, Family, Prefix
from fairlead.bus import Bus
<<<<<<< Updated upstream
from fairlead.errors import Unavailable
from fairlead.node import Node
from fairlead.schema.base import NodeName
from fairlead.schema.datapath import AttachEndpoint, EndpointStatus
from fairlead.schema.ipam import Lease, LeaseState

_ANSWER_S = 2.0
_PLUG_S = 1.5
_UNPLUG_S = 2.0
=======
from fairlead.clock import SYSTEM, Clock
from fairlead.errors import FairleadError, Unavailable
from fairlead.schema.base import Empty, Message, NodeName, Topic
from fairlead.schema.datapath import (
    ATTACH,
    DETACH,
    ENDPOINTS,
    AttachEndpoint,
    DetachEndpoint,
    EndpointState,
    EndpointStatus,
)
from fairlead.schema.ipam import (
    ALLOCATE,
    LEASES,
    RELEASE,
    AddressAllocated,
    AllocateAddress,
    Lease,
    Leases,
    LeaseState,
    ReleaseAddress,
)

_ANSWER_S = 2.0
_PLUG_S = 1.5
_MOMENT_S = 1.5
_AGAIN_S = 0.1
>>>>>>> Stashed changes


class NodeServices:
    """Asks ipam and datapath of one node."""

<<<<<<< Updated upstream
    def __init__(self, bus: Bus, node: NodeName) -> None:
        self._node = Node(bus, node, _ANSWER_S)

    async def prefixes(self) -> tuple[Prefix, ...]:
        """Return the node's prefixes, at most one per family. Raises Unavailable."""
        return (await self._node.leases()).prefixes
=======
    def __init__(self, bus: Bus, node: NodeName, clock: Clock = SYSTEM) -> None:
        self._bus = bus
        self._node = node
        self._clock = clock

    async def _ask(self, topic: Topic[Any, Any], message: Message, timeout_s: float) -> Any:
        """Ask; where nobody is there to answer, again for a moment. Whoever answers must not mind a repetition."""
        began_s = self._clock.monotonic_s()
        while True:
            try:
                return await self._bus.request(topic, message, node=self._node, timeout_s=timeout_s)
            except Unavailable:
                if self._clock.monotonic_s() - began_s > _MOMENT_S:
                    raise
            await self._clock.sleep(_AGAIN_S)

    async def prefixes(self) -> tuple[Prefix, ...]:
        """Return the node's prefixes, at most one per family. Raises Unavailable."""
        answer: Leases = await self._ask(LEASES, Empty(), _ANSWER_S)
        return answer.prefixes
>>>>>>> Stashed changes

    async def leases(self) -> tuple[Lease, ...]:
        """Return what containers hold. Raises Unavailable."""
        found = (await self._node.leases()).leases
        return tuple(one for one in found if one.owner.startswith(PREFIX) and one.state is LeaseState.LEASED)

    async def lease(self, owner: str, family: Family, wanted: Address | None) -> Address:
        """Lease one address; the same owner asking again gets the same. Raises what ipam raised."""
<<<<<<< Updated upstream
        found = await self._node.allocate(owner, (wanted,) if wanted else (), (family,))
        return next(address for address in found if address.family is family)
=======
        ask = AllocateAddress(owner=owner, addresses=(wanted,) if wanted else (), families=(family,))
        answer: AddressAllocated = await self._ask(ALLOCATE, ask, _ANSWER_S)
        return next(address for address in answer.addresses if address.family is family)
>>>>>>> Stashed changes

    async def release(self, address: Address) -> None:
        """Give an address back, if a container's it is. Raises Unavailable."""
        for lease in await self.leases():
            if lease.address == address:
                await self._node.release(lease.owner)

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
<<<<<<< Updated upstream
        status = await self._node.attach(ask, extra_s=_PLUG_S)
=======
        status: EndpointStatus = await self._ask(ATTACH, ask, _ANSWER_S + _PLUG_S)
        if status.state is EndpointState.FAILED:
            raise FairleadError(f"datapath could not make {endpoint.name}: {status.detail or 'see its log'}")
>>>>>>> Stashed changes
        if not status.mac and not endpoint.container:
            raise Unavailable(f"datapath did not make {endpoint.name} within {_PLUG_S:g} s: see `fairlead status`")
        return status

    async def detach(self, name: str) -> None:
        """Have an endpoint removed; none is fine. Raises Unavailable."""
        await self._node.detach(name, extra_s=_UNPLUG_S)

    async def endpoints(self) -> dict[str, EndpointStatus]:
        """Return the containers' endpoints, by name. Raises Unavailable."""
        return {name: one for name, one in (await self._node.endpoints()).items() if name.startswith(PREFIX)}
