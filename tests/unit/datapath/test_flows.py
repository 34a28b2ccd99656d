from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from random import Random

from fairlead.address import Address
from fairlead.bus_memory import Hub, MemoryBus
from fairlead.clock import ManualClock
from fairlead.schema.base import NodeName
from fairlead.schema.flow import FLOW_SEEN, Flow, FlowEnd, FlowFilter, FlowQuery, Verdict
from services.datapath.flows import Budget, FlowRecorder
from services.datapath.kernel.fake import FakeKernel
from services.datapath.reports import Event, EventKind, EventsLost

NODE = NodeName("n1")
A, B = Address("10.0.0.2"), Address("10.0.0.3")


def _event(kind: EventKind = EventKind.DROP) -> Event:
    return Event(kind, 133, 0, 6, A, B, 1, 2, 300, 301, 1, 0, 60, 0)


def _explain(event: Event, uuid: str, lost: dict[str, int]) -> Flow:
    return Flow(
        uuid=uuid,
        time=datetime(2026, 1, 1, tzinfo=UTC),
        node_name=NODE,
        verdict=Verdict.DROPPED if event.kind is EventKind.DROP else Verdict.FORWARDED,
        traffic_direction="INGRESS",
        protocol="TCP",
        source=FlowEnd(address=event.source),
        destination=FlowEnd(address=event.destination),
        lost_before=sum(lost.values()),
        lost_by_stage=lost,
    )


def _recorder(records: int = 1000, messages: int = 1000) -> tuple[FlowRecorder, ManualClock]:
    clock = ManualClock()
    return FlowRecorder(FakeKernel(), _explain, clock, Random(1), (records, messages)), clock


def test_a_budget_gives_so_many_per_second_and_saves_one_second() -> None:
    clock = ManualClock()
    budget = Budget(10, clock)
    assert budget.take(25) == 10
    assert budget.take(1) == 0
    clock.advance(0.5)
    assert budget.take(25) == 5
    clock.advance(60)
    assert budget.take(25) == 10


def test_what_is_above_the_budget_is_counted_and_told_with_the_next() -> None:
    recorder, clock = _recorder(records=3)
    recorder.record([_event()] * 8)
    clock.advance(1)
    recorder.record([_event()])
    listed = recorder.query(NODE, FlowQuery(last=10))
    assert listed.lost == 5
    assert [flow.lost_before for flow in listed.flows] == [0 + 5, 0, 0, 0]


async def test_questions_about_flows() -> None:
    recorder, _ = _recorder()
    recorder.record([_event(), _event(EventKind.NEW_FLOW), _event()])
    everything = recorder.query(NODE, FlowQuery()).flows
    assert len(everything) == len({flow.uuid for flow in everything}) == 3
    assert [flow.verdict for flow in recorder.query(NODE, FlowQuery(verdict="forwarded")).flows] == ["FORWARDED"]
    assert recorder.query(NODE, FlowQuery(last=1)).flows == everything[-1:]
    assert recorder.query(NODE, FlowQuery(uuid=everything[1].uuid[:8])).flows == everything[1:2]
    recorder.record([_event()] * 900)
    assert len(recorder.query(NODE, FlowQuery(last=4096)).flows) == 903


async def test_flows_are_published_within_the_budget_and_lost_without_the_bus() -> None:
    hub = Hub()
    seen: list[Flow] = []

    async def hear(flow: Flow) -> None:
        seen.append(flow)

    bus = MemoryBus(hub)
    await bus.follow(FLOW_SEEN, hear)
    recorder, clock = _recorder(messages=5)
    task = asyncio.create_task(recorder.publish(bus, NODE))
    recorder.record([_event()] * 8)
    await asyncio.sleep(0.01)
    assert (len(seen), recorder.losses.shown()) == (5, {"messages": 3})
    hub.up = False
    clock.advance(1)
    recorder.record([_event()] * 2)
    await asyncio.sleep(0.01)
    assert (len(seen), recorder.losses.shown()) == (5, {"messages": 3, "bus": 2})
    assert recorder.query(NODE, FlowQuery()).lost == 0
    task.cancel()


def test_losses_are_told_by_stage_once_with_the_next_flow() -> None:
    recorder, clock = _recorder(records=2)
    recorder.losses.hear_kernel(EventsLost(100, 7, 0))
    recorder.losses.hear_kernel(EventsLost(103, 8, 1))
    recorder.record([_event()] * 3)
    clock.advance(1)
    recorder.record([_event()])
    listed = recorder.query(NODE, FlowQuery())
    lost = {"ration": 3, "ring_buffer": 1, "unknown": 1, "recorder": 1}
    assert (listed.lost, listed.lost_by_stage) == (6, lost)
    assert [flow.lost_by_stage for flow in listed.flows] == [lost, {}, {}]


def test_oldest_flows_come_first_if_asked_and_filters_count_before_numbers() -> None:
    recorder, _ = _recorder()
    recorder.record([_event(), _event(EventKind.NEW_FLOW), _event(), _event(EventKind.NEW_FLOW)])
    everything = recorder.query(NODE, FlowQuery()).flows
    passed = FlowFilter(verdict=(Verdict.FORWARDED,))
    assert recorder.query(NODE, FlowQuery(first=1)).flows == everything[:1]
    assert recorder.query(NODE, FlowQuery(first=1, only=(passed,))).flows == everything[1:2]
    assert recorder.query(NODE, FlowQuery(last=1, never=(passed,))).flows == everything[2:3]
