"""The BIRD engine against two real BIRDs in namespaces of their own: a node's speaker, and a router that listens."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest

from fairlead.address import Address, Prefix
from fairlead.clock import SYSTEM
from fairlead.errors import Unavailable
from services.bgp.engine.bird import Bird, Rejected
from services.bgp.engine.bird_socket import BirdSocket
from services.bgp.model import Attributes, Speaker, Timers, parse_neighbours
from tests.lab import network, routers
from tests.lab.topology import Cable, Namespace, Peer, Port, Router, Topology
from tests.lab.waiting import until

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.timeout(60),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for network namespaces"),
    pytest.mark.skipif(shutil.which("bird") is None, reason="needs bird2: run `make setup`"),
]
ENTRYPOINT = Path(__file__).resolve().parents[2] / "services/bgp/engine/bird-entrypoint.sh"
POOLS = (Prefix("10.42.0.0/16"), Prefix("fd42::/48"))
SPEAKER = Speaker(
    asn=65001,
    router_id=Address("10.0.1.2"),
    neighbours=parse_neighbours(["10.0.1.1:65101"]),
    pools=POOLS,
    timers=Timers(restart_s=10),
)
Found = dict[str, tuple[str, ...]]
ROUTES = {Prefix("10.42.1.0/24"): Attributes(), Prefix("fd42:0:0:1::/64"): Attributes()}
BOTH: Found = {"10.42.1.0/24": ("n1",), "fd42:0:0:1::/64": ("n1",)}


@dataclass
class Pair:
    """A node and a router with one cable between them."""

    topology: Topology
    folder: Path
    children: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def node_socket(self) -> Path:
        return self.folder / "run" / "bird.ctl"

    @property
    def router_socket(self) -> Path:
        return self.folder / "router.ctl"

    def start(self, place: str, *command: str) -> subprocess.Popen[bytes]:
        with (self.folder / "log").open("ab") as log:
            child = subprocess.Popen(
                network.inside(self.topology.path(place), *command), start_new_session=True, stdout=log, stderr=log
            )
        self.children.append(child)
        return child

    def start_speaker(self) -> subprocess.Popen[bytes]:
        return self.start("n1", str(ENTRYPOINT), str(self.folder / "bgp"), str(self.folder / "run"))

    def routes(self) -> str:
        both = [network.run(network.inside(self.topology.path("n1"), "ip", *f, "route")) for f in ([], ["-6"])]
        return "".join(both)

    async def learned(self) -> Found:
        try:
            return await routers.learned(self.router_socket)
        except Unavailable:
            return {}

    async def knows(self, wanted: Found) -> None:
        seen = await until(self.learned, lambda found: found == wanted, within_s=15)
        assert seen.value == wanted, (self.folder / "log").read_text()

    def kill(self, child: subprocess.Popen[bytes], number: signal.Signals = signal.SIGKILL) -> None:
        os.killpg(child.pid, number)
        child.wait(10)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    node = Namespace("n1", (Port("up1", ("10.0.1.2/30", "fd00:1::2/64")),))
    router = Namespace("tor1", (Port("n1", ("10.0.1.1/30", "fd00:1::1/64")),), forwards=True)
    cable = Cable(("tor1", "n1"), ("n1", "up1"))
    topology = Topology(f"fk{os.getpid()}", (node, router), (cable,), (), (), "")
    made = Pair(topology, tmp_path)
    try:
        network.build(topology)
        facts = Router("tor1", 65101, "10.0.1.1", (Peer("n1", "10.0.1.2", 65001),), ())
        (tmp_path / "router.conf").write_text(routers.render(facts))
        made.start("tor1", "bird", "-f", "-c", str(tmp_path / "router.conf"), "-s", str(made.router_socket), "-P", str(tmp_path / "pid"))  # fmt: skip
        yield made
    finally:
        for child in made.children:
            try:
                os.killpg(child.pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
            child.wait()
        network.remove(topology.prefix)


@pytest.fixture
async def bird(pair: Pair) -> AsyncIterator[Bird]:
    engine = Bird(pair.folder / "bgp", pair.node_socket, SPEAKER, SYSTEM)
    yield engine
    engine.close()


async def test_both_families_reach_the_router_and_the_kernel_stays(pair: Pair, bird: Bird) -> None:
    before = pair.routes()
    pair.start_speaker()  # before there is a configuration: it waits
    assert (await bird.apply(ROUTES)).running is False
    await pair.knows(BOTH)
    assert (await bird.apply(ROUTES)).running
    assert await bird.in_step()
    status = await bird.status()
    assert status.version.startswith("BIRD 2.")
    assert status.announced == dict.fromkeys(ROUTES, ("peer_10_0_1_1",))
    assert [(one.state, one.exported) for one in status.sessions] == [("Established", 2)]
    await bird.apply({})
    await pair.knows({})
    assert pair.routes() == before


async def test_a_killed_speaker_returns_without_a_gap(pair: Pair, bird: Bird) -> None:
    await bird.apply(ROUTES)
    child = pair.start_speaker()
    await pair.knows(BOTH)
    gaps = []
    pair.kill(child)
    pair.start_speaker()
    for _ in range(40):
        gaps.append(await pair.learned())
        await asyncio.sleep(0.1)
    assert [found for found in gaps if found != BOTH] == []
    seen = await until(bird.status, lambda status: status.sessions[0].established, within_s=10)
    assert seen.ok


async def test_asked_to_end_it_leaves_its_routes_with_the_router(pair: Pair, bird: Bird) -> None:
    await bird.apply(ROUTES)
    child = pair.start_speaker()
    await pair.knows(BOTH)
    await until(bird.status, lambda status: status.sessions[0].established, within_s=10)
    os.kill(child.pid, signal.SIGTERM)
    assert await asyncio.to_thread(child.wait, 10) == 0
    await asyncio.sleep(1)
    assert await pair.learned() == BOTH


async def test_a_node_that_leaves_for_good_withdraws_at_once(pair: Pair, bird: Bird) -> None:
    await bird.apply(ROUTES)
    child = pair.start_speaker()
    await pair.knows(BOTH)
    os.kill(child.pid, signal.SIGUSR1)
    await pair.knows({})
    assert await asyncio.to_thread(child.wait, 10) == 0


async def test_a_refused_configuration_leaves_the_last_good_one(pair: Pair, bird: Bird) -> None:
    await bird.apply(ROUTES)
    pair.start_speaker()
    await until(lambda: bird.apply(ROUTES), lambda done: done.running, within_s=5)
    # a value that our own checks would never let through
    broken = msgspec.structs.replace(SPEAKER, password='x" nonsense')  # noqa: S106 - it is none
    for _ in range(2):
        with pytest.raises(Rejected):
            await bird.configure(broken)
    assert "nonsense" not in (pair.folder / "bgp" / "bird.conf").read_text()
    assert set((await bird.status()).announced) == set(ROUTES)
    assert await bird.configure(SPEAKER) == ()
    assert (await bird.apply(ROUTES)).running


async def test_an_invalid_file_on_disk_does_not_keep_the_speaker_from_starting(pair: Pair, bird: Bird) -> None:
    await bird.apply(ROUTES)
    child = pair.start_speaker()
    await pair.knows(BOTH)
    await until(lambda: bird.apply(ROUTES), lambda done: done.running, within_s=5)
    pair.kill(child)
    (pair.folder / "bgp" / "bird.conf").write_text("this is no configuration\n")
    pair.start_speaker()

    async def stands() -> bool:
        try:
            return (await bird.status()).sessions[0].established
        except Unavailable:
            return False

    assert (await until(stands, bool, within_s=15)).ok
    await pair.knows(BOTH)


async def test_new_settings_name_the_sessions_they_restart_and_hold(pair: Pair, bird: Bird) -> None:
    await bird.apply(ROUTES)
    pair.start_speaker()
    await pair.knows(BOTH)
    await until(bird.status, lambda status: status.sessions[0].established, within_s=10)
    slower = msgspec.structs.replace(SPEAKER, timers=Timers(hold_s=30, keepalive_s=10, restart_s=10))
    assert await bird.configure(slower) == ("peer_10_0_1_1",)
    assert "hold time 30;" in (pair.folder / "bgp" / "bird.conf").read_text()
    assert (await bird.status()).sessions[0].established
    await pair.knows(BOTH)


async def test_drain_marks_the_routes_and_keeps_the_session(pair: Pair, bird: Bird) -> None:
    await bird.apply(ROUTES)
    pair.start_speaker()
    await pair.knows(BOTH)
    await until(bird.status, lambda status: status.sessions[0].established, within_s=10)
    since = (await bird.status()).sessions[0].since
    await bird.configure(msgspec.structs.replace(SPEAKER, drain=True))
    socket = BirdSocket(pair.router_socket)

    async def marked() -> bool:
        reply = await socket.ask("show route table master4 all")
        return any(re.search(r"\(65535,0\)", line.text) for line in reply.lines)

    assert (await until(marked, bool, within_s=5)).ok
    socket.close()
    assert (await bird.status()).sessions[0].since == since


async def test_many_calls_at_once_end_in_the_newest(pair: Pair, bird: Bird) -> None:
    await bird.apply({})
    pair.start_speaker()
    await until(lambda: bird.apply({}), lambda done: done.running, within_s=5)
    wanted = [{Prefix(f"10.42.{number}.0/24"): Attributes()} for number in range(1, 51)]
    await asyncio.gather(*(bird.apply(routes) for routes in wanted))
    assert set((await bird.status()).announced) == {"10.42.50.0/24"}


async def test_routes_that_somebody_else_changed_are_noticed_and_put_right(pair: Pair, bird: Bird) -> None:
    await bird.apply(ROUTES)
    pair.start_speaker()
    await until(lambda: bird.apply(ROUTES), lambda done: done.running, within_s=5)
    (pair.folder / "bgp" / "pods4.conf").write_text("")
    socket = BirdSocket(pair.node_socket)
    await socket.ask("configure soft")
    socket.close()
    assert not await bird.in_step()
    await bird.apply(ROUTES)
    assert await bird.in_step()


async def test_without_a_speaker_everything_says_so(pair: Pair, bird: Bird) -> None:
    assert (await bird.apply(ROUTES)).running is False
    with pytest.raises(Unavailable, match="no answer"):
        await bird.status()
    with pytest.raises(Unavailable):
        await bird.in_step()
