"""What a node answers of itself: read from its kernel, told in the words of the bus. Nothing here changes anything."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from fairlead.bus import Route, route
from fairlead.errors import NotFound
from fairlead.schema import datapath as topics
from fairlead.schema import nat
from fairlead.schema.base import Empty, EndpointId, IdentityId
from fairlead.schema.flow import FLOWS, FlowList, FlowQuery
from fairlead.schema.identity import WORLD
from fairlead.schema.metrics import METRICS, NodeMetrics
from services.datapath.answers import nat_list, policy_line
from services.datapath.failsafe import HOST_ENDPOINT
from services.datapath.flows import FlowRecorder
from services.datapath.metrics import Metrics
from services.datapath.node import Node
from services.datapath.operations import Kernel
from services.datapath.verification import Verification
from services.datapath.worker import KernelThread

T = TypeVar("T")
HOST = "host"
"""What the node itself is called where an endpoint is asked for."""


class Questions:
    """The topics of class `get`; `require_started` raises Unavailable while the kernel's side is not up."""

    def __init__(
        self,
        node: Node,
        kernel: Kernel,
        thread: KernelThread,
        flows: FlowRecorder,
        metrics: Metrics,
        verification: Verification,
        *,
        require_started: Callable[[], None],
    ) -> None:
        self._name, self._node = node.name, node
        self._kernel, self._thread = kernel, thread
        self._flows, self._metrics, self._verification = flows, metrics, verification
        self._require_started = require_started

    async def list_endpoints(self, _ask: Empty) -> topics.EndpointList:
        """Return every endpoint of the node."""
        endpoints = self._node.endpoints
        return topics.EndpointList(
            node=self._name, endpoints=tuple(endpoints.status(record.endpoint) for record in endpoints.live())
        )

    async def dump_policy(self, ask: topics.EndpointQuery) -> topics.PolicyMapDump:
        """Read an endpoint's policy map from the kernel."""
        number, name = self._find(ask.endpoint)
        found = await self._ask(self._kernel.policy, number)
        entries = sorted(found.items(), key=lambda item: (item[0].direction, item[0]))
        return topics.PolicyMapDump(
            endpoint=EndpointId(number),
            name=name,
            pin=self._kernel.policy_pin(number),
            entries=tuple(policy_line(self._node, key, *values) for key, values in entries),
        )

    async def look_up(self, ask: topics.AddressQuery) -> topics.AddressAnswer:
        """Ask the kernel who stands behind an address; an address that nobody claims is the world's."""
        found = await self._ask(self._kernel.lookup_address, ask.address)
        prefix, identity = found or ("", WORLD)
        return topics.AddressAnswer(
            node=self._name,
            address=ask.address,
            prefix=prefix,
            identity=IdentityId(identity),
            labels=self._node.identities.labels(identity),
            name=self._node.end(ask.address, identity).name,
        )

    async def list_metrics(self, _ask: Empty) -> NodeMetrics:
        """Return what the programs have counted."""
        self._require_started()
        return await self._metrics.look()

    async def list_flows(self, ask: FlowQuery) -> FlowList:
        """Return recorded flows."""
        return self._flows.query(self._name, ask)

    async def list_nat(self, _ask: Empty) -> nat.NatList:
        """Return the outer ends that flows to the world hold."""
        return nat_list(self._name, await self._ask(self._kernel.masqueraded))

    async def verify(self, _ask: Empty) -> topics.Verification:
        """Compare the kernel with what should be there."""
        self._require_started()
        return await self._verification.verify()

    def _find(self, text: str) -> tuple[int, str]:
        """Return the number and the name of the endpoint that is meant; `host` is the node itself."""
        record = self._node.endpoints.find(text)
        if record is None and text in (HOST, str(HOST_ENDPOINT)):
            return HOST_ENDPOINT, HOST
        if record is None:
            raise NotFound(
                f"`endpoint`: {text!r} is no number, name or address of an endpoint on node {self._name}, nor `{HOST}`"
            )
        return record.endpoint, record.name

    async def _ask(self, question: Callable[..., T], *subject: object) -> T:
        self._require_started()
        return await self._thread.call(question, *subject)

    def routes(self) -> tuple[Route, ...]:
        """Return the topics that are answered here."""
        return (
            route(topics.ENDPOINTS, self.list_endpoints, self._name),
            route(topics.POLICY_MAP, self.dump_policy, self._name),
            route(topics.LOOKUP_ADDRESS, self.look_up, self._name),
            route(FLOWS, self.list_flows, self._name),
            route(METRICS, self.list_metrics, self._name),
            route(nat.NAT, self.list_nat, self._name),
            route(topics.VERIFY, self.verify, self._name),
        )
