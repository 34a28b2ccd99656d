"""`make lab-policy`: well-known policies on real packets; for every pair of workloads and port the verdict must equal simulation.

The workloads stand on three nodes, in four namespaces; `vm-1` is a machine without Fairlead. Each recipe is put in force alone, and
everybody knocks at everybody on three ports at once, over IPv4 and IPv6.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from fairlead import manifest
from fairlead.bus_nats import NatsBus
from fairlead.errors import FairleadError
from fairlead.schema.base import Empty
from fairlead.schema.health import HEALTH
from fairlead.schema.ipam import CLAIMS, Claim
from fairlead.schema.policy import APPLY, DELETE, ApplyPolicy, DeletePolicy, PolicyApplied, PolicyObject
from services.policy.check.world import Fleet, Workload, put_all
from services.policy.offline import World
from services.policy.parse import reference_of
from tests.lab.lab import Lab
from tests.lab.probes import knock
from tests.lab.report import Report
from tests.lab.waiting import until

RECIPES = Path(__file__).parent / "recipes"
NAMESPACE = "k8s:io.cilium.k8s.namespace.labels."
OPERATIONS = ("com.docker.compose.project=ops", f"{NAMESPACE}team=operations", f"{NAMESPACE}purpose=production")
PLACES: dict[str, tuple[str, tuple[str, ...]]] = {
    "web": ("n1", ("app=web",)),
    "api": ("n1", ("app=bookstore", "role=api")),
    "db": ("n2", ("app=bookstore", "role=db")),
    "foo": ("n2", ("app=foo",)),
    "apiserver": ("n3", ("app=apiserver",)),
    "employee": ("n3", ("app=employee",)),
    "vault": ("n1", ("app=protected-db",)),
    "monitor": ("n2", ("type=monitoring", "role=monitoring", *OPERATIONS)),
    "dns": ("n3", ("k8s-app=kube-dns", "com.docker.compose.project=kube-system")),
}
OUTSIDE = "vm-1"
FAMILY_BY_PORT = {6379: 4, 5000: 6, 53: 4}
_TCP = 6
_READY_S = 30.0
_REALISED_S = 10.0
_SECOND_TRY_S = 3.0

Verdicts = dict[tuple[str, str, int], bool]
"""Whether a connection came about, by source, destination and port."""


async def serve(lab: Lab, name: str) -> None:
    """Answer PING in a workload, on every port and both families."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if await reader.readline():
            writer.write(b"+PONG\r\n")
        writer.close()

    async def listen() -> None:
        for port in FAMILY_BY_PORT:
            await asyncio.start_server(answer, ["0.0.0.0", "::"], port)

    await lab.resident(name).run(listen)


async def bring_up(lab: Lab) -> None:
    """Wait for the nodes and their services, then attach every workload and let it answer."""

    async def claims() -> dict[str, Claim]:
        try:
            return await lab.ask("ctl", lambda bus: bus.bucket(CLAIMS).rows())
        except FairleadError:
            return {}

    async def serving() -> int:
        found = await lab.ask("ctl", lambda bus: bus.gather(HEALTH, Empty(), wait_s=0.3))
        return (
            sum(row.service == "datapath" for row in found)
            if {"identity", "policy"} <= {r.service for r in found}
            else 0
        )

    nodes = len(lab.topology.nodes)
    await until(claims, lambda rows: len(rows) == nodes, within_s=_READY_S, every_s=0.1)
    await until(serving, lambda count: count == nodes, within_s=_READY_S, every_s=0.1)
    for name, (node, labels) in PLACES.items():
        await lab.attach(name, node, labels)
        await serve(lab, name)


def pairs() -> list[tuple[str, str, int]]:
    """Return every question."""
    sources = (*PLACES, OUTSIDE)
    return [(one, two, port) for one in sources for two in PLACES for port in FAMILY_BY_PORT if one != two]


