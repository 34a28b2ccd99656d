"""The registry: every topic and every bucket of the bus. What is not here does not travel.

A topic is a subject with the structs that travel on it; a bucket is a table of rows kept by JetStream. The AsyncAPI document
and the golden vectors are made from these two tuples.
"""

from __future__ import annotations

from typing import Any

from fairlead.schema import (
    admission,
    bgp,
    datapath,
    features,
    flow,
    health,
    held,
    identity,
    ipam,
    metrics,
    nat,
    owned,
    policy,
)
from fairlead.schema.base import BucketSpec, Delivery, Topic

TOPICS: tuple[Topic[Any, Any], ...] = tuple(
    value
    for module in (ipam, identity, policy, owned, datapath, flow, metrics, features, held, nat, bgp, health, admission)
    for value in vars(module).values()
    if isinstance(value, Topic)
)
BUCKETS: tuple[BucketSpec[Any], ...] = tuple(
    value
    for module in (ipam, identity, policy, datapath)
    for value in vars(module).values()
    if isinstance(value, BucketSpec)
)
EVENTS_STREAM = "fairlead-events"
"""The JetStream stream that keeps `fairlead.evt.>`."""
DEAD_STREAM = "fairlead-dead"
"""The JetStream stream that keeps `fairlead.dead.>`."""

__all__ = ["BUCKETS", "DEAD_STREAM", "EVENTS_STREAM", "TOPICS", "BucketSpec", "Delivery", "Topic"]
