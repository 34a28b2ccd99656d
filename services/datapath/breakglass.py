"""Foreign entries of policy maps: kept on disk, reported on the bus until the bus has it, shown in the health."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from datetime import timedelta

import msgspec

from fairlead.bus import Bus
from fairlead.clock import Clock
from fairlead.errors import FairleadError
from fairlead.schema.base import EndpointId, NodeName
from fairlead.schema.datapath import BREAK_GLASS, BreakGlass
from services.datapath.explain import describe
from services.datapath.operations import PolicyKey, PolicyValue
from services.datapath.store import Finding, Store

_LOG = logging.getLogger("datapath.breakglass")
_RETRY_S = 1.0
_SHOWN = 20
_ENTRIES_TOLD = 100


class BreakGlassLog:
    """What was found. `found` is called in the kernel thread, everything else in the event loop."""

    def __init__(self, node: NodeName, store: Store, clock: Clock) -> None:
        self._node = node
        self._store = store
        self._clock = clock
        self._findings = store.findings()
        self._wake = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self.names: dict[int, str] = {}
        """Endpoint names by number."""

    def found(self, endpoint: int, entries: Mapping[PolicyKey, PolicyValue]) -> None:
        """Keep on disk that these entries were found; they are removed only after this."""
        texts = tuple(describe(key, value) for key, value in sorted(entries.items(), key=lambda item: item[0]))
        name = self.names.get(endpoint, "")
        event = BreakGlass(
            node=self._node,
            endpoint=EndpointId(endpoint),
            name=name,
            time=self._clock.now(),
            entries=texts[:_ENTRIES_TOLD],
        )
        number = self._findings[-1].number + 1 if self._findings else 1
        finding = Finding(number=number, event=event)
        self._store.save_finding(finding)
        self._findings.append(finding)
        _LOG.warning(
            "break-glass: endpoint %d %s had entries that nobody ordered: %s", endpoint, name, "; ".join(texts)
        )
        self._loop.call_soon_threadsafe(self._wake.set)

    async def run(self, bus: Bus) -> None:
        """Publish what was found, each until the bus has it."""
        while True:
            self._wake.clear()
            for finding in [finding for finding in self._findings if not finding.published]:
                await self._publish(bus, finding)
            await self._wake.wait()

    async def _publish(self, bus: Bus, finding: Finding) -> None:
        while True:
            try:
                await bus.publish(BREAK_GLASS, finding.event, node=self._node)
            except FairleadError as error:
                _LOG.info("break-glass report is waiting: %s", error.message)
                await self._clock.sleep(_RETRY_S)
                continue
            told = msgspec.structs.replace(finding, published=True)
            await asyncio.to_thread(self._store.save_finding, told)
            self._findings[self._findings.index(finding)] = told
            return

    def newest(self) -> list[BreakGlass]:
        """Return the newest findings, oldest first."""
        return [finding.event for finding in self._findings[-_SHOWN:]]

    def condition(self, alarm_s: float) -> tuple[bool, str]:
        """Return whether all is quiet, and what was found last."""
        newest = self.newest()
        if not newest:
            return True, ""
        quiet_from = newest[-1].time + timedelta(seconds=alarm_s)
        texts = [
            f"{event.time:%Y-%m-%dT%H:%M:%SZ} endpoint {event.endpoint} {event.name}: {'; '.join(event.entries)}"
            for event in newest
        ]
        return self._clock.now() >= quiet_from, " | ".join(reversed(texts))
