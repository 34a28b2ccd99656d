"""Flow events: read from the kernel in a thread of their own, explained, kept for questions, published as far as the bus can bear.

Every stage counts what it loses: the kernel's ring, the budget for records, the budget for messages and the bus itself.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from random import Random

from fairlead.bus import Bus
from fairlead.clock import Clock
from fairlead.errors import FairleadError
from fairlead.schema.base import NodeName
from fairlead.schema.flow import FLOW_SEEN, Flow, FlowList, FlowQuery
from services.datapath.operations import Kernel
from services.datapath.reports import Event, EventsLost

_LOG = logging.getLogger("datapath.flows")
_KEPT = 4096
_POLL_S = 0.2
_UNSENT = 1024

Explain = Callable[[Event, str, dict[str, int]], Flow]
"""Turns an event, its uuid and the events lost before it, by stage, into a flow."""


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


UNRECORDED = ("ration", "ring_buffer", "unknown", "recorder")
"""Stages at which an event is lost to this node; what is lost at `messages` and `bus` was recorded."""


class Losses:
    """How many events each stage has lost since the process began."""

    def __init__(self) -> None:
        self.by_stage: Counter[str] = Counter()
        self._kernel: EventsLost | None = None
        self._told: Counter[str] = Counter()

    def hear_kernel(self, lost: EventsLost) -> None:
        """Count what the kernel lost in this process's time."""
        before = lost if self._kernel is None else self._kernel
        self._kernel = lost
        for stage, now in lost._asdict().items():
            self.by_stage[stage] += max(0, now - int(getattr(before, stage)))

    @property
    def unrecorded(self) -> int:
        """Return how many events this node cannot tell of."""
        return sum(self.by_stage[stage] for stage in UNRECORDED)

    def since_told(self) -> dict[str, int]:
        """Return what was lost to this node since this was asked last, by stage."""
        unrecorded = Counter({stage: self.by_stage[stage] for stage in UNRECORDED})
        new, self._told = unrecorded - self._told, unrecorded
        return dict(new)

    def shown(self) -> dict[str, int]:
        """Return all losses that there are."""
        return {stage: count for stage, count in self.by_stage.items() if count}


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
        self.losses = Losses()

    async def read(self) -> None:
        """Read events for ever."""
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="events") as executor:
            while True:
                events = await loop.run_in_executor(executor, self._kernel.events, _POLL_S)
                self.losses.hear_kernel(await loop.run_in_executor(executor, self._kernel.events_lost))
                self.record(events)

    def record(self, events: Sequence[Event]) -> None:
        """Explain and keep these events, as many as the budget allows; of a burst the later ones are lost."""
        granted = self._records.take(len(events))
        self.losses.by_stage["recorder"] += len(events) - granted
        for event in events[:granted]:
            flow = self._explain(event, self._uuid(), self.losses.since_told())
            self._flows.append(flow)
            self._queue(flow)

    def _queue(self, flow: Flow) -> None:
        if len(self._unsent) >= _UNSENT or not self._messages.take(1):
            self.losses.by_stage["messages"] += 1
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
                    self.losses.by_stage["bus"] += 1
            await self._more.wait()

    def query(self, node: NodeName, ask: FlowQuery) -> FlowList:
        """Return the recorded flows that are asked for, oldest first, and what was lost."""
        found = [flow for flow in self._flows if ask.matches(flow)]
        chosen = found[: ask.first] if ask.first else found[-ask.last :]
        losses = self.losses
        return FlowList(node=node, flows=tuple(chosen), lost=losses.unrecorded, lost_by_stage=losses.shown())
