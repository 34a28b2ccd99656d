"""Bus hub and store are away: traffic and known workloads carry on, the unknown is held, and all converges afterwards."""

from __future__ import annotations

import time

from clients.cli.workload import Attached
from fairlead.errors import FairleadError
from fairlead.schema.datapath import EndpointState
from tests.lab.probes import Knocking, knock
from tests.lab.steps import buckets, s02_attach
from tests.lab.steps.s08_deaths import _measuring
from tests.lab.steps.story import Story
from tests.lab.waiting import until

TITLE = "hub and etcd are away"
_READY_MS = 1000.0
_CONVERGED_S = 30.0


async def run(story: Story) -> None:
    """Stop both, attach, start both, converge."""
    lab = story.lab
    await s02_attach.attach(story, "protected-db-2", "n1", "app=protected-db")
    story.serve_redis("protected-db-2")
    await lab.listening("protected-db-2", 6379)
    pids = {
        name: process.pid
        for name, process in lab.processes.items()
        if process.alive and name not in ("ctl/nats", "ctl/etcd")
    }
    async with _measuring(lab, "employee-1", lab.address("protected-db")) as seen:
        lab.process("ctl/nats").kill()
        lab.process("ctl/etcd").kill()
        await _known(story)
        await _unknown(story)
    result = seen[0]
    story.report.check(
        "traffic goes on without hub and etcd",
        f"{result.failed} of {result.connections} connections failed, stream: {result.stream_errors} errors, longest pause {result.stream_longest_gap_ms:.0f} ms",
        ok=result.failed == 0 and result.stream_errors == 0 and result.connections > 20,
    )
    lab.process("ctl/etcd").start()
    lab.process("ctl/nats").start()
    await _converged(story)
    same = [name for name, pid in pids.items() if lab.process(name).alive and lab.process(name).pid == pid]
    story.report.check("nothing was restarted for it", f"{len(same)} of {len(pids)} processes run on", ok=len(same) == len(pids))  # fmt: skip
    await buckets.lost(story)


async def _known(story: Story) -> None:
    lab = story.lab
    for name, label in (
        ("employee-4", "app=employee"),
        ("intern-2", "app=intern"),
        ("protected-db-3", "app=protected-db"),
    ):
        done = await _attach(story, name, label)
        story.report.check(
            f"{name}, with labels that n1 knows, is ready on n1 within a second",
            f"{done.endpoint.state} in {done.elapsed_ms:.0f} ms, identity {done.endpoint.identity} {done.endpoint.detail}",
            ok=done.ready and done.elapsed_ms < _READY_MS,
        )
    story.serve_redis("protected-db-3")
    await lab.listening("protected-db-3", 6379)
    tries = [
        ("employee-4", "protected-db-2", True),
        ("intern-2", "protected-db-2", False),
        ("employee-1", "protected-db-3", True),
        ("intern-1", "protected-db-3", False),
    ]
    got = [await knock(lab, source, lab.address(target)) for source, target, _ in tries]
    story.report.check(
        "they are enforced: employees reach both databases on n1, old and new, interns neither",
        ", ".join(f"{a} to {b} {'PONG' if one else 'refused'}" for (a, b, _), one in zip(tries, got, strict=True)),
        ok=got == [wanted for _, _, wanted in tries],
    )


async def _unknown(story: Story) -> None:
    done = await _attach(story, "visitor-1", "app=visitor")
    reaches = await knock(story.lab, "visitor-1", story.lab.address("intern-1"), 8080)
    held = done.endpoint.state is EndpointState.WAITING_FOR_IDENTITY
    story.report.check(
        "visitor-1, with labels that nobody knows, is held and says so; it reaches nobody",
        f"{done.endpoint.state}: {done.endpoint.detail}; {'reached intern-1' if reaches else 'reaches nobody'}",
        ok=held and bool(done.endpoint.detail) and not reaches,
    )


async def _attach(story: Story, name: str, label: str) -> Attached:
    """Attach with at most a second of waiting, through the node's own bus."""
    return await story.lab.attach(name, "n1", (label,), wait_s=1.0)


async def _converged(story: Story) -> None:
    lab = story.lab

    async def ready() -> str:
        try:
            return (await story.endpoint("visitor-1", "n1")).state
        except FairleadError as error:
            return error.message

    seen = await until(ready, lambda state: state == EndpointState.READY, within_s=_CONVERGED_S, every_s=0.1)
    story.report.check("hub and etcd back: visitor-1 becomes ready", f"{seen.value} after {seen.elapsed_ms:.0f} ms", ok=seen.ok)  # fmt: skip
    began_s = time.monotonic()
    async with Knocking(lab, "employee-4", lab.address("protected-db")) as knocking:
        came_ms = await knocking.turned(answered=True, after_s=began_s, within_s=_CONVERGED_S)
    story.report.check(
        "n2 learns of employee-4 on n1 and lets it in",
        "refused" if came_ms is None else f"PONG after another {came_ms:.0f} ms",
        ok=came_ms is not None,
    )
    intern = await knock(lab, "intern-2", lab.address("protected-db"))
    story.report.check("intern-2 stays refused there", "PONG" if intern else "refused", ok=not intern)
    came = ("employee-4", "visitor-1")

    async def stored() -> list[str]:
        keys = (await lab.etcdctl("get", "--prefix", "--keys-only", "cilium/state/ip/v1/")).out
        return [name for name in came if lab.address(name) in keys]

    # with tunnels between nodes employee-4 is let in before anybody has heard of its address: its node says who it is
    kept = await until(stored, lambda names: names == [*came], within_s=_CONVERGED_S, every_s=0.2)
    story.report.check("etcd has the addresses of what came meanwhile", ", ".join(kept.value) or "none", ok=kept.ok)
