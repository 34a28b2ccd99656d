"""Every service process is killed and started again while packets run: nobody notices."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

from fairlead.errors import FairleadError
from services.bgp.engine.bird_replies import parse_sessions
from services.bgp.engine.bird_socket import BirdSocket
from tests.lab import traffic
from tests.lab.lab import Lab
from tests.lab.network import inside
from tests.lab.processes import Process
from tests.lab.steps.story import Story
from tests.lab.waiting import until

TITLE = "every service process dies and returns under traffic"
VICTIMS = (
    *(f"{node}/{program}" for node in ("n1", "n2") for program in ("ipam", "datapath", "bgp", "bird", "nats")),
    "ctl/identity",
    "ctl/policy",
)
_BACK_S = 20.0
_DEAD_S = 0.25
_GAP_MS = 1000.0
_RETRANSMITTED_SHARE = 0.001


async def run(story: Story) -> None:
    """Kill and restart, one after the other; then ask the traffic what it saw."""
    lab = story.lab
    async with _route_watch(lab) as deleted, _measuring(lab, "employee-1", lab.address("protected-db")) as seen:
        for name in VICTIMS:
            await _kill(story, name)
    result = seen[0]
    story.report.check(
        "no new connection failed, one every 10 ms",
        f"{result.failed} of {result.connections} failed, slowest {result.slowest_ms:.0f} ms {result.problem}",
        ok=result.failed == 0 and result.connections > 100,
    )
    few = result.retransmissions <= max(5, result.segments * _RETRANSMITTED_SHARE)
    story.report.check(
        "no retransmission storm",
        f"{result.retransmissions} of {result.segments} segments sent again, {result.stream_retransmissions} in the stream",
        ok=few,
    )
    story.report.check(
        "the stream goes on without a missing or wrong byte",
        f"{result.stream_messages} messages, {result.stream_errors} errors, longest pause {result.stream_longest_gap_ms:.0f} ms",
        ok=result.stream_errors == 0 and result.stream_longest_gap_ms < _GAP_MS and result.stream_messages > 100,
    )
    story.report.check("no router removed a route", f"{len(deleted)} removed {'; '.join(deleted[:2])}", ok=not deleted)


async def _kill(story: Story, name: str) -> None:
    process = story.lab.process(name)
    process.kill()
    await asyncio.sleep(_DEAD_S)
    process.start()
    since = datetime.now(UTC)
    back = await until(lambda: _serves(story.lab, process, since), bool, within_s=_BACK_S, every_s=0.05)
    story.report.check(f"{name} killed and started: it serves again", f"after {back.elapsed_ms:.0f} ms", ok=back.ok)


async def _serves(lab: Lab, process: Process, since: datetime) -> bool:
    """Tell whether the restarted process does its work again, from its own words."""
    place, program = process.name.split("/")
    if program == "bird":
        return await _sessions_stand(lab.programs.control_socket(place))
    if program == "nats":
        services = [lab.process(f"{place}/{name}") for name in ("ipam", "datapath", "bgp")]
        return all(healthy(lab, one, since) for one in services) and "Leafnode connection created" in process.said()
    return healthy(lab, process, since)


def healthy(lab: Lab, process: Process, since: datetime) -> bool:
    """Tell whether the process that runs now has said since then that it serves and that the bus is there."""
    place, program = process.name.split("/")
    path = lab.programs.state(place) / program / "health.json"
    try:
        said = json.loads(path.read_text())
    except (OSError, ValueError):
        return False
    bus = {condition["name"]: condition["ok"] for condition in said["conditions"]}.get("bus", False)
    return bool(said["pid"] == process.pid and bus and datetime.fromisoformat(said["at"]) > since)


async def _sessions_stand(control: Path) -> bool:
    socket = BirdSocket(control)
    try:
        sessions = parse_sessions(await socket.ask("show protocols all"))
    except FairleadError:
        return False
    finally:
        socket.close()
    return bool(sessions) and all(session.established for session in sessions)


@asynccontextmanager
async def _measuring(lab: Lab, source: str, address: str) -> AsyncIterator[list[traffic.Seen]]:
    """Run the traffic program meanwhile; afterwards the list holds what it saw."""
    command = inside(lab.topology.path(source), sys.executable, str(Path(traffic.__file__)), "measure", address, "6379")
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    seen: list[traffic.Seen] = []
    try:
        yield seen
    finally:
        process.send_signal(signal.SIGTERM)
        out, _ = await asyncio.wait_for(process.communicate(), 30)
        seen.append(traffic.Seen(**json.loads(out)) if out else traffic.Seen(problem="the traffic program ended early"))


@asynccontextmanager
async def _route_watch(lab: Lab) -> AsyncIterator[list[str]]:
    """Collect the routes to workloads that the routers' kernels remove meanwhile."""
    watchers = [lab.start_program(router.name, "routes", "ip", "monitor", "route") for router in lab.topology.routers]
    deleted: list[str] = []
    try:
        yield deleted
    finally:
        for watcher in watchers:
            watcher.kill()
            gone = [
                line for line in watcher.log.read_text().splitlines() if line.startswith("Deleted") and "bird" in line
            ]
            deleted.extend(f"{watcher.spec.namespace}: {line}" for line in gone)
