"""Waiting until the nodes that are concerned have a change in their kernels."""

from __future__ import annotations

import asyncio

from msgspec.structs import replace

from fairlead.bus import Bus
from fairlead.clock import Clock
from fairlead.mirror import Mirror
from fairlead.schema.datapath import REALISED, RealisedRow
from fairlead.schema.identity import ADDRESSES, AddressGroup
from fairlead.schema.policy import NodeRealised, PolicyApplied, PolicyReference
from services.policy.projection import Projection
from services.policy.realised import Hosting, confirmations, identities_of
from services.policy.rules import Policy
from services.policy.store import policy_key


class Waiting:
    """Knows who hosts what and who has confirmed what."""

    def __init__(self, projection: Projection, bus: Bus, clock: Clock) -> None:
        self._projection = projection
        self._hosting = Hosting()
        self._heard = asyncio.Event()
        self.realised = Mirror(bus.bucket(REALISED), on_change=self._on_realised, clock=clock)
        self.addresses = Mirror(bus.bucket(ADDRESSES), on_change=self._on_addresses, clock=clock, lazily=True)

    async def _on_addresses(self, group: str, row: AddressGroup | None) -> None:
        self._hosting.take(group, row)
        self._heard.set()

    async def _on_realised(self, _node: str, _row: RealisedRow | None) -> None:
        self._heard.set()

    def selected_now(self, reference: PolicyReference) -> set[str]:
        """Return the row keys of the subjects of the policy as it is in force now."""
        policy = self._projection.view.model.policies.get(policy_key(reference))
        return self.selected(policy) if policy else set()

    def selected(self, policy: Policy) -> set[str]:
        """Return the row keys of the subjects that a policy selects now, in force or not."""
        model = self._projection.view.model
        return {model.row_key(number) for number in model.selected(policy)}

    async def realise(self, answer: PolicyApplied, before: set[str], wait_s: float) -> PolicyApplied:
        """Return the answer with what has been reached after at most `wait_s`; `before`: rows that are concerned in any case."""
        if not wait_s:
            return answer
        nodes: tuple[NodeRealised, ...] = ()
        resolved = False
        try:
            async with asyncio.timeout(wait_s):
                await self._projection.settled(answer.revision)
                resolved = True
                wanted = await self._projection.revisions(before | self.selected_now(answer.policy))
                while True:
                    nodes = confirmations(wanted, self._hosting, self.realised.rows)
                    if self.addresses.complete and all(node.realised for node in nodes):
                        break
                    self._heard.clear()
                    await self._heard.wait()
        except TimeoutError:
            pass  # the answer names what is missing
        identities = tuple(sorted({*answer.identities, *identities_of(self.selected_now(answer.policy))}))
        return replace(answer, resolved=resolved, nodes=nodes, identities=identities)