async def observed(lab: Lab, questions: list[tuple[str, str, int]], timeout_s: float) -> Verdicts:
    """Knock everywhere at once."""
    knocks = [
        knock(lab, source, lab.address(destination, FAMILY_BY_PORT[port]), port, timeout_s=timeout_s)
        for source, destination, port in questions
    ]
    return dict(zip(questions, await asyncio.gather(*knocks), strict=True))


def simulated(lab: Lab, documents: list[PolicyObject]) -> Verdicts:
    """Return what the policy engine says of the same questions, offline."""
    workloads = [Workload(name=name, labels=list(labels)) for name, (_, labels) in PLACES.items()]
    fleet = Fleet(World(), workloads)
    put_all(fleet.world, [("recipe", document) for document in documents])
    found = {}
    for source, destination, port in pairs():
        asking = fleet.party(lab.address(OUTSIDE, FAMILY_BY_PORT[port]) if source == OUTSIDE else source)
        answer = fleet.world.simulate(asking.identity, fleet.party(destination).identity, _TCP, port)
        found[source, destination, port] = answer.allowed
    return found


async def compare(lab: Lab, documents: list[PolicyObject]) -> tuple[Verdicts, list[str]]:
    """Return what simulation says, and every real verdict that differs; who was only slow is asked again."""
    expected = simulated(lab, documents)
    real = await observed(lab, pairs(), 0.7)
    slow = [question for question, allowed in expected.items() if allowed and not real[question]]
    real |= await observed(lab, slow, _SECOND_TRY_S)
    return expected, [
        f"{source} -> {destination}:{port} is {'open' if real[source, destination, port] else 'closed'}"
        for source, destination, port in pairs()
        if real[source, destination, port] != expected[source, destination, port]
    ]


def _ask(document: PolicyObject, *, apply: bool) -> Callable[[NatsBus], Awaitable[PolicyApplied]]:
    def ask(bus: NatsBus) -> Awaitable[PolicyApplied]:
        if apply:
            return bus.request(APPLY, ApplyPolicy(document=document, wait_s=_REALISED_S), timeout_s=_REALISED_S + 5)
        gone = DeletePolicy(policy=reference_of(document), wait_s=_REALISED_S)
        return bus.request(DELETE, gone, timeout_s=_REALISED_S + 5)

    return ask


async def recipe(lab: Lab, report: Report, name: str, documents: list[PolicyObject]) -> None:
    """Put one recipe in force, compare, and take it away."""
    began_s = time.monotonic()
    done = [await lab.ask("ctl", _ask(document, apply=True)) for document in documents]
    realised = all(node.realised for one in done for node in one.nodes)
    took_ms = (time.monotonic() - began_s) * 1000
    expected, wrong = await compare(lab, documents)
    closed = sum(not allowed for allowed in expected.values())
    said = f"{len(expected) - len(wrong)} of {len(expected)} equal, realised in {took_ms:.0f} ms"
    report.check(
        f"{name}: {len(expected)} verdicts as simulated, {closed} closed",
        "; ".join([said, *wrong[:4]]),
        ok=realised and not wrong,
    )
    for document in documents:
        await lab.ask("ctl", _ask(document, apply=False))


async def main() -> int:
    """Run every recipe; return the exit status."""
    report, began_s = Report(), time.monotonic()
    recipes = {path.stem: manifest.read(path.read_text(), path.name) for path in sorted(RECIPES.glob("*.yaml"))}
    async with Lab() as lab:
        report.step("0", "workloads attach, and everybody reaches everybody")
        await bring_up(lab)
        expected, wrong = await compare(lab, [])
        report.check(f"all {len(expected)} open", "; ".join(wrong[:4]) or "all open", ok=not wrong)
        report.step("1", "one policy at a time")
        for name, documents in recipes.items():
            await recipe(lab, report, name, documents)
    print(f"\n{report.table()}")
    good = sum(line.ok for line in report.lines)
    print(f"{good} of {len(report.lines)} as expected in {time.monotonic() - began_s:.0f} s")
    return 0 if report.ok else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
