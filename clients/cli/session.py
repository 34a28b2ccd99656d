"""One connection for one command, and the questions that many commands ask."""

from __future__ import annotations

import argparse
import asyncio
from dataclasses import dataclass, field
from typing import Any, TypeVar

from clients.cli.output import Exit, Stop
from fairlead.bus import Bus
from fairlead.clock import SYSTEM, Clock
from fairlead.errors import FairleadError, InvalidInput, NotFound, Unavailable
from fairlead.schema.base import BucketSpec, Empty, Message, NodeName, Row, Topic
from fairlead.schema.datapath import ENDPOINTS, REALISED, EndpointStatus
from fairlead.schema.health import HEALTH
from fairlead.schema.identity import NODES
from fairlead.schema.ipam import CLAIMS

M = TypeVar("M", bound=Message)
R = TypeVar("R", bound=Message)
V = TypeVar("V", bound=Row)

NODE_SERVICES = ("ipam", "datapath", "bgp")
_ANSWER_S = 5.0
_HUB_AWAY = "the hub does not answer: showing only the nodes that answer here; name a node with --node to be sure"


@dataclass
class Session:
    """What a command works with. `warnings` collects what people must know besides the answer."""

    bus: Bus
    options: argparse.Namespace
    clock: Clock = SYSTEM
    warnings: list[str] = field(default_factory=list)
    late: bool = False
    """Whether somebody who was asked did not answer."""

    @property
    def timeout_s(self) -> float:
        """Return how long to wait for one answer."""
        return _ANSWER_S if self.options.timeout is None else float(self.options.timeout)

    @property
    def status(self) -> Exit:
        """Return LATE when an answer is missing, else OK."""
        return Exit.LATE if self.late else Exit.OK

    async def ask(self, topic: Topic[M, R], message: M, node: NodeName | None = None) -> R:
        """Return one service's reply."""
        return await self.bus.request(topic, message, node=node, timeout_s=self.timeout_s)

    async def rows(self, spec: BucketSpec[V]) -> dict[str, V]:
        """Return a bucket's rows. Raises Stop telling what works without the hub."""
        try:
            return await self.bus.bucket(spec).rows()
        except Unavailable as error:
            hint = "the hub is away; commands with --node still work at that node's leaf"
            raise Stop(Exit.NO_BUS, f"{error.message}: {hint}") from error

    async def nodes(self) -> tuple[NodeName, ...]:
        """Return the nodes to ask: the one from --node, else all that the hub knows, else those that answer here."""
        if getattr(self.options, "node", None):
            return (NodeName(self.options.node),)
        try:
            known = set(await self.bus.bucket(NODES).rows())
            known |= set(await self.bus.bucket(CLAIMS).rows())
            known |= set(await self.bus.bucket(REALISED).rows())
        except Unavailable:
            self.warnings.append(_HUB_AWAY)
            answers = await self.bus.gather(HEALTH, Empty())
            return tuple(sorted({NodeName(row.node) for row in answers if row.service in NODE_SERVICES}))
        return tuple(sorted(map(NodeName, known)))  # all three buckets have the node as their key

    async def each(self, topic: Topic[M, R], message: M) -> dict[NodeName, R]:
        """Ask every node at once, and return the replies; nodes without one become warnings."""
        nodes = await self.nodes()
        if not nodes:
            raise Stop(Exit.NO, "no node is known: is a datapath or ipam service running, and on this bus?")
        found = await asyncio.gather(*(self._one(topic, message, node) for node in nodes))
        if all(reply is None for reply in found):
            raise Stop(Exit.LATE, "; ".join(self.warnings))
        return {node: reply for node, reply in zip(nodes, found, strict=True) if reply is not None}

    async def _one(self, topic: Topic[M, R], message: M, node: NodeName) -> R | None:
        try:
            return await self.ask(topic, message, node)
        except Unavailable as error:
            self.late = True
            self.warnings.append(f"{node}: {error.message}")
        return None

    async def endpoints(self) -> list[EndpointStatus]:
        """Return the endpoints of all nodes asked, by node and name."""
        lists = await self.each(ENDPOINTS, Empty())
        return sorted((one for row in lists.values() for one in row.endpoints), key=lambda one: (one.node, one.name))

    async def endpoint(self, wanted: str) -> EndpointStatus:
        """Return the one endpoint with this name, address, or number (with --node). Raises NotFound, InvalidInput."""
        everything = await self.endpoints()
        found = [one for one in everything if wanted == one.name or wanted in one.addresses]
        found = found or [one for one in everything if wanted == str(one.endpoint)]
        if not found:
            raise NotFound(f"no endpoint {wanted!r}: `fairlead endpoint list` shows all" + self._missing())
        if len(found) > 1:
            raise InvalidInput(f"{wanted!r} stands on {', '.join(one.node for one in found)}: say which with --node")
        return found[0]

    def _missing(self) -> str:
        return f" ({'; '.join(self.warnings)})" if self.warnings else ""


def status_of(error: FairleadError, *, connected: bool) -> Exit:
    """Return the exit status that tells an error's kind."""
    if isinstance(error, Unavailable):
        return Exit.LATE if connected else Exit.NO_BUS
    return Exit.USAGE if isinstance(error, InvalidInput) else Exit.NO


def named(options: argparse.Namespace, name: str) -> Any:
    """Return an option that only some commands have; None where this one has not."""
    return getattr(options, name, None)
