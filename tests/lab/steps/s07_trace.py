"""One trace from the publisher through policy to the map write on each node that needed it."""

from __future__ import annotations

import json
from typing import Any

from tests.lab.steps.story import Story
from tests.lab.waiting import until

TITLE = "the trace of the policy"
_PARTS = ("other-system", "fairlead-policy", "fairlead-datapath")


async def run(story: Story) -> None:
    """Fetch the trace and print it."""

    async def spans() -> list[dict[str, Any]]:
        done = await story.lab.fairlead("ctl", "trace", story.trace, "-o", "json")
        return list(json.loads(done.out)) if done.ok else []

    seen = await until(spans, lambda found: set(_PARTS) <= _services(found), within_s=8, every_s=0.3)
    writers = sorted({span["instance"] for span in seen.value if span["service"] == "fairlead-datapath"})
    story.report.check(
        f"trace {story.trace} leads from the publisher through policy to the map write on n2",
        f"{len(seen.value)} spans of {', '.join(sorted(_services(seen.value))) or 'nobody'}; written on {', '.join(writers) or 'no node'}",
        ok=seen.ok and writers == ["n2"],
    )
    linked = connected(seen.value)
    story.report.check(
        "every span hangs under the publisher's", "one tree" if linked else "pieces", ok=linked and bool(seen.value)
    )
    story.report.note((await story.lab.fairlead("ctl", "trace", story.trace)).out)


def connected(spans: list[dict[str, Any]]) -> bool:
    """Tell whether there is one root, and every other span's parent is among the spans."""
    known = {span["span_id"] for span in spans}
    roots = [span for span in spans if span["parent_id"] not in known]
    return len(roots) == 1


def _services(spans: list[dict[str, Any]]) -> set[str]:
    return {str(span["service"]) for span in spans}
