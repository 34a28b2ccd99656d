"""All buckets of the bus are deleted while everything runs: they are made again from etcd, and no node changes anything."""

from __future__ import annotations

import asyncio
from typing import Any

from fairlead.bus_nats import NatsBus
from fairlead.errors import FairleadError
from fairlead.schema import BUCKETS
from fairlead.schema.base import Empty
from fairlead.schema.datapath import ENDPOINTS, POLICY_MAP, EndpointQuery
from tests.lab.steps.s08_deaths import _measuring
from tests.lab.steps.story import Story, node_name
from tests.lab.waiting import until

_BACK_S = 20.0
_CALM_S = 2.0


async def lost(story: Story) -> None:
    """Delete every bucket under traffic, wait until all are back, and compare every node with before."""
    lab = story.lab
    nodes = [node.name for node in lab.topology.nodes]
    keys, before = await lab.ask("ctl", _keys), {name: await _standing(story, name) for name in nodes}
    async with _measuring(lab, "employee-1", lab.address("protected-db")) as seen:
        await lab.sabotage(_delete_all)
        back = await until(lambda: lab.ask("ctl", _keys), lambda found: found == keys, within_s=_BACK_S, every_s=0.2)
        await asyncio.sleep(_CALM_S)  # time in which a node that took the loss for news would act on it
    rows = sum(map(len, back.value.values()))
    story.report.check(
        f"all {len(BUCKETS)} buckets deleted while everything runs: they are filled again from etcd",
        f"{rows} of {sum(map(len, keys.values()))} rows after {back.elapsed_ms:.0f} ms",
        ok=back.ok,
    )
    after = {name: await _standing(story, name) for name in nodes}
    changed = [name for name in nodes if after[name] != before[name]]
    story.report.check(
        "endpoints, their states and the kernel's policy entries are the same on every node, and traffic saw nothing",
        f"changed on {', '.join(changed) or 'no node'}; {seen[0].failed} of {seen[0].connections} connections failed",
        ok=not changed and seen[0].failed == 0 and seen[0].stream_errors == 0,
    )


async def _keys(bus: NatsBus) -> dict[str, list[str]]:
    """Return the keys of every bucket; of one that cannot be read, none."""
    found = {}
    for spec in BUCKETS:
        try:
            found[spec.name] = sorted(await bus.bucket(spec).rows())
        except FairleadError:
            found[spec.name] = []
    return found


async def _delete_all(bus: NatsBus) -> None:
    js = await bus.jetstream()
    for spec in BUCKETS:
        await js.delete_stream(f"KV_{spec.name}")


async def _standing(story: Story, node: str) -> dict[str, Any]:
    """Return what stands on a node: its endpoints with since when, and the entries of their policy maps."""

    async def read(bus: NatsBus) -> dict[str, Any]:
        listed = await bus.request(ENDPOINTS, Empty(), node=node_name(node))
        maps = [
            await bus.request(POLICY_MAP, EndpointQuery(endpoint=one.name), node=node_name(node))
            for one in listed.endpoints
        ]
        entries = {
            one.name: sorted((e.direction, e.identity, e.protocol, e.port, e.deny) for e in one.entries) for one in maps
        }
        return {"endpoints": listed.endpoints, "entries": entries}

    return await story.lab.ask(node, read)
