"""Without a policy everybody reaches everybody."""

from __future__ import annotations

import asyncio
from itertools import permutations

from tests.lab.probes import OTHER, knock, pings, redis_cli
from tests.lab.steps.story import PLACES, Story

TITLE = "without policy everybody reaches everybody"


async def run(story: Story) -> None:
    """Try every pair in both families by TCP, and by ICMP."""
    for family in (4, 6):
        await _all_pairs(story, family)
    said = {name: await redis_cli(story.lab, name, story.lab.address("protected-db")) for name in ("employee-1", "intern-1", "web")}  # fmt: skip
    story.report.check(
        "redis-cli PING to protected-db gives PONG for employee, intern and web",
        ", ".join(f"{name}: {text}" for name, text in said.items()),
        ok=set(said.values()) == {"PONG"},
    )
    outside = {name: await knock(story.lab, name, story.lab.address("protected-db")) for name in ("vm-1", "bm-1")}
    story.report.check(
        "vm-1 and bm-1 behind the routers reach it too",
        ", ".join(f"{name}: {'PONG' if got else 'nothing'}" for name, got in outside.items()),
        ok=all(outside.values()),
    )


async def _all_pairs(story: Story, family: int) -> None:
    pairs = [pair for pair in permutations(PLACES, 2) if _has(story, pair[1], family)]
    tcp = await asyncio.gather(*(knock(story.lab, a, story.lab.address(b, family), OTHER) for a, b in pairs))
    icmp = await asyncio.gather(*(pings(story.lab, a, story.lab.address(b, family)) for a, b in pairs))
    bad = [f"{a} to {b}" for (a, b), one, two in zip(pairs, tcp, icmp, strict=True) if not (one and two)]
    story.report.check(
        f"all 20 pairs reach each other by TCP and ICMP over IPv{family}, same node and across nodes",
        f"{sum(tcp)} by TCP, {sum(icmp)} by ICMP{'; not ' + ', '.join(bad[:4]) if bad else ''}",
        ok=len(pairs) == 20 and not bad,
    )


def _has(story: Story, name: str, family: int) -> bool:
    return any((":" in address) == (family == 6) for address in story.lab.workloads[name].endpoint.addresses)
