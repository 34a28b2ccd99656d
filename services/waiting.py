"""What a start that waits for its turn says on the bus, and hears there.

It answers for itself, as every service does: that it waits, until when and why. And it hears a person who wants it now. It speaks with the
nearest server alone (on a node the leaf), keeps nothing anywhere, and does without the bus: what is wrong with it changes nothing about
the wait. So no hub is asked for anything by a fleet that waits in order not to ask it.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import datetime

from fairlead import __version__, tasks
from fairlead.bus import Bus, route
from fairlead.clock import SYSTEM, Clock
from fairlead.config import CommonSettings
from fairlead.credential import credential
from fairlead.errors import FairleadError
from fairlead.schema.admission import START_NOW, StartNow, WaitingStart
from fairlead.schema.base import Empty
from fairlead.schema.health import HEALTH, Condition, Health

CONDITION = "admission"
"""By this condition people see in `fairlead status` that a service does not run yet."""
_AGAIN_S = 2.0
_CLOSE_S = 2.0
_LOG = logging.getLogger("admission")


class Waiting:
    """One start that waits."""

    def __init__(self, node: str, service: str, due: datetime, reason: str, clock: Clock = SYSTEM) -> None:
        self._state = WaitingStart(node=node, service=service, due=due, reason=reason)
        self._since, self._clock = clock.now(), clock
        self.name = f"{service}.{node}"
        self.wanted = False
        """A person wants it now."""

    async def start_now(self, ask: StartNow) -> WaitingStart:
        """Start, if this is meant; every start that waits answers."""
        state = self._state
        if not ask.means(state.node, state.service):
            return state
        self.wanted = True
        return WaitingStart(node=state.node, service=state.service, due=state.due, reason=state.reason, starts=True)

    async def health(self, _ask: Empty) -> Health:
        """Answer for the service that is to come."""
        state = self._state
        words = f"not started: waits until {state.due:%Y-%m-%dT%H:%M:%SZ} ({state.reason})"
        return Health(
            service=state.service,
            node=state.node,
            version=__version__,
            since=self._since,
            pid=os.getpid(),
            rss_bytes=0,
            conditions=(Condition(name=CONDITION, ok=False, detail=words),),
        )

    async def serve(self, bus: Bus) -> None:
        """Answer on this bus; again and again until it is there."""
        while True:
            with suppress(FairleadError):
                await bus.serve(
                    self._state.service, [route(START_NOW, self.start_now), route(HEALTH, self.health)], shared=False
                )
                return
            await self._clock.sleep(_AGAIN_S)


@asynccontextmanager
async def on_bus(settings: CommonSettings, waiting: Waiting) -> AsyncIterator[None]:
    """Be heard on the nearest bus meanwhile; a bus that cannot be used is told once, and changes nothing."""
    from fairlead.bus_nats import NatsBus  # noqa: PLC0415 - a start that does not wait needs no bus

    logging.getLogger("fairlead.bus_nats").setLevel(logging.WARNING)  # that it is not there yet is nothing new
    try:
        own = credential(settings, waiting.name.partition(".")[0])
        bus = NatsBus(settings.nats, name=waiting.name, domain=settings.nats_domain, **own._asdict())
    except (OSError, ValueError, FairleadError) as error:
        _LOG.warning("nobody on the bus will hear of this wait: %s", error)
        yield
        return
    bus.start()
    serving = asyncio.create_task(waiting.serve(bus))
    try:
        yield
    finally:
        await tasks.stop(serving)
        with suppress(TimeoutError, FairleadError, OSError):
            async with asyncio.timeout(_CLOSE_S):
                await bus.close()
