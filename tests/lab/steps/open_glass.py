"""Everything of Fairlead is dead, and a person opens an endpoint for some seconds; it ends by itself, and is told when the bus is back."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime

from fairlead.schema.datapath import BREAK_GLASS_USED, BreakGlassUsed
from tests.lab.lab import Lab
from tests.lab.probes import Knocking
from tests.lab.processes import Process
from tests.lab.steps.s08_deaths import healthy
from tests.lab.steps.story import Story
from tests.lab.waiting import until

_OURS = ("nats", "etcd", "ipam", "identity", "policy", "datapath", "bgp")
_SERVICES = _OURS[2:]
_OPEN_S = 5
_BACK_S = 60.0
_REASON = "drill: everything is down"


async def opened(story: Story) -> None:
    """Kill all, open, watch it end, start all, hear of it."""
    lab = story.lab
    told: list[BreakGlassUsed] = []

    async def hear(report: BreakGlassUsed) -> None:
        told.append(report)

    await lab.ask("ctl", lambda bus: bus.follow(BREAK_GLASS_USED, hear))
    dead = [process for name, process in lab.processes.items() if name.split("/")[1] in _OURS and process.alive]
    for process in dead:
        process.kill()
    async with Knocking(lab, "intern-1", lab.address("protected-db")) as knocking:
        refused_ms = await knocking.turned(answered=False, after_s=time.monotonic())
        began_s = time.monotonic()
        place = ("--state-dir", str(lab.programs.state("n2")), "--pins", str(lab.programs.pins("n2")))
        words = ("endpoint", "protected-db", "--for", f"{_OPEN_S}s", "--reason", _REASON)
        done = await lab.fairlead("n2", "break-glass", *words, *place)
        story.report.note(f"fairlead break-glass {' '.join(words)}: {done.said}")
        came_ms = await knocking.turned(answered=True, after_s=began_s)
        story.report.check(
            f"all {len(dead)} processes of bus, store and services dead: `fairlead break-glass` lets the intern in",
            "still refused" if came_ms is None else f"refused before, PONG {came_ms:.0f} ms after the command began",
            ok=done.ok and came_ms is not None and refused_ms is not None,
        )
        went_ms = await knocking.turned(answered=False, after_s=began_s + (came_ms or 0) / 1000, within_s=_OPEN_S + 10)
        alive = [process.name for process in dead if process.alive]
        story.report.check(
            f"it ends by itself after {_OPEN_S} s, with all of them still dead",
            "still PONG" if went_ms is None else f"refused {went_ms / 1000:.1f} s after the first PONG",
            ok=went_ms is not None and not alive,
        )
    await _returned(story, dead)
    heard = await until(lambda: _count(told), bool, within_s=20, every_s=0.1)
    first = f"{told[0].node}, {told[0].name}, by {told[0].by}: {told[0].reason}" if told else "nothing heard"
    story.report.check("the bus is back: it hears who opened what, and why", first, ok=heard.ok and told[0].reason == _REASON)  # fmt: skip


async def _count(told: list[BreakGlassUsed]) -> int:
    await asyncio.sleep(0)
    return len(told)


async def _returned(story: Story, dead: list[Process]) -> None:
    """Start all again, and wait until every service is well connected, so that the rest of the story finds what it needs."""
    since = datetime.now(UTC)
    for process in dead:
        process.start()
    services = [process for process in dead if process.name.split("/")[1] in _SERVICES]
    back = await until(lambda: _all_well(story.lab, services, since), bool, within_s=_BACK_S, every_s=0.2)
    story.report.check("all of them start again at once and serve", f"after {back.elapsed_ms / 1000:.1f} s", ok=back.ok)


async def _all_well(lab: Lab, services: list[Process], since: datetime) -> bool:
    await asyncio.sleep(0)
    return all(healthy(lab, process, since) for process in services)
