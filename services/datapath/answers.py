"""What was read from the kernel, in the words of the bus. All functions are pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from fairlead.schema.base import IdentityId, NodeName
from fairlead.schema.datapath import PolicyMapEntry
from fairlead.schema.nat import NatEntry, NatList
from services.datapath.node import Node
from services.datapath.operations import PolicyCounters, PolicyKey, PolicyValue
from services.datapath.outside import MasqueradedFlow


def policy_line(node: Node, key: PolicyKey, value: PolicyValue, counters: PolicyCounters) -> PolicyMapEntry:
    """Return an entry of a policy map, with what the node knows of the identity and of where it came from."""
    return PolicyMapEntry(
        direction=key.direction,
        identity=IdentityId(key.identity),
        protocol=key.protocol,
        port=key.port,
        deny=value.deny,
        precedence=value.precedence,
        proxy_port=value.proxy_port,
        packets=counters.packets,
        bytes=counters.bytes,
        labels=node.identities.labels(key.identity),
        origin=", ".join(node.origins.texts(value.provenance)),
    )


def nat_list(node: NodeName, flows: Iterable[MasqueradedFlow]) -> NatList:
    """Return the outer ends as they travel."""
    names = [field.name for field in dataclasses.fields(MasqueradedFlow)]
    entries = (NatEntry(**{name: getattr(flow, name) for name in names}) for flow in flows)
    return NatList(node=node, entries=tuple(entries))
