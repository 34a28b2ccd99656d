"""From claim to files: what the service announces, keeps and withdraws. The engine is the real one, with no BIRD running."""

from __future__ import annotations

from pathlib import Path

import pytest

from fairlead.address import Address, Prefix
from fairlead.clock import ManualClock
from fairlead.schema.base import NodeName
from fairlead.schema.ipam import Claim
from services.bgp.engine.bird import Bird
from services.bgp.model import Speaker, parse_neighbours
from services.bgp.service import WITHDRAW_AFTER_S, Bgp

N1 = NodeName("n1")
SPEAKER = Speaker(
    asn=65001,
    router_id=Address("10.0.1.6"),
    neighbours=parse_neighbours(["10.0.1.5:65101"]),
    pools=(Prefix("10.42.0.0/16"), Prefix("fd42::/48")),
)
LINE = "route 10.42.1.0/24 blackhole;\n"


class Node:
    """The service with its engine on a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = ManualClock()
        self.conditions: dict[str, tuple[bool, str]] = {}
        self.bgp = Bgp(N1, SPEAKER, Bird(folder, folder / "ctl", SPEAKER, self.clock), self.clock, self.condition)

    def condition(self, name: str, ok: bool, detail: str = "") -> None:
        self.conditions[name] = (ok, detail)

    async def announce(self) -> None:
        await self.bgp._guarded(self.bgp._configure)
        await self.bgp._guarded(self.bgp._announce)

    def announced(self) -> str:
        return (self.folder / "pods4.conf").read_text()


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def claim(*prefixes: str) -> Claim:
    return Claim(node=N1, prefixes=tuple(map(Prefix, prefixes)), revision=3)


async def test_a_claim_is_announced_and_nobody_else_s(node: Node) -> None:
    await node.bgp.on_claim("n2", Claim(node=NodeName("n2"), prefixes=(Prefix("10.42.2.0/24"),)))
    await node.bgp.on_claim("n1", claim("10.42.1.0/24"))
    await node.announce()
    assert node.announced() == LINE
    assert node.conditions["claim"] == (True, "")


async def test_without_bird_the_files_stand_and_the_health_says_so(node: Node) -> None:
    await node.bgp.on_claim("n1", claim("10.42.1.0/24"))
    await node.announce()
    ok, detail = node.conditions["engine"]
    assert not ok
    assert "no answer" in detail
    assert (node.folder / "bird.conf").exists()


async def test_what_lies_outside_the_pools_is_refused_visibly(node: Node) -> None:
    await node.bgp.on_claim("n1", claim("10.42.1.0/24", "192.168.0.0/24"))
    await node.announce()
    assert node.announced() == LINE
    assert node.conditions["claim"] == (False, "192.168.0.0/24 lies in no pool")


async def test_an_unknown_claim_leaves_what_was_announced(tmp_path: Path) -> None:
    before = Node(tmp_path)
    await before.bgp.on_claim("n1", claim("10.42.1.0/24"))
    await before.announce()
    after = Node(tmp_path)  # restarted, its copy of the bucket is lost
    after.bgp.begin({})
    await after.announce()
    assert after.announced() == LINE
    assert not after.conditions["claim"][0]


async def test_a_restart_announces_what_the_copy_on_disk_says(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.bgp.begin({"n1": claim("10.42.1.0/24")})
    await node.announce()
    assert node.announced() == LINE


async def test_a_claim_that_is_gone_is_withdrawn_later_and_not_when_it_returns(node: Node) -> None:
    await node.bgp.on_claim("n1", claim("10.42.1.0/24"))
    await node.bgp.on_claim("n1", None)
    node.clock.advance(WITHDRAW_AFTER_S - 1)
    await node.announce()
    assert node.announced() == LINE

    await node.bgp.on_claim("n1", claim("10.42.1.0/24"))
    node.clock.advance(WITHDRAW_AFTER_S * 2)
    await node.announce()
    assert node.announced() == LINE

    await node.bgp.on_claim("n1", None)
    node.clock.advance(WITHDRAW_AFTER_S)
    await node.announce()
    assert node.announced() == ""
