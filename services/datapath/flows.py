"""Flow events: read from the kernel in a thread of their own, explained, kept for questions, published as far as the bus can bear.

Every stage counts what it loses: the kernel's ring, the budget for records, the budget for messages and the bus itself.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from random import Random

from fairlead.bus import Bus
from fairlead.clock import Clock
from fairlead.errors import FairleadError
from fairlead.schema.base import NodeName
from fairlead.schema.flow import FLOW_SEEN, Flow, FlowList, FlowQuery
from services.datapath.operations import Event, Kernel

_LOG = logging.getLogger("datapath.flows")
_KEPT = 4096
_POLL_S = 0.2
_UNSENT = 1024

Explain = Callable[[Event, str, int], Flow]
"""Turns an event, its uuid and the number of events lost before it into a flow."""


class Budget:
    """So many per second, and no more; unused ones can be saved up for one second."""

    def __init__(self, per_s: float, clock: Clock) -> None:
        self._per_s = per_s
        self._clock = clock
        self._left = per_s
        self._at_s = clock.monotonic_s()

    def take(self, wanted: int) -> int:
        """Return how many of the wanted are within the budget, and spend them."""
        now_s = self._clock.monotonic_s()
        self._left = min(self._per_s, self._left + (now_s - self._at_s) * self._per_s)
        self._at_s = now_s
        granted = min(wanted, int(self._left))
        self._left -= granted
        return granted


@dataclass
class Losses:
    """How many events each stage has lost since the process began."""

    ring: int = 0
    records: int = 0
    messages: int = 0

    @property
    def unrecorded(self) -> int:
        """Return how many events this node cannot tell of."""
        return self.ring + self.records


class FlowRecorder:
    """The flows of this node."""

    def __init__(
        self, kernel: Kernel, explain: Explain, clock: Clock, random: Random, budgets: tuple[int, int]
    ) -> None:
        self._kernel = kernel
        self._explain = explain
        self._random = random
        self._records, self._messages = (Budget(per_s, clock) for per_s in budgets)
        self._flows: deque[Flow] = deque(maxlen=_KEPT)
        self._unsent: deque[Flow] = deque()
        self._more = asyncio.Event()
        self._told = 0
        self._ring_before: int | None = None
        self.losses = Losses()

    async def read(self) -> None:
        """Read events for ever."""
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="events") as executor:
            while True:
                events = await loop.run_in_executor(executor, self._kernel.events, _POLL_S)
                self._count_ring(await loop.run_in_executor(executor, self._kernel.events_lost))
                self.record(events)

    def _count_ring(self, lost: int) -> None:
        """Count what the ring lost in this process's time."""
        before = lost if self._ring_before is None else self._ring_before
        self._ring_before = lost
        self.losses.ring += max(0, lost - before)

    def record(self, events: Sequence[Event]) -> None:
        """Explain and keep these events, as many as the budget allows; of a burst the later ones are lost."""
        granted = self._records.take(len(events))
        self.losses.records += len(events) - granted
        for event in events[:granted]:
            flow = self._explain(event, self._uuid(), self.losses.unrecorded - self._told)
            self._told = self.losses.unrecorded
            self._flows.append(flow)
            self._queue(flow)

    def _queue(self, flow: Flow) -> None:
        if len(self._unsent) >= _UNSENT or not self._messages.take(1):
            self.losses.messages += 1
            return
        self._unsent.append(flow)
        self._more.set()

    def _uuid(self) -> str:
        return str(uuid.UUID(int=self._random.getrandbits(128), version=4))

    async def publish(self, bus: Bus, node: NodeName) -> None:
        """Publish for ever what the budget lets through; what the bus does not take is lost, and counted."""
        while True:
            self._more.clear()
            while self._unsent:
                try:
                    await bus.publish(FLOW_SEEN, self._unsent.popleft(), node=node)
                except FairleadError:
                    self.losses.messages += 1
            await self._more.wait()

    def query(self, node: NodeName, ask: FlowQuery) -> FlowList:
        """Return the recorded flows that are asked for, oldest first."""
        wanted = ask.verdict.upper()
        found = [
            flow
            for flow in self._flows
            if (not wanted or flow.verdict == wanted) and (not ask.uuid or flow.uuid.startswith(ask.uuid))
        ]
        return FlowList(node=node, flows=tuple(found[-ask.last :]), lost=self.losses.unrecorded)
