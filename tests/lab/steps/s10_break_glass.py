"""With the datapath service dead, a person lets everybody in with bpftool; when the service returns, that ends and is reported.

Then with everything dead, by the command that is made for it: that ends by itself (`open_glass.py`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from fairlead.schema.datapath import BREAK_GLASS, BreakGlass
from tests.lab.lab import execute
from tests.lab.probes import Knocking
from tests.lab.steps import open_glass
from tests.lab.steps.story import Story
from tests.lab.waiting import until

TITLE = "break glass"
KEY = ["00"] * 8
VALUE = ["00"] * 24
_BACK_S = 20.0


async def run(story: Story) -> None:
    """Kill, insert, watch, start, watch."""
    lab, database = story.lab, story.lab.address("protected-db")
    pin = (await story.policy_map("protected-db", "n2")).pin
    reports: list[BreakGlass] = []
    await lab.ask("ctl", lambda bus: bus.follow(BREAK_GLASS, _collector(reports)))
    lab.process("n2/datapath").kill()
    async with Knocking(lab, "intern-1", database) as knocking:
        refused_ms = await knocking.turned(answered=False, after_s=time.monotonic())
        began_s = time.monotonic()
        await _insert(story, pin)
        came_ms = await knocking.turned(answered=True, after_s=began_s)
        story.report.check(
            "datapath of n2 dead, the all-zero entry inserted with bpftool lets the intern in",
            f"refused before, {'still refused' if came_ms is None else f'PONG {came_ms:.0f} ms after bpftool began'}",
            ok=came_ms is not None and refused_ms is not None,
        )
        began_s = time.monotonic()
        lab.process("n2/datapath").start()
        gone = await until(lambda: _absent(pin), bool, within_s=_BACK_S, every_s=0.05)
        story.report.check("the service returns: the entry is gone", f"{'gone' if gone.ok else 'still there'} after {gone.elapsed_ms:.0f} ms", ok=gone.ok)  # fmt: skip
        went_ms = await knocking.turned(answered=False, after_s=began_s)
        story.report.check(
            "the intern is refused again",
            "still PONG" if went_ms is None else f"refused {went_ms:.0f} ms after the start",
            ok=went_ms is not None,
        )
    await _reported(story, reports)
    await open_glass.opened(story)


async def _insert(story: Story, pin: str) -> None:
    update = ["bpftool", "map", "update", "pinned", pin, "key", "hex", *KEY, "value", "hex", *VALUE]
    done = await execute(update, "", 10)
    story.report.note(f"{' '.join(update)}: {'done' if done.ok else done.said}")


async def _absent(pin: str) -> bool:
    return not (await execute(["bpftool", "map", "lookup", "pinned", pin, "key", "hex", *KEY], "", 10)).ok


def _collector(reports: list[BreakGlass]) -> Callable[[BreakGlass], Awaitable[None]]:
    async def take(report: BreakGlass) -> None:
        reports.append(report)

    return take


async def _reported(story: Story, reports: list[BreakGlass]) -> None:
    async def count() -> int:
        await asyncio.sleep(0)
        return len(reports)

    seen = await until(count, bool, within_s=5, every_s=0.05)
    first = f"{reports[0].node}, {reports[0].name}: {', '.join(reports[0].entries)}" if reports else "nothing heard"
    story.report.check("the break-glass is reported on the bus", first, ok=seen.ok and reports[0].node == "n2")
    status = await story.lab.fairlead("ctl", "status")
    said = next((line.strip() for line in status.out.splitlines() if "glass" in line.lower()), "")
    story.report.check("`fairlead status` shows it", said or status.said, ok=bool(said))
