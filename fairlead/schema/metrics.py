"""What a node's programs have counted: packets by reason and direction, the flow table, reports that were lost."""

from __future__ import annotations

import msgspec

from fairlead.schema.base import Empty, Message, NodeNameField, Topic


class PacketCount(Message, frozen=True, kw_only=True):
    """Packets that met one end, since the node's maps were made."""

    reason: str
    """In words; `forwarded` for those that passed."""
    code: int
    """Drop code; 0: forwarded."""
    direction: str
    """INGRESS or EGRESS of a workload."""
    packets: int
    bytes: int


class FlowTable(Message, frozen=True, kw_only=True):
    """The flow table, as of the last time that it was looked through."""

    alive: int = 0
    capacity: int = 0
    """0: it was not looked through yet."""
    collected: int = 0
    """Flows taken out because they were over, since the service started."""
    outer_ends: int = 0
    """Ports that masqueraded flows have on this node's addresses."""
    outer_ends_freed: int = 0
    """Those given back because no flow had them any more, since the service started."""
    runs: int = 0
    duration_s: float = 0.0
    """Of the last run."""


class NodeMetrics(Message, frozen=True, kw_only=True):
    """All that a node has counted."""

    node: NodeNameField
    packets: tuple[PacketCount, ...]
    flows: FlowTable = FlowTable()
    lost: dict[str, int] = msgspec.field(default_factory=dict)
    """Reports that were lost, by stage: see FlowList.lost_by_stage."""


METRICS = Topic(
    "fairlead.get.datapath.metrics.list.v1",
    Empty,
    NodeMetrics,
    per_node=True,
    summary="packets by reason and direction",
)
