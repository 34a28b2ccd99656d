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
from fairlead.node import Node
from fairlead.schema.base import NodeName
from fairlead.schema.datapath import AttachEndpoint, EndpointState
from fairlead.schema.ipam import LeaseState

_PLUG_S = 2.0


class CniPlugin:
    """Answers for the attachments of one node."""

    def __init__(self, bus: Bus, node: NodeName) -> None:
        self._node = Node(bus, node)

    async def answer(self, call: Call) -> dict[str, Any] | None:
        """Do what is asked, and return what is to be printed. Raises FairleadError."""
        match call.command:
            case "ADD":
                return await self._add(call)
            case "DEL":
                await self._node.remove(call.workload)  # what is gone is fine
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
        ask = AttachEndpoint(
            name=call.workload,
            netns=call.netns,
            addresses=await self._node.allocate(call.workload, protocol.wanted_addresses(call.config)),
            labels=protocol.labels_of(call.config),
            interface=call.interface,
            mtu_bytes=call.config.mtu,
            wait_s=_PLUG_S,
        )
        status = await self._node.attach(ask)
        if not status.mac:
            raise FairleadError(f"datapath did not make {call.workload} within {_PLUG_S:g} s: see `fairlead status`")
        return protocol.result(call, status.addresses, status.mac, status.host_interface)

    async def _check(self, call: Call) -> None:
        found = (await self._node.endpoints()).get(call.workload)
        if found is None:
            raise Refusal(protocol.UNKNOWN_CONTAINER, f"{call.workload} is not attached: ADD it again")
        if found.netns != call.netns or found.state is EndpointState.FAILED:
            raise FairleadError(f"{call.workload} is not as it was attached: {found.detail or found.netns}")
        told = {str(ip.get("address", "")).partition("/")[0] for ip in (call.config.previous or {}).get("ips", ())}
        if told and told != set(found.addresses):
            raise FairleadError(f"{call.workload} has {', '.join(found.addresses)}, not {', '.join(sorted(told))}")

    async def _status(self) -> None:
        try:
            free = (await self._node.leases()).free
            await self._node.endpoints()
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
        leases = (await self._node.leases()).leases
        known = {lease.owner for lease in leases if lease.state is LeaseState.LEASED}
        known |= set(await self._node.endpoints())
        for workload in sorted(one for one in known - valid if one.startswith(f"cni/{name}/")):
            await self._node.remove(workload)
