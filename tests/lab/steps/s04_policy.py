"""A policy that another system publishes is realised where it is needed, and means what it says."""

from __future__ import annotations

import asyncio

from fairlead.schema.policy import POLICY_PUBLISHED
from tests.lab.probes import OTHER, knock, redis_cli
from tests.lab.steps import s02_attach
from tests.lab.steps.story import FIRST_ORIGIN, PLACES, POLICY, Story
from tests.lab.waiting import until

TITLE = "a policy published on the bus is realised"
_WITHIN_S = 10.0


async def run(story: Story) -> None:
    """Publish, wait, and try both sides of the rule."""
    await s02_attach.attach(story, "employee-3", "n2", "app=employee")
    await _publish(story)
    await _ingress(story)
    await _elsewhere(story)
    await _why(story)


async def _publish(story: Story) -> None:
    identity = story.identity("protected-db")
    before = await story.realised("n2", identity)
    watch = asyncio.create_task(story.realised_after("n2", identity, before, within_s=_WITHIN_S))
    published = await story.publish(POLICY_PUBLISHED.on(), POLICY)
    seen = await watch
    others = [name for name in ("n1", "n3") if await story.realised(name, identity)]
    story.trace = published.trace
    row = await story.policy_row(identity)
    right = row is not None and row.revision <= seen.value and any(FIRST_ORIGIN in origin for origin in row.origins)
    took_ms = (seen.at_s - published.published_s) * 1000
    story.report.check(
        "published as JSON by a plain NATS client, the policy is realised on n2, and on no node that does not need it",
        f"JetStream had it after {published.acknowledged_ms:.1f} ms; n2 reports revision {seen.value} in its kernel {took_ms:.0f} ms after publishing; other nodes with the row: {others or 'none'}",
        ok=seen.ok and right and not others,
    )


async def _ingress(story: Story) -> None:
    lab, database = story.lab, story.lab.address("protected-db")
    for name, where in (("employee-1", "other node"), ("employee-2", "other node"), ("employee-3", "same node")):
        said = await redis_cli(lab, name, database)
        story.report.check(f"{name} ({where}) gets PONG on 6379", said, ok=said == "PONG")
    said = await redis_cli(lab, "intern-1", database)
    story.report.check("intern-1 is refused on 6379", said, ok="PONG" not in said)
    other = await knock(lab, "employee-1", database, OTHER)
    story.report.check("employee-1 is refused on another port (8080)", "PONG" if other else "no answer", ok=not other)
    family = 10 - lab.topology.ways.family
    other_family = [await knock(lab, name, lab.address("protected-db", family)) for name in ("employee-1", "intern-1")]
    story.report.check(
        f"the same over IPv{family}",
        f"employee-1 {_words(other_family[0])}, intern-1 {_words(other_family[1])}",
        ok=other_family == [True, False],
    )


async def _elsewhere(story: Story) -> None:
    lab = story.lab
    targets = [name for name in PLACES if name not in ("protected-db", "web")]
    out = {name: await knock(lab, name, lab.address("web"), OTHER) for name in (*targets, "protected-db")}
    story.report.check(
        "egress of everyone is untouched: all still reach web on 8080, the database too",
        ", ".join(f"{name} {_words(got)}" for name, got in out.items()),
        ok=all(out.values()),
    )


async def _why(story: Story) -> None:
    async def asked() -> str:
        return (await story.lab.fairlead("ctl", "why", "intern-1", "protected-db:6379")).out

    seen = await until(asked, lambda text: FIRST_ORIGIN in text, within_s=3, every_s=0.2)
    story.report.check(
        "`fairlead why intern-1 protected-db:6379` names the policy",
        next((line.strip() for line in seen.value.splitlines() if FIRST_ORIGIN in line), seen.value[:120] or "nothing"),
        ok=seen.ok,
    )
    story.report.note(seen.value)


def _words(got: bool) -> str:
    return "PONG" if got else "refused"
