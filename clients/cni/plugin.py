"""What the CNI commands come to: leases of the node's ipam and endpoints of its datapath. Nothing is remembered here.

The name of the workload is made from network, container and interface, so that every call finds what an earlier one left, and a call that was
cut short is finished by making it again.
"""

from __future__ import annotations

from typing import Any

from clients.cni import protocol
from clients.cni.protocol import Call, Refusal
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
from fairlead.schema.ipam import ALLOCATE, LEASES, RELEASE, AllocateAddress, LeaseState, ReleaseAddress

_ANSWER_S = 5.0
_PLUG_S = 2.0


class CniPlugin:
    """Answers for the attachments of one node."""

    def __init__(self, bus: Bus, node: NodeName) -> None:
        self._bus = bus
        self._node = node

    async def answer(self, call: Call) -> dict[str, Any] | None:
        """Do what is asked, and return what is to be printed. Raises FairleadError."""
        match call.command:
            case "ADD":
                return await self._add(call)
            case "DEL":
                await self._delete(call.workload)
            case "CHECK":
                await self._check(call)
            case "STATUS":
                await self._status()
            case "GC":
                await self._collect(call)
            case other:
                raise Refusal(protocol.INVALID_ENVIRONMENT, f"`CNI_COMMAND`: {other[:20]!r} is unknown")
        return None

    async def _add(self, call: Call) -> dict[str, Any]:
        """Attach; what fails in the middle is undone by the runtime's DEL, or finished by another ADD."""
        wish = AllocateAddress(owner=call.workload, addresses=protocol.wanted_addresses(call.config))
        leased = await self._bus.request(ALLOCATE, wish, node=self._node, timeout_s=_ANSWER_S)
        ask = AttachEndpoint(
            name=call.workload,
            netns=call.netns,
            addresses=leased.addresses,
            labels=protocol.labels_of(call.config),
            interface=call.interface,
            mtu_bytes=call.config.mtu,
            wait_s=_PLUG_S,
        )
        status = await self._bus.request(ATTACH, ask, node=self._node, timeout_s=_ANSWER_S + _PLUG_S)
        if status.state is EndpointState.FAILED or not status.mac:
            raise FairleadError(f"datapath could not make {call.workload}: {status.detail or 'see its log'}")
        return protocol.result(call, status.addresses, status.mac, status.host_interface)

    async def _delete(self, workload: str) -> None:
        """Remove an attachment; what is gone is fine. Addresses are given back only once nothing uses them."""
        await self._bus.request(DETACH, DetachEndpoint(name=workload), node=self._node, timeout_s=_ANSWER_S)
        await self._bus.request(RELEASE, ReleaseAddress(owner=workload), node=self._node, timeout_s=_ANSWER_S)

    async def _endpoints(self) -> dict[str, EndpointStatus]:
        answer = await self._bus.request(ENDPOINTS, Empty(), node=self._node, timeout_s=_ANSWER_S)
        return {one.name: one for one in answer.endpoints}

    async def _check(self, call: Call) -> None:
        found = (await self._endpoints()).get(call.workload)
        if found is None:
            raise Refusal(protocol.UNKNOWN_CONTAINER, f"{call.workload} is not attached: ADD it again")
        if found.netns != call.netns or found.state is EndpointState.FAILED:
            raise FairleadError(f"{call.workload} is not as it was attached: {found.detail or found.netns}")
        told = {str(ip.get("address", "")).partition("/")[0] for ip in (call.config.previous or {}).get("ips", ())}
        if told and told != set(found.addresses):
            raise FairleadError(f"{call.workload} has {', '.join(found.addresses)}, not {', '.join(sorted(told))}")

    async def _status(self) -> None:
        try:
            free = (await self._bus.request(LEASES, Empty(), node=self._node, timeout_s=_ANSWER_S)).free
            await self._endpoints()
        except Unavailable as error:
            raise Refusal(protocol.CANNOT_ADD, error.message) from error
        if not free:
            raise Refusal(protocol.CANNOT_ADD, "this node has no free address")

    async def _collect(self, call: Call) -> None:
        """Remove every attachment of this network that the runtime does not name."""
        if call.config.attachments is None:
            raise Refusal(
                protocol.INVALID_CONFIG, "`cni.dev/valid-attachments`: missing: nothing is removed without it"
            )
        name = call.config.name
        valid = {protocol.workload(name, one.container, one.interface) for one in call.config.attachments}
        leases = (await self._bus.request(LEASES, Empty(), node=self._node, timeout_s=_ANSWER_S)).leases
        known = {lease.owner for lease in leases if lease.state is LeaseState.LEASED} | set(await self._endpoints())
        for workload in sorted(one for one in known - valid if one.startswith(f"cni/{name}/")):
            await self._delete(workload)
