"""What the programs count, in words and for collectors."""

from __future__ import annotations

from fairlead.address import Address
from fairlead.clock import ManualClock
from fairlead.schema.base import NodeName
from services.datapath.collector import Collection
from services.datapath.kernel.fake import FakeKernel
from services.datapath.metrics import Metrics, counts
from services.datapath.operations import EndpointEntry, PolicyKey, PolicyValue
from services.datapath.reports import DropReason, PacketCounter
from services.datapath.worker import KernelThread

WEB, DB = Address("10.0.0.2"), Address("10.0.0.3")


def test_counters_are_told_in_words_those_that_passed_first() -> None:
    found = counts([PacketCounter(133, 0, 2, 120), PacketCounter(0, 1, 5, 300), PacketCounter(0, 0, 1, 60)])
    assert [(one.reason, one.direction, one.packets) for one in found] == [
        ("forwarded", "INGRESS", 1),
        ("forwarded", "EGRESS", 5),
        ("policy denied: no entry admits it", "INGRESS", 2),
    ]


async def test_collectors_hear_what_was_seen_last_and_what_was_lost() -> None:
    kernel, thread = FakeKernel(), KernelThread()
    kernel.put_endpoint(EndpointEntry(2, 12, 301, bytes(6), bytes(6), (DB,), held=False))
    kernel.apply_policy(2, {PolicyKey(0, 80, 6, 0): PolicyValue()}, ())
    for port in (80, 81, 81):
        kernel.send(WEB, DB, 6, port)
    collection = Collection(runs=3, deleted=9, alive=4, capacity=8)
    metrics = Metrics(NodeName("n1"), kernel, thread, ManualClock(), lambda: collection, lambda: {"ration": 2})
    assert metrics.counted("packets", dropped=True) == []
    told = await metrics.look()
    reason = next(one.reason for one in told.packets if one.code == DropReason.POLICY)
    assert metrics.counted("packets", dropped=True) == [({"reason": reason, "direction": "INGRESS"}, 2.0)]
    assert metrics.counted("bytes", dropped=False) == [({"direction": "INGRESS"}, 60.0)]
    assert metrics.lost() == [({"source": "ration"}, 2.0)]
    assert (told.flows.alive, told.flows.capacity, told.flows.collected, told.lost) == (4, 8, 9, {"ration": 2})
    thread.close()
