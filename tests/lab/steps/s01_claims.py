"""Each node has claimed its own prefix, both routers know them by two paths, and the nodes' routing tables are as before."""

from __future__ import annotations

import asyncio
from itertools import combinations

from fairlead.address import Prefix
from fairlead.errors import FairleadError
from fairlead.schema.base import Empty
from fairlead.schema.health import HEALTH, Health
from fairlead.schema.ipam import CLAIMS, Claim
from tests.lab import routers
from tests.lab.programs import CLUSTER_SERVICES, NODE_SERVICES
from tests.lab.steps.story import Story
from tests.lab.waiting import until

TITLE = "every node claims a prefix and announces it to both routers"
_WITHIN_S = 30.0
_SERVICES = {*NODE_SERVICES, *CLUSTER_SERVICES}


async def run(story: Story) -> None:
    """Check claims, routers and routing tables."""
    claims = await _claims(story)
    await _routers(story, claims)
    await _tables(story)
    await _health(story)


async def _claims(story: Story) -> dict[str, Claim]:
    nodes = {node.name for node in story.lab.topology.nodes}

    async def claimed() -> dict[str, Claim]:
        try:
            return await story.lab.ask("ctl", lambda bus: bus.bucket(CLAIMS).rows())
        except FairleadError:
            return {}

    seen = await until(claimed, lambda rows: nodes <= rows.keys(), within_s=_WITHIN_S, every_s=0.1)
    prefixes = [prefix for row in seen.value.values() for prefix in row.prefixes]
    apart = not any(one in two or two in one for one, two in combinations(prefixes, 2))
    observed = "; ".join(f"{name}: {', '.join(row.prefixes)}" for name, row in sorted(seen.value.items())) or "no claim"
    story.report.check(
        "three nodes with prefixes of their own, none overlapping", observed, ok=seen.ok and apart and bool(prefixes)
    )
    return seen.value


async def _routers(story: Story, claims: dict[str, Claim]) -> None:
    names = [router.name for router in story.lab.topology.routers]
    for name, other in zip(names, reversed(names), strict=True):
        wanted = {str(prefix): {node, other} for node, row in claims.items() for prefix in row.prefixes}

        async def learned(router: str = name) -> dict[str, set[str]]:
            try:
                found = await routers.learned(story.lab.programs.control_socket(router))
            except FairleadError:
                return {}
            return {prefix: set(sessions) for prefix, sessions in found.items()}

        def complete(found: dict[str, set[str]], wanted: dict[str, set[str]] = wanted) -> bool:
            return found == wanted

        seen = await until(learned, complete, within_s=_WITHIN_S, every_s=0.2)
        by_family = [sum(Prefix(prefix).family == family for prefix in seen.value) for family in (4, 6)]
        paths = sorted({len(sessions) for sessions in seen.value.values()})
        story.report.check(
            f"{name} knows exactly three prefixes per family, each from its node and by way of {other}",
            f"{by_family[0]} IPv4 and {by_family[1]} IPv6 prefixes, {' or '.join(map(str, paths)) or 'no'} paths each",
            ok=seen.ok and by_family == [3, 3],
        )


async def _health(story: Story) -> None:
    services = [process for name, process in story.lab.processes.items() if name.split("/")[1] in _SERVICES]

    async def healthy() -> list[Health]:
        return await story.lab.ask("ctl", lambda bus: bus.gather(HEALTH, Empty(), wait_s=0.3))

    def complete(found: list[Health]) -> bool:
        return {one.pid for one in found if one.ok} == {process.pid for process in services}

    seen = await until(healthy, complete, within_s=_WITHIN_S)
    bad = [f"{one.service} of {one.node}" for one in seen.value if not one.ok]
    story.report.check(
        f"all {len(services)} service processes answer for themselves that they are well",
        f"{len(seen.value)} answers{', not well: ' + ', '.join(bad) if bad else ''}",
        ok=seen.ok,
    )


async def _tables(story: Story) -> None:
    nodes = [node.name for node in story.lab.topology.nodes]
    now = await asyncio.gather(*(story.lab.main_routes(name) for name in nodes))
    before = [story.lab.routes_before[name] for name in nodes]
    observed = ", ".join(f"{n}: {len(b)} then {len(a)}" for n, b, a in zip(nodes, before, now, strict=True))
    story.report.check("the nodes' main tables have as many routes as before the start", observed, ok=before == now)
