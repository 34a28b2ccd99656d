"""Compares the node's kernel with what should be there, on request and at every patrol, and has repaired what the service owns.

What changes while one looks must not count as a difference: what is found is looked at a second time, and only what is found twice counts.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from fairlead.schema import datapath as topics
from services.datapath import verify
from services.datapath.addressmaps import AddressDrift
from services.datapath.failsafe import HOST_ENDPOINT
from services.datapath.hostpolicy import entry_of_host
from services.datapath.model import EndpointWant
from services.datapath.node import Node
from services.datapath.operations import Kernel
from services.datapath.realise import Realiser, entry_of
from services.datapath.verify import Difference, Inspector
from services.datapath.worker import KernelThread

_LOG = logging.getLogger("datapath.verify")


class Verification:
    """One node's comparison of what stands with what should."""

    def __init__(
        self, node: Node, kernel: Kernel, thread: KernelThread, realiser: Realiser, inspector: Inspector | None
    ) -> None:
        self._node, self._kernel, self._thread = node, kernel, thread
        self._realiser, self._inspector = realiser, inspector
        self._counts: dict[str, int] = {}

    async def verify(self) -> topics.Verification:
        """Return every difference that stays."""
        found = await self._look()
        if found:
            found &= await self._look()
        told = verify.summarise(found)
        return topics.Verification(
            node=self._node.name,
            differences=tuple(
                topics.Difference(subject=one.subject, problem=one.problem, detail=one.detail, endpoint=one.endpoint)
                for one in told
            ),
            found=len(found),
            compared=dict(self._counts),
        )

    async def _look(self) -> set[Difference]:
        self._counts = {}
        return {
            *await self._plumbing(),
            *await self._rows(),
            *await self._host(),
            *await self._addresses(),
            *await self._tunnels(),
            *await self._masquerade(),
        }

    async def _call(self, function: Callable[..., Any], *args: object) -> Any:
        return await self._thread.call(function, *args)

    async def _plumbing(self) -> list[Difference]:
        """Look at devices, filters, routes, rules and pins, with pauses for the kernel thread's other work."""
        if self._inspector is None:
            return []
        prefixes = self._node.prefixes.desired().get("own")
        found: list[Difference] = await self._call(self._inspector.node, prefixes or ())
        if prefixes is None:  # nothing is known of them: whatever stands is as it should be
            found = [one for one in found if not one.subject.startswith("route ")]
        wants = self._node.endpoints.table.desired()
        for want in wants.values():
            found += await self._call(self._inspector.endpoint, want.link)
        self._counts["endpoints"] = len(wants)
        return found

    async def _rows(self) -> list[Difference]:
        endpoints = self._node.endpoints
        entries = await self._call(self._kernel.endpoints)
        wants: dict[int, EndpointWant] = dict(endpoints.table.desired())
        found = verify.stranger_differences({*wants, *endpoints.records}, entries)
        self._counts["policy entries"] = 0
        for number, want in wants.items():
            stands = self._realiser.standing(number)
            if stands.plugged is not None:
                found += verify.entry_differences(entry_of(want, stands.plugged), entries.get(number))
            if want.policy is not None:
                rows = await self._call(self._kernel.policy, number)
                have = {key: value for key, (value, _) in rows.items()}
                found += verify.policy_differences(number, want.policy.entries, have)
                self._counts["policy entries"] += len(have)
        return found

    async def _host(self) -> list[Difference]:
        """Compare the node's own filter and its policy map."""
        want = self._node.host.want
        have = await self._call(self._kernel.host)
        if want is None or want.policy is None:
            return verify.host_differences(None, have)
        entry = await self._call(entry_of_host, want, self._kernel)
        rows = await self._call(self._kernel.policy, HOST_ENDPOINT)
        found = {key: value for key, (value, _) in rows.items()}
        return [
            *verify.host_differences(entry, have),
            *verify.policy_differences(HOST_ENDPOINT, want.policy.entries, found),
        ]

    async def _addresses(self) -> list[Difference]:
        addresses = self._node.addresses
        want = {prefix: mapped.identity for prefix, mapped in addresses.table.desired().items()}
        drift: AddressDrift = await self._call(self._kernel.compare_addresses, want)
        found, missing = drift
        foreign = found.keys() - want.keys()
        self._counts["addresses"] = len(want) - len(missing) + len(foreign)
        return verify.address_differences(want, drift, foreign - addresses.held if addresses.table.initialised else ())

    async def _masquerade(self) -> list[Difference]:
        want = self._node.masquerade.table.get("own")
        return verify.masquerade_differences(want.value, await self._call(self._kernel.masquerade)) if want else []

    async def _tunnels(self) -> list[Difference]:
        tunnels = self._node.tunnels
        have = await self._call(self._kernel.tunnels)
        self._counts["tunnels"] = len(have)
        return verify.tunnel_differences(tunnels.table.desired(), have, tunnels.held, whole=tunnels.table.initialised)

    async def repair_plumbing(self) -> None:
        """Have repaired what no row describes: an endpoint's plumbing by making it again, what all share by starting again."""
        found = await self._plumbing()
        if not found:
            return
        again = set(found) & set(await self._plumbing())
        endpoints = {one.endpoint for one in again if one.endpoint}
        for one in sorted(again):
            _LOG.warning("%s: %s %s: repairing", one.subject, one.problem, one.detail)
        if any(not one.endpoint for one in again):
            await self._call(self._kernel.start)
        for endpoint in endpoints:
            await self._call(self._realiser.forget, endpoint)
        self._node.endpoints.table.touch(endpoints & self._node.endpoints.table.desired().keys())
