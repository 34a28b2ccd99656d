"""SIGKILLs of the datapath service at random instants, under traffic and amid changes; and the figures of what that did to packets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from fairlead.address import Address
from fairlead.errors import FairleadError, Unavailable
from fairlead.schema import datapath as topics
from fairlead.schema.datapath import EndpointState
from tests.support.node import Node, node
from tests.unit.datapath.world import entry

TCP, UDP = 6, 17
PODS = {"client": 11, "server": 12, "stranger": 13, "other": 14}
_LONGEST_LIFE_S, _LIVES_PER_START = 2.0, 2
"""A life ends at random within so many times what a start takes here and now: kills fall on starts and on what follows alike."""
_READY_S = 30.0


def addresses(name: str) -> tuple[str, str]:
    """Return a pod's addresses, one per family."""
    return f"10.7.1.{PODS[name]}", f"fd07::1:{PODS[name]}"


@dataclass
class Figures:
    """What happened."""

    kills: int = 0
    starts: int = 0
    """Lives that lasted until all was taken over; counted where versions change, as are the next."""
    moves: int = 0
    """Of those the ones that found maps of another schema."""
    late_amid_former: int = 0
    """Of the late connections those that began while code that is not this one's moved the maps."""
    changes: int = 0
    attached: int = 0
    detached: int = 0
    traffic: dict[str, dict[str, int]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def _sum(self, *names: str) -> int:
        return sum(seen[name] for seen in self.traffic.values() for name in names)

    @property
    def sent(self) -> int:
        """Return how many packets and connections should have passed."""
        return self._sum("stream_sent", "datagrams_sent", "flows_sent", "connections")

    @property
    def lost(self) -> int:
        """Return packets of established flows that did not arrive the first time."""
        return self._sum("stream_retransmissions", "datagrams_sent", "stream_sent") - self._sum(
            "datagrams_received", "stream_received"
        )

    @property
    def wrongly_dropped(self) -> int:
        """Return new flows that were allowed and did not come to be."""
        return self._sum("connections_dropped", "connections", "flows_sent") - self._sum("connected", "flows_received")

    @property
    def late(self) -> int:
        """Return new connections that had to wait for a retransmission, though this code was at work."""
        return self._sum("connections_late") - self.late_amid_former

    @property
    def wrongly_passed(self) -> int:
        """Return what came through and was not allowed."""
        return self._sum("stranger_passed")

    @property
    def good(self) -> bool:
        """Tell whether nothing went wrong."""
        return not (self.lost or self.wrongly_dropped or self.wrongly_passed or self.late or self.problems)

    def take_in(self, traffic: dict[str, dict[str, Any]], former: Sequence[tuple[float, float]] = ()) -> None:
        """Note what the traffic met; `former`: from when to when (monotonic) other code than this one's moved the maps."""
        for address, seen in traffic.items():
            self.problems += [f"{address}: {problem}" for problem in seen.pop("problems")[:5]]
            began_s = seen.pop("late_began_s")
            self.late_amid_former += sum(any(start <= at <= end for start, end in former) for at in began_s)
        self.traffic = traffic

    def lines(self, prefix: str = "") -> list[str]:
        """Return the figures as `name=value` lines."""
        tried = self._sum("stranger_tried")
        counted = {
            "finished_starts": self.starts,
            "finished_moves": self.moves,
            "policy_changes": self.changes,
            "attaches_in_flight": self.attached,
            "detaches_in_flight": self.detached,
        }
        values = {
            "kills": self.kills,
            **{name: number for name, number in counted.items() if number},
            "allowed_sent": self.sent,
            "denied_tried": tried,
            "lost": self.lost,
            "repeated_though_arrived": self._sum("stream_repetitions"),
            "wrongly_dropped": self.wrongly_dropped,
            "late": self.late,
            **({"late_amid_former_code": self.late_amid_former} if self.moves else {}),
            "wrongly_passed": self.wrongly_passed,
        }
        return [*(f"{prefix}{name}={value}" for name, value in values.items()), *self.problems]


class Traffic:
    """The traffic program."""

    def __init__(self, made: Node) -> None:
        program = Path(__file__).with_name("traffic.py")
        netns = [made.netns(name) for name in ("client", "server", "stranger")]
        command = [sys.executable, str(program), *netns, *addresses("server")]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    async def ready(self) -> None:
        """Wait until it sends."""
        assert self._process.stdout is not None
        line = await asyncio.to_thread(self._process.stdout.readline)
        assert line == "ready\n", "the traffic does not begin: see its errors above"

    async def end(self) -> dict[str, dict[str, Any]]:
        """Stop it; return what each family's packets met."""
        self._process.terminate()
        text, _ = await asyncio.to_thread(self._process.communicate, None, 10)
        found: dict[str, dict[str, Any]] = json.loads(text)
        return found

    def kill(self) -> None:
        """Leave no process behind."""
        self._process.kill()
        self._process.wait()


@asynccontextmanager
async def stage() -> AsyncIterator[tuple[Node, Traffic]]:
    """Build a node with a client, a server that lets only the client in, and a stranger; have the traffic run."""
    async with node(RECONCILE_S="1.5", LOG_LEVEL="WARNING") as made:
        for name in PODS:
            made.namespace(name)
            await made.control.identity((f"container:app={name}",))
        for name in ("client", "server", "stranger"):
            await _attached(made, name)
        await restrict(made, 0)
        traffic = Traffic(made)
        try:
            await traffic.ready()
            yield made, traffic
        finally:
            traffic.kill()


async def _attached(made: Node, name: str) -> None:
    """Attach a pod; the first one waits for the compiler, which may take long where others work too."""
    async with asyncio.timeout(4 * _READY_S):
        while True:
            with contextlib.suppress(Unavailable):
                status = await made.attach(name, addresses(name), f"app={name}")
                assert status.state is EndpointState.READY, status
                return


async def restrict(made: Node, variant: int) -> None:
    """Publish the server's policy, with that many lines more that concern nobody here, and wait a moment for it the first time."""
    numbers = made.control.numbers
    server, client = numbers["container:app=server",], numbers["container:app=client",]
    rows = [entry(1), entry(0, client, TCP, precedence=variant % 3), entry(0, client, UDP, precedence=variant % 3)]
    rows += [entry(0, 5000 + number, TCP, 80) for number in range(variant % 200)]
    revision = await made.control.policy(server, rows, origins=("test/server",), ingress_default_deny=(0,))
    if variant == 0:
        async with asyncio.timeout(10):
            while not any(row.name == "server" and row.policy_revision == revision for row in await made.endpoints()):
                await asyncio.sleep(0.01)


async def _change(made: Node, figures: Figures, random: Random) -> None:
    """Change policies, attach and detach for ever; the service is there or not."""
    variant = 0
    while True:
        await asyncio.sleep(random.uniform(0, 0.05))
        variant += 1
        with contextlib.suppress(FairleadError):
            await restrict(made, variant % 600 or 1)
            figures.changes += 1
        with contextlib.suppress(FairleadError):
            if random.random() < 0.5:
                await made.ask(topics.ATTACH, _other(made), 0.2)
                figures.attached += 1
            else:
                await made.ask(topics.DETACH, topics.DetachEndpoint(name="other"), 0.2)
                figures.detached += 1


def _other(made: Node) -> topics.AttachEndpoint:
    return topics.AttachEndpoint(
        name="other",
        netns=made.netns("other"),
        addresses=tuple(map(Address, addresses("other"))),
        labels=("app=other",),
    )


async def run(kills: int, seed: int) -> Figures:
    """Kill the service that many times, and return what became of the packets."""
    figures, random = Figures(), Random(seed)
    async with stage() as (made, traffic):
        longest_s = min(_LONGEST_LIFE_S, _LIVES_PER_START * await _a_start_s(made))
        changing = asyncio.create_task(_change(made, figures, random))
        try:
            for _ in range(kills):
                await asyncio.sleep(random.uniform(0, longest_s))
                made.service.kill()
                figures.kills += 1
                made.service.launch()
        finally:
            changing.cancel()
            await asyncio.gather(changing, return_exceptions=True)
        figures.problems += await settled(made)
        figures.take_in(await traffic.end())
    return figures


async def _a_start_s(made: Node) -> float:
    """Kill the service, start it, and return the seconds until it has taken over everything."""
    made.service.kill()
    began_s = time.monotonic()
    made.service.launch()
    async with asyncio.timeout(_READY_S):
        while True:
            rows = await made.endpoints()
            if rows and all(row.state is EndpointState.READY for row in rows):
                return time.monotonic() - began_s
            await asyncio.sleep(0.01)


async def settled(made: Node) -> list[str]:
    """Wait until the last life of the service has all as it should be; return what is not."""
    try:
        async with asyncio.timeout(_READY_S):
            while True:
                with contextlib.suppress(FairleadError):
                    await made.ask(topics.DETACH, topics.DetachEndpoint(name="other"), 5)
                    rows = await made.endpoints()
                    if len(rows) == 3 and all(row.state is EndpointState.READY for row in rows):
                        return []
                await asyncio.sleep(0.05)
    except TimeoutError:
        return [f"the last life never became ready: {made.service.log.read_text()[-2000:]}"]
