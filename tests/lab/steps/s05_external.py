"""A virtual machine gets in when another system says who it is, and is out again when that is withdrawn."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fairlead import codec
from fairlead.bus_nats import NatsBus
from fairlead.errors import FairleadError
from fairlead.schema.identity import PUT_WORKLOAD, WORKLOAD_PUBLISHED, WORKLOAD_WITHDRAWN, ExternalWorkload
from tests.lab.probes import Knocking, knock
from tests.lab.steps.story import Story

TITLE = "workloads of other systems"
_RECORD = {"source": "openstack", "source_id": "vm-1"}


async def run(story: Story) -> None:
    """State vm-1 as an employee, withdraw it, and watch bm-1 all the while."""
    lab, database = story.lab, story.lab.address("protected-db")
    before = await knock(lab, "vm-1", database)
    story.report.check("vm-1 is refused", "PONG" if before else "no answer", ok=not before)
    stranger = [await knock(lab, "bm-1", database)]
    said = await lab.ask("n1", _state(lab.address("vm-1")))
    after = await knock(lab, "vm-1", database)
    story.report.check(
        "stated with a credential of node n1, which has no right to it, it changes nothing",
        f"{said}; vm-1 {'gets PONG' if after else 'stays refused'}",
        ok=said.endswith("no answer within 1 s") and not after,
    )
    async with Knocking(lab, "vm-1", database) as knocking:
        published = await story.publish(WORKLOAD_PUBLISHED.on(), _record(lab.address("vm-1")))
        came_ms = await knocking.turned(answered=True, after_s=published.published_s)
        story.report.check(
            "published as an external workload app=employee, vm-1 gets in",
            "no answer" if came_ms is None else f"PONG to connections begun {came_ms:.0f} ms after publishing",
            ok=came_ms is not None,
        )
        stranger.append(await knock(lab, "bm-1", database))
        withdrawn = await story.publish(WORKLOAD_WITHDRAWN.on(), {**_RECORD, "generation": 2})
        went_ms = await knocking.turned(answered=False, after_s=withdrawn.published_s)
        story.report.check(
            "the record deleted, vm-1 is refused again",
            "still PONG" if went_ms is None else f"no answer to connections begun {went_ms:.0f} ms after publishing",
            ok=went_ms is not None,
        )
    stranger.append(await knock(lab, "bm-1", database))
    story.report.check(
        "bm-1 never gets in", f"{sum(stranger)} of {len(stranger)} attempts answered", ok=not any(stranger)
    )


def _state(address: str) -> Callable[[NatsBus], Awaitable[str]]:
    """Return what asks identity to admit the address, and returns what it heard."""
    record = codec.from_builtins(_record(address), ExternalWorkload)

    async def state(bus: NatsBus) -> str:
        try:
            return str(await bus.request(PUT_WORKLOAD, record, timeout_s=1))
        except FairleadError as error:
            return error.message

    return state


def _record(address: str) -> dict[str, object]:
    facts = {
        "generation": 1,
        "addresses": [f"{address}/{128 if ':' in address else 32}"],
        "labels": ["app=employee"],
        "owner": "cloud team",
    }
    return {**_RECORD, **facts}
