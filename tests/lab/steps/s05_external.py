"""A virtual machine gets in when another system says who it is, and is out again when that is withdrawn."""

from __future__ import annotations

from fairlead.schema.identity import WORKLOAD_PUBLISHED, WORKLOAD_WITHDRAWN
from tests.lab.probes import closes, knock, opens
from tests.lab.steps.story import Story

TITLE = "workloads of other systems"
_RECORD = {"source": "openstack", "source_id": "vm-1"}
_WITHIN_S = 10.0


async def run(story: Story) -> None:
    """State vm-1 as an employee, withdraw it, and watch bm-1 all the while."""
    lab, database = story.lab, story.lab.address("protected-db")
    before = await knock(lab, "vm-1", database)
    story.report.check("vm-1 is refused", "PONG" if before else "no answer", ok=not before)
    stranger = [await knock(lab, "bm-1", database)]

    record = {**_RECORD, "generation": 1, "addresses": [f"{lab.address('vm-1')}/32"], "labels": ["app=employee"], "owner": "cloud team"}  # fmt: skip
    published = await story.publish(WORKLOAD_PUBLISHED.on(), record)
    seen = await opens(lab, "vm-1", database, within_s=_WITHIN_S)
    story.report.check(
        "published as an external workload app=employee, vm-1 gets in",
        f"PONG {published.ago_ms():.0f} ms after publishing" if seen.ok else "no answer",
        ok=seen.ok,
    )
    stranger.append(await knock(lab, "bm-1", database))

    withdrawn = await story.publish(WORKLOAD_WITHDRAWN.on(), {**_RECORD, "generation": 2})
    gone = await closes(lab, "vm-1", database, within_s=_WITHIN_S)
    story.report.check(
        "the record deleted, vm-1 is refused again",
        f"refused {withdrawn.ago_ms():.0f} ms after publishing (300 ms of them waiting for an answer)"
        if gone.ok
        else "still PONG",
        ok=gone.ok,
    )
    stranger.append(await knock(lab, "bm-1", database))
    story.report.check(
        "bm-1 never gets in", f"{sum(stranger)} of {len(stranger)} attempts answered", ok=not any(stranger)
    )
