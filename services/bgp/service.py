"""Announces what the node has claimed, and keeps comparing: claim to desired routes, desired routes to what the engine holds."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping

from fairlead import telemetry
from fairlead.bus import Route as BusRoute
from fairlead.bus import route
from fairlead.clock import Clock
from fairlead.errors import FairleadError, Unavailable
from fairlead.schema.base import Empty, NodeName
from fairlead.schema.bgp import PEERS, ROUTES, Peer, Peers, Route, Routes
from fairlead.schema.ipam import Claim
from fairlead.tasks import stop
from services.bgp.engine import Engine, Session, Status
from services.bgp.model import Speaker, announceable

_LOG = logging.getLogger(__name__)
COMPARE_EVERY_S = 30.0
LOOK_EVERY_S = 2.0
RETRY_S = 1.0
WITHDRAW_AFTER_S = 30.0
"""A claim that is gone is withdrawn this much later: withdrawing cuts every workload of the node off, and a claim goes only when a
node is retired."""
ENGINE = "bird"

Condition = Callable[..., None]


class Bgp:
    """Follows this node's claim and drives the engine. `claims` is the live mirror of the bucket."""

    def __init__(self, node: NodeName, speaker: Speaker, engine: Engine, clock: Clock, condition: Condition) -> None:
        self._node = node
        self._speaker = speaker
        self._engine = engine
        self._clock = clock
        self._condition = condition
        self._claim: Claim | None = None
        self._gone_at_s: float | None = None
        self._changed = asyncio.Event()

    def begin(self, claims: Mapping[str, Claim]) -> None:
        """Start from what the mirror remembers."""
        self._claim = claims.get(self._node)

    async def on_claim(self, key: str, row: Claim | None) -> None:
        """Take a change of the node's claim."""
        if key != self._node:
            return
        if row is None:
            self._gone_at_s = self._clock.monotonic_s()
            _LOG.warning("the claim is gone; its prefixes are withdrawn in %.0f s unless it returns", WITHDRAW_AFTER_S)
        else:
            self._claim, self._gone_at_s = row, None
        self._changed.set()

    async def keep(self) -> None:
        """Make the engine announce what is claimed: at once after a change, and every 30 s whatever happens; for ever."""
        await self._guarded(self._configure)
        settled, compare_at_s = False, 0.0
        while True:
            due = not settled or self._changed.is_set() or self._clock.monotonic_s() >= compare_at_s
            self._changed.clear()
            settled = await self._guarded(self._announce if due else self._look_at_engine)
            if due:
                compare_at_s = self._clock.monotonic_s() + COMPARE_EVERY_S
            await self._wait(LOOK_EVERY_S if settled else RETRY_S)

    def routes(self) -> list[BusRoute]:
        """Return the topics that this service answers."""
        return [route(PEERS, self._peers, self._node), route(ROUTES, self._routes, self._node)]

    async def _configure(self) -> bool:
        await self._engine.configure(self._speaker)
        return True

    async def _announce(self) -> bool:
        """Bring the engine to the claim; return whether all is as wanted."""
        if self._withdrawal_due():
            self._claim, self._gone_at_s = Claim(node=self._node, prefixes=()), None
        if self._claim is None:
            self._condition("claim", ok=False, detail="not known yet: what was announced before stays announced")
            await self._look_at_engine()
            return False
        wanted, refused = announceable(self._claim.prefixes, self._speaker.pools)
        self._condition("claim", ok=not refused, detail="; ".join(refused))
        with telemetry.span("bgp announce", parent=self._claim.trace, prefixes=len(wanted)):
            running = (await self._engine.apply(wanted)).running
        if running and not await self._engine.in_step():
            running = (await self._engine.apply(wanted)).running
        await self._look_at_engine()
        return running and self._gone_at_s is None

    def _withdrawal_due(self) -> bool:
        return self._gone_at_s is not None and self._clock.monotonic_s() - self._gone_at_s >= WITHDRAW_AFTER_S

    async def _look_at_engine(self) -> bool:
        """Report how the sessions stand."""
        status = await self._engine.status()
        down = [session for session in status.sessions if not session.established]
        self._condition("engine", ok=True)
        self._condition("sessions", ok=not down, detail=", ".join(f"{s.name} is {s.state}" for s in down))
        return True

    async def _guarded(self, step: Callable[[], Awaitable[bool]]) -> bool:
        """Run one step; an engine that is away or refuses becomes a condition, never an end."""
        try:
            return await step()
        except Unavailable as error:
            self._condition("engine", ok=False, detail=error.message)
        except FairleadError as error:
            self._condition("engine", ok=False, detail=error.message)
            _LOG.error("%s", error.message)
        return False

    async def _wait(self, seconds: float) -> None:
        waiter = asyncio.ensure_future(self._changed.wait())
        timer = asyncio.ensure_future(self._clock.sleep(seconds))
        try:
            await asyncio.wait({waiter, timer}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await stop(waiter, timer)

    async def _peers(self, _ask: Empty) -> Peers:
        status = await self._engine.status()
        return Peers(node=self._node, engine=status.version, peers=tuple(_peer(session) for session in status.sessions))

    async def _routes(self, _ask: Empty) -> Routes:
        status: Status = await self._engine.status()
        found = tuple(Route(prefix=prefix, peers=peers) for prefix, peers in status.announced.items())
        return Routes(node=self._node, routes=found)


def _peer(session: Session) -> Peer:
    return Peer(
        name=session.name,
        address=session.address,
        peer_asn=session.peer_asn,
        local_asn=session.local_asn,
        state=session.state,
        since=session.since,
        exported=session.exported,
        imported=session.imported,
        detail=session.detail,
    )
