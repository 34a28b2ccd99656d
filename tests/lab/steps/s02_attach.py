"""Workloads attach through the command line, and get identities."""

from __future__ import annotations

import asyncio

from tests.lab.steps.story import PLACES, Story

TITLE = "workloads attach"


async def run(story: Story) -> None:
    """Attach all workloads of the story, then start what they serve."""
    for name, (node, label) in PLACES.items():
        await attach(story, name, node, label)
    numbers = {name: story.identity(name) for name in PLACES}
    same = numbers["employee-1"] == numbers["employee-2"]
    others = len({numbers[name] for name in PLACES}) == len(PLACES) - 1
    story.report.check(
        "equal labels have the same identity on every node, different ones differ",
        ", ".join(f"{name} {number}" for name, number in numbers.items()),
        ok=same and others,
    )
    story.serve_redis("protected-db")
    for name in PLACES:
        story.serve_other(name)
    await asyncio.gather(
        *(story.lab.listening(name, 8080) for name in PLACES), story.lab.listening("protected-db", 6379)
    )


async def attach(story: Story, name: str, node: str, label: str) -> None:
    """Attach one workload with `fairlead workload add`, and report how long it took to be ready."""
    done = await story.lab.add_workload(name, node, label)
    attached = story.lab.workloads.get(name)
    if attached is None:
        story.report.check(f"{name} is ready on {node}", f"status {done.status}: {done.said}", ok=False)
        return
    observed = f"{', '.join(attached.endpoint.addresses)}, {attached.endpoint.state} in {attached.elapsed_ms:.0f} ms"
    story.report.check(f"{name} is ready on {node}", observed, ok=attached.ready)
