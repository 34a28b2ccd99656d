"""What the programs have counted, for the bus and for whoever collects metrics. Names are those that people alert on already."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

from fairlead import telemetry
from fairlead.clock import Clock
from fairlead.schema.base import NodeName
from fairlead.schema.metrics import FlowTable, NodeMetrics, PacketCount
from services.datapath.collector import Collection
from services.datapath.explain import reason_text
from services.datapath.operations import Kernel
from services.datapath.reports import PacketCounter
from services.datapath.worker import KernelThread

EVERY_S = 10.0
_DIRECTIONS = ("INGRESS", "EGRESS")


def counts(counters: Iterable[PacketCounter]) -> tuple[PacketCount, ...]:
    """Return the counters in words, those that forwarded first."""
    return tuple(
        PacketCount(
            reason=reason_text(one.reason) if one.reason else "forwarded",
            code=one.reason,
            direction=_DIRECTIONS[one.direction],
            packets=one.packets,
            bytes=one.bytes,
        )
        for one in sorted(counters, key=lambda one: (one.reason, one.direction))
    )


def flow_table(collection: Collection) -> FlowTable:
    """Return what was collected, as the bus tells it."""
    return FlowTable(
        alive=collection.alive,
        capacity=collection.capacity,
        collected=collection.deleted,
        outer_ends=collection.outer_ends,
        outer_ends_freed=collection.freed,
        runs=collection.runs,
        duration_s=collection.duration_s,
    )


class Metrics:
    """The numbers of one node. Collectors are answered from the last look, so that they never wait for the kernel."""

    def __init__(
        self,
        node: NodeName,
        kernel: Kernel,
        thread: KernelThread,
        clock: Clock,
        collection: Callable[[], Collection],
        lost: Callable[[], Mapping[str, int]],
    ) -> None:
        self._node, self._kernel, self._thread, self._clock = node, kernel, thread, clock
        self._collection, self._lost = collection, lost
        self._seen: tuple[PacketCount, ...] = ()

    async def run(self) -> None:
        """Look at the counters now and then, for ever."""
        export(self)
        while True:
            await self.look()
            await self._clock.sleep(EVERY_S)

    async def look(self) -> NodeMetrics:
        """Return the numbers of this moment."""
        self._seen = counts(await self._thread.call(self._kernel.counters))
        return NodeMetrics(
            node=self._node, packets=self._seen, flows=flow_table(self._collection()), lost=dict(self._lost())
        )

    def counted(self, field: str, *, dropped: bool) -> Sequence[tuple[Mapping[str, str], float]]:
        """Return one field of the packets that were dropped, or of those that passed, with what tells them apart."""
        return [
            ({"reason": one.reason, "direction": one.direction} if dropped else {"direction": one.direction}, value)
            for one in self._seen
            if bool(one.code) is dropped
            for value in (float(getattr(one, field)),)
        ]

    def collected(self) -> Collection:
        """Return what was collected from the flow table."""
        return self._collection()

    def lost(self) -> Sequence[tuple[Mapping[str, str], float]]:
        """Return the reports that were lost, by stage."""
        return [({"source": stage}, float(count)) for stage, count in self._lost().items()]


def export(metrics: Metrics) -> None:
    """Offer the numbers to whoever collects metrics."""
    for field in ("packets", "bytes"):
        noun = "count" if field == "packets" else "bytes"
        for word, dropped in (("drop", True), ("forward", False)):
            telemetry.total(
                f"fairlead_{word}_{noun}",
                partial(metrics.counted, field, dropped=dropped),
                summary=f"{field} {'dropped' if dropped else 'forwarded'}",
            )
    telemetry.total("fairlead_lost_events", metrics.lost, summary="reports of flows that were lost, by stage")
    telemetry.total(
        "fairlead_datapath_conntrack_gc_runs",
        lambda: [({}, float(metrics.collected().runs))],
        summary="passes over the flow table",
    )
    telemetry.gauge(
        "fairlead_datapath_conntrack_gc_entries",
        lambda: {"alive": metrics.collected().alive, "deleted": metrics.collected().deleted},
        unit="{flow}",
        summary="flows that the last pass left, and all that were taken out",
    )
    telemetry.gauge(
        "fairlead_datapath_masquerade_gc_entries",
        lambda: {"alive": metrics.collected().outer_ends, "deleted": metrics.collected().freed},
        unit="{port}",
        summary="ports outside that the last pass left, and all that were given back",
    )
    telemetry.gauge(
        "fairlead_datapath_conntrack_gc_duration_seconds",
        lambda: {"all": metrics.collected().duration_s},
        unit="s",
        summary="the last pass over the flow table",
    )
    telemetry.gauge(
        "fairlead_bpf_map_pressure",
        lambda: {"conntrack": metrics.collected().fill},
        unit="1",
        summary="how full a map is, 0 to 1",
    )
