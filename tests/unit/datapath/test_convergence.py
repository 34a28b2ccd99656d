"""Whatever way the rows come - twice, out of order, after a restart - the same is wanted of the kernel in the end."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairlead.address import Address, Prefix
from fairlead.bus import Changed
from fairlead.bus_memory import Hub, MemoryBus
from fairlead.clock import ManualClock
from fairlead.mirror import Mirror
from fairlead.schema.base import IdentityId, NodeName
from fairlead.schema.identity import AddressEntry, AddressGroup, IdentityRow, NodeRow
from fairlead.schema.policy import CidrRow, CidrRows, PolicyRow
from services.datapath.following import Mirrors
from services.datapath.model import EndpointRecord
from services.datapath.node import Node
from services.datapath.store import Store
from tests.unit.datapath.world import NODE, entry

LABELS = ("container:app=web",)
RECORD = EndpointRecord(
    endpoint=1,
    name="web",
    netns="/run/netns/web",
    interface="eth0",
    addresses=(Address("10.0.0.2"),),
    labels=LABELS,
    created=datetime(2026, 1, 1, tzinfo=UTC),
    generation=1,
)
_PREFIXES = [Prefix("10.0.0.2"), Prefix("10.0.1.1"), Prefix("10.0.1.2"), Prefix("fd00::1")]
_ENTRIES = st.lists(
    st.builds(
        lambda prefix, number: AddressEntry(prefix=prefix, identity=IdentityId(number)),
        st.sampled_from(_PREFIXES),
        st.integers(300, 302),
    ),
    max_size=3,
    unique_by=lambda e: e.prefix,
).map(tuple)
_ROWS = st.one_of(
    st.builds(
        lambda name, entries: ("addresses", name, AddressGroup(group=name, entries=entries)),
        st.sampled_from("ab"),
        _ENTRIES,
    ),
    st.builds(
        lambda a: ("nodes", "n2", NodeRow(node=NodeName("n2"), addresses=a)),
        st.sampled_from([(), (Address("10.0.1.1"),)]),
    ),
    st.builds(
        lambda number: ("cidrs", "all", CidrRows(rows=(CidrRow(prefix="10.0.1.2/32", identity=IdentityId(number)),))),
        st.integers(1 << 24, (1 << 24) + 1),
    ),
    st.builds(
        lambda labels: ("identities", "300", IdentityRow(identity=IdentityId(300), labels=labels)),
        st.sampled_from([LABELS, ("container:app=other",)]),
    ),
    st.builds(
        lambda port: ("policy", "300", PolicyRow(identity=IdentityId(300), entries=(entry(0, 0, 6, port),))),
        st.integers(1, 3),
    ),
)


def _node(folder: Path) -> tuple[Node, Mirrors]:
    store = Store(folder)
    store.save_endpoint(RECORD)
    node = Node(NODE, (Address("192.0.2.1"),), store, ManualClock())
    mirrors = Mirrors(MemoryBus(Hub()), store, ManualClock(), node)
    node.begin()
    return node, mirrors


def _wanted(node: Node) -> tuple[object, ...]:
    want = node.endpoints.table.desired()[1]
    addresses = {prefix: mapped.identity for prefix, mapped in node.addresses.table.desired().items()}
    return want, node.endpoints.decisions[1].state, addresses


async def _deliver(mirrors: Mirrors, rows: list[tuple[str, str, Any]]) -> None:
    for bucket, key, row in rows:
        mirror: Mirror[Any] = getattr(mirrors, bucket)
        await mirror._apply(Changed.to(key, row))


@given(rows=st.lists(_ROWS, max_size=10), random=st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_duplicates_and_disorder_change_nothing(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, Any]], random: Random
) -> None:
    stamped = [
        (bucket, key, type(row)(**{**{f: getattr(row, f) for f in row.__struct_fields__}, "revision": revision}))
        for revision, (bucket, key, row) in enumerate(rows, start=1)
    ]
    disordered = [random.choice(stamped) for _ in range(len(stamped))] + stamped + stamped if stamped else []
    random.shuffle(disordered)
    tidy, tidy_mirrors = _node(tmp_path_factory.mktemp("tidy"))
    messy, messy_mirrors = _node(tmp_path_factory.mktemp("messy"))
    asyncio.run(_deliver(tidy_mirrors, stamped))
    asyncio.run(_deliver(messy_mirrors, disordered))
    assert _wanted(messy) == _wanted(tidy)
