"""A host policy closes a node's own ports to the world, but none of those that people and machines need to reach it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests.lab import traffic
from tests.lab.lab import Done
from tests.lab.probes import OTHER, knock
from tests.lab.steps.story import Story
from tests.lab.waiting import until

TITLE = "a host policy on one node"
NODE, SSH, OPEN, CLOSED = "n3", 22, 9100, 9200
NAME = "n3-metrics-only"
KIND = "CiliumClusterwideNetworkPolicy"
POLICY = {
    "apiVersion": "cilium.io/v2",
    "kind": KIND,
    "metadata": {"name": NAME},
    "spec": {
        "nodeSelector": {"matchLabels": {"kubernetes.io/hostname": NODE}},
        "ingress": [{"fromEntities": ["all"], "toPorts": [{"ports": [{"port": str(OPEN), "protocol": "TCP"}]}]}],
    },
}
_WITHIN_S = 10.0


async def run(story: Story) -> None:
    """Serve on the node, close it, look from outside and from a pod, open it again."""
    for port in (SSH, OPEN, CLOSED):
        serve = (sys.executable, str(Path(traffic.__file__)), "serve", str(port))
        story.lab.start_program(NODE, f"serve-{port}", *serve)
    await until(lambda: _reached(story), lambda got: all(got.values()), within_s=_WITHIN_S, every_s=0.1)
    await _expect(story, "before: vm-1 reaches every port of n3", {SSH: True, OPEN: True, CLOSED: True})
    applied = await story.lab.fairlead("ctl", "policy", "apply", "-f", "-", "--wait", text=json.dumps(POLICY))
    _done(story, "`fairlead policy apply --wait` returns when n3 has it in its kernel", applied)
    closed = {SSH: True, OPEN: True, CLOSED: False}
    await _expect(story, "then: vm-1 reaches what the policy allows, and SSH's port, which is failsafe", closed)
    await _others(story)
    deleted = await story.lab.fairlead("ctl", "policy", "delete", NAME, "--kind", KIND, "--wait")
    _done(story, "`fairlead policy delete --wait` returns when n3 is open again", deleted)
    await _expect(story, "afterwards: vm-1 reaches every port", {SSH: True, OPEN: True, CLOSED: True})


async def _reached(story: Story) -> dict[int, bool]:
    address = story.lab.topology.node(NODE).addresses[0]
    return {port: await knock(story.lab, "vm-1", address, port) for port in (SSH, OPEN, CLOSED)}


async def _expect(story: Story, expected: str, wanted: dict[int, bool]) -> None:
    got = await _reached(story)
    story.report.check(
        expected,
        ", ".join(f"{port} {'PONG' if answered else 'no answer'}" for port, answered in got.items()),
        ok=got == wanted,
    )


async def _others(story: Story) -> None:
    """Look at what a host policy must leave alone: routes, other nodes, the node's workloads, and what is told of a drop."""
    peers = await story.lab.fairlead("ctl", "bgp", "peers")
    story.report.check("all BGP sessions stay up", "all up" if peers.ok else peers.said[-200:], ok=peers.ok)
    other = await knock(story.lab, "vm-1", story.lab.address("web"), OTHER)
    story.report.check("workloads are reached as before", "web PONG" if other else "no answer", ok=other)

    node = story.lab.topology.node(NODE).addresses[0]
    source = story.lab.address("vm-1", 6 if ":" in node else 4)
    closed = f"[{node}]:{CLOSED}" if ":" in node else f"{node}:{CLOSED}"

    async def asked() -> str:
        return (await story.lab.fairlead("ctl", "why", source, closed, "--node", NODE)).out

    seen = await until(asked, lambda text: NAME in text, within_s=3, every_s=0.2)
    story.report.check(
        f"`fairlead why vm-1 {NODE}:{CLOSED}` names the policy",
        next((line.strip() for line in seen.value.splitlines() if NAME in line), seen.value[:200] or "nothing"),
        ok=seen.ok,
    )
    verified = await story.lab.fairlead("ctl", "datapath", "verify")
    told = "no difference" if verified.ok else verified.said[-300:]
    story.report.check("`fairlead datapath verify` finds nothing amiss", told, ok=verified.ok)


def _done(story: Story, expected: str, done: Done) -> None:
    story.report.check(expected, "done" if done.ok else done.said[-300:], ok=done.ok)
