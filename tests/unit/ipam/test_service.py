from __future__ import annotations

import asyncio
import errno
import os
from datetime import timedelta
from pathlib import Path

import pytest

from fairlead.address import Address, Prefix
from fairlead.clock import ManualClock
from fairlead.errors import Unavailable
from fairlead.schema.base import Empty, NodeName
from fairlead.schema.ipam import AllocateAddress, ReleaseAddress
from services.ipam.model import State
from services.ipam.service import Ipam
from services.ipam.store import StateFile

PREFIXES = (Prefix("10.1.2.0/24"), Prefix("fd00:1::/80"))


class Desk:
    """A service on a folder; `again` is the same after a crash."""

    def __init__(self, folder: Path, clock: ManualClock | None = None) -> None:
        self.folder = folder
        self.clock = clock or ManualClock()
        self.conditions: dict[str, tuple[bool, str]] = {}
        self.file = StateFile(folder / "ipam" / "leases.json", "n1")
        self.ipam = Ipam(NodeName("n1"), self.file, self.state, self.clock)

    def state(self, name: str, ok: bool, detail: str = "") -> None:
        self.conditions[name] = (ok, detail)

    def again(self) -> Desk:
        return Desk(self.folder, self.clock)

    async def lease(self, owner: str, *wanted: str) -> tuple[Address, ...]:
        ask = AllocateAddress(owner=owner, addresses=tuple(map(Address, wanted)))
        return (await self.ipam.allocate(ask)).addresses


@pytest.fixture
async def desk(tmp_path: Path) -> Desk:
    made = Desk(tmp_path)
    await made.ipam.take(PREFIXES)
    return made


async def test_without_a_prefix_the_reason_is_told(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.ipam.wait_for("etcd is away")
    with pytest.raises(Unavailable, match=r"n1.*etcd is away"):
        await desk.lease("web")
    assert (await desk.ipam.leases(Empty())).prefixes == ()


async def test_everything_survives_a_crash(desk: Desk) -> None:
    held = await desk.lease("web")
    await desk.lease("db")
    await desk.ipam.release(ReleaseAddress(owner="db"))
    before = await desk.ipam.leases(Empty())
    other = desk.again()
    assert await other.ipam.leases(Empty()) == before
    assert other.ipam.state() == desk.ipam.state()
    assert await other.lease("web") == held
    assert "10.1.2.3" not in await other.lease("new")
    other.clock.advance(61)
    assert await other.lease("third", "10.1.2.3") == ("10.1.2.3", "fd00:1::5")


async def test_release_twice_is_one_release(desk: Desk) -> None:
    held = await desk.lease("web")
    assert (await desk.ipam.release(ReleaseAddress(owner="web"))).addresses == held
    assert (await desk.ipam.release(ReleaseAddress(owner="web"))).addresses == ()


async def test_two_hundred_askers_at_once_get_different_addresses(desk: Desk) -> None:
    answers = await asyncio.gather(*(desk.lease(f"w{number}") for number in range(200)))
    addresses = [address for answer in answers for address in answer]
    assert len(set(addresses)) == 400
    assert len(desk.again().ipam.state().leases) == 400


async def test_what_is_not_on_the_disk_was_not_leased(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(Unavailable, match="No space left"):
            await desk.lease("web")
    assert desk.ipam.state().leases == desk.again().ipam.state().leases == {}
    assert await desk.lease("db") == ("10.1.2.2", "fd00:1::2")


@pytest.mark.parametrize("content", [b"", b"{", b'{"node":"n1","leases":[{"address":"x"}]}', b"\x00\xff"])
async def test_a_damaged_file_is_told_and_kept(desk: Desk, content: bytes) -> None:
    path = desk.folder / "ipam" / "leases.json"
    good = path.read_bytes()
    path.write_bytes(content)
    other = desk.again()
    with pytest.raises(Unavailable, match=r"leases\.json"):
        await other.lease("web")
    assert not other.conditions["state"][0]
    assert path.read_bytes() == content
    path.write_bytes(good)
    assert await other.lease("web") == ("10.1.2.2", "fd00:1::2")
    assert other.conditions["state"][0]


async def test_the_file_of_another_node_is_refused(desk: Desk) -> None:
    StateFile(desk.folder / "ipam" / "leases.json", "n2").save(State())
    with pytest.raises(Unavailable, match="belongs to node n2"):
        await desk.again().lease("web")


async def test_a_file_half_written_by_a_crash_is_ignored(desk: Desk) -> None:
    held = await desk.lease("web")
    (desk.folder / "ipam" / "leases.tmp").write_bytes(b"half")
    assert await desk.again().lease("web") == held


async def test_a_clock_that_steps_back_keeps_the_quarantine(desk: Desk) -> None:
    await desk.lease("web")
    await desk.ipam.release(ReleaseAddress(owner="web"))
    desk.clock._now -= timedelta(hours=1)
    assert "10.1.2.2" not in await desk.lease("db")
