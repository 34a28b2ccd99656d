"""The mirror: duplicated, reordered, replayed and lost messages converge; nothing goes without positive evidence."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairlead import codec
from fairlead.address import Prefix
from fairlead.bus import Changed, Deleted, Restarted, Synced
from fairlead.bus_memory import Hub, MemoryBus
from fairlead.codec import MAX_MESSAGE_BYTES
from fairlead.mirror import Mirror
from fairlead.schema.base import NodeName
from fairlead.schema.ipam import CLAIMS, Claim


def claim(node: str, revision: int, prefix: str = "10.0.0.0/24") -> Claim:
    return Claim(node=NodeName(node), prefixes=(Prefix(prefix),), revision=revision)


@asynccontextmanager
async def running(mirror: Mirror[Claim]) -> AsyncIterator[None]:
    task = asyncio.create_task(mirror.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def settled(condition: object) -> None:
    async with asyncio.timeout(5):
        while not condition():  # type: ignore[operator]
            await asyncio.sleep(0.005)


async def test_it_follows_and_tells(tmp_path: Path) -> None:
    bus, told = MemoryBus(), []

    async def tell(key: str, row: Claim | None) -> None:
        told.append((key, row))

    bucket = bus.bucket(CLAIMS)
    await bucket.ensure()
    mirror = Mirror(bucket, on_change=tell, cache=tmp_path / "claims")
    async with running(mirror):
        await settled(lambda: bus.hub.watchers["claims"])
        await bucket.put("n1", claim("n1", 1))
        await bucket.put("n2", claim("n2", 2))
        await bucket.mark_complete(2)
        await bucket.delete("n1")
        await settled(lambda: mirror.complete and "n1" not in mirror.rows)
    assert dict(mirror.rows) == {"n2": claim("n2", 2)}
    assert told == [("n1", claim("n1", 1)), ("n2", claim("n2", 2)), ("n1", None)]
    reborn = Mirror(bucket, cache=tmp_path / "claims")
    assert dict(reborn.rows) == {"n2": claim("n2", 2)}
    assert reborn.complete


async def test_a_lost_bucket_takes_nothing_away_and_its_rebuilding_neither() -> None:
    bus = MemoryBus()
    bucket = bus.bucket(CLAIMS)
    await bucket.ensure()
    for node in ("n1", "n2", "n3"):
        await bucket.put(node, claim(node, 1))
    await bucket.mark_complete(1)
    mirror = Mirror(bucket)
    async with running(mirror):
        await settled(lambda: len(mirror.rows) == 3)
        bus.hub.drop_bucket("claims")
        await bucket.ensure()
        await bucket.put("n1", claim("n1", 5))
        await settled(lambda: mirror.rows["n1"].revision == 5)
        assert mirror.rows.keys() == {"n1", "n2", "n3"}, "an unfinished bucket proves nothing"
        await bucket.put("n2", claim("n2", 1))
        await bucket.mark_complete(5)
        await settled(lambda: "n3" not in mirror.rows)
    assert mirror.rows.keys() == {"n1", "n2"}


async def test_a_mass_deletion_by_listing_is_held_until_a_person_says_so() -> None:
    mirror = Mirror(MemoryBus().bucket(CLAIMS))
    for event in [Restarted(), *(Changed.to(f"n{i}", claim(f"n{i}", 1)) for i in range(100)), Synced(complete=True)]:
        await mirror._apply(event)
    for event in [Restarted(), *(Changed.to(f"n{i}", claim(f"n{i}", 1)) for i in range(70)), Synced(complete=True)]:
        await mirror._apply(event)
    assert len(mirror.rows) == 100
    assert len(mirror.held) == 30
    await mirror.release_held()
    assert len(mirror.rows) == 70


KEYS = ("n1", "n2", "n3")
EVENTS = st.lists(st.tuples(st.sampled_from(KEYS), st.integers(1, 9)), max_size=30)


@given(EVENTS, st.randoms(use_true_random=False))
def test_duplicates_and_reordering_converge(changes: list[tuple[str, int]], chance: random.Random) -> None:
    """Values are whole objects with revisions: whatever the order, the newest of each key stays."""
    rows = [(key, claim(key, revision, f"10.0.{revision}.0/24")) for key, revision in changes]
    noisy = rows + [chance.choice(rows) for _ in rows]
    chance.shuffle(noisy)

    async def play() -> dict[str, Claim]:
        mirror = Mirror(MemoryBus().bucket(CLAIMS))
        for key, row in noisy:
            await mirror._apply(Changed.to(key, row))
        return dict(mirror.rows)

    newest = {key: max((r for k, r in rows if k == key), key=lambda row: row.revision) for key, _ in rows}
    assert asyncio.run(play()) == newest


async def test_a_broken_cache_is_told_and_left(tmp_path: Path) -> None:
    (tmp_path / "claims").write_bytes(b"\xc1 nonsense")
    mirror = Mirror(MemoryBus().bucket(CLAIMS), cache=tmp_path / "claims")
    assert not mirror.rows
    assert not mirror.complete


@pytest.mark.parametrize("lazily", [False, True])
async def test_a_copy_larger_than_a_message_comes_back(tmp_path: Path, *, lazily: bool) -> None:
    bucket = MemoryBus().bucket(CLAIMS)
    rows = {f"n{number}": claim("n" * 63, number, "fd00:1111:2222::/48") for number in range(60_000)}
    mirror = Mirror(bucket, cache=tmp_path / "claims", lazily=lazily)
    for event in (Restarted(), *(Changed.to(key, row) for key, row in rows.items()), Synced(complete=True)):
        await mirror._apply(event)
    mirror._save()
    assert (tmp_path / "claims").stat().st_size > MAX_MESSAGE_BYTES
    told: dict[str, Claim | None] = {}

    async def tell(key: str, row: Claim | None) -> None:
        told[key] = row

    reborn = Mirror(bucket, on_change=tell, cache=tmp_path / "claims", lazily=lazily)
    await reborn.recall()
    assert told == rows
    assert reborn.complete


@pytest.mark.parametrize("lazily", [False, True])
async def test_a_row_that_cannot_be_read_is_left_out_and_the_owner_still_has_it(
    tmp_path: Path, *, lazily: bool
) -> None:
    bucket = MemoryBus().bucket(CLAIMS)
    good = codec.encode(claim("n1", 1))
    (tmp_path / "claims").write_bytes(codec.pack({"complete": True, "rows": {"n1": good, "n2": b"\xc1"}}))
    mirror = Mirror(bucket, cache=tmp_path / "claims", lazily=lazily)
    await mirror.recall()
    assert dict(mirror.rows) == {"n1": claim("n1", 1)}
    assert not mirror.complete
    for event in (Restarted(), Changed("n1", b"\xc1", Claim), Synced(complete=True)):
        await mirror._apply(event)
    assert dict(mirror.rows) == {"n1": claim("n1", 1)}, "what cannot be read is no evidence that it is gone"


@pytest.mark.parametrize("lazily", [False, True])
async def test_addresses_are_kept_in_canonical_text_however_the_owner_wrote_them(
    tmp_path: Path, *, lazily: bool
) -> None:
    bucket = MemoryBus().bucket(CLAIMS)
    mirror = Mirror(bucket, cache=tmp_path / "claims", lazily=lazily)
    loose = codec.pack(codec.to_builtins(claim("n1", 1)) | {"prefixes": ["FD00:0::/64"]})
    await mirror._apply(Changed("n1", loose, Claim))
    assert mirror.rows["n1"] == claim("n1", 1, "fd00::/64")
    mirror._save()
    assert Mirror(bucket, cache=tmp_path / "claims", lazily=lazily).rows["n1"] == claim("n1", 1, "fd00::/64")


@pytest.mark.parametrize("lazily", [False, True])
async def test_a_copy_that_somebody_changed_is_read_as_if_it_came_from_the_bus(tmp_path: Path, *, lazily: bool) -> None:
    bucket, cache = MemoryBus().bucket(CLAIMS), tmp_path / "claims"
    mirror = Mirror(bucket, cache=cache, lazily=lazily)
    for event in (
        Changed.to("n1", claim("n1", 1)),
        Changed.to("n2", claim("n2", 1, "10.9.0.0/24")),
        Synced(complete=True),
    ):
        await mirror._apply(event)
    mirror._save()
    cache.write_bytes(cache.read_bytes().replace(b"10.9.0.0/24", b"10.9.0.0/99"))
    reborn = Mirror(bucket, cache=cache, lazily=lazily)
    assert dict(reborn.rows) == {"n1": claim("n1", 1)}
    assert not reborn.complete


async def test_a_copy_that_had_to_be_checked_is_written_anew_so_that_the_next_start_need_not(tmp_path: Path) -> None:
    cache = tmp_path / "claims"
    cache.write_bytes(codec.pack({"complete": True, "rows": {"n1": codec.encode(claim("n1", 1))}}))
    async with running(Mirror(MemoryBus().bucket(CLAIMS), cache=cache)):
        await settled(lambda: b"checksum" in cache.read_bytes())


async def test_changing_the_keys_keeps_what_is_known() -> None:
    bus = MemoryBus(Hub())
    bucket = bus.bucket(CLAIMS)
    await bucket.ensure()
    await bucket.put("n1", claim("n1", 1))
    await bucket.put("n2", claim("n2", 1))
    await bucket.mark_complete(1)
    mirror = Mirror(bucket, keys={"n1"})
    async with running(mirror):
        await settled(lambda: mirror.rows.keys() == {"n1"})
        mirror.want({"n2"})
        await settled(lambda: mirror.rows.keys() == {"n1", "n2"})
        await bucket.put("n1", claim("n1", 2))
        await bucket.put("n2", claim("n2", 2))
        await settled(lambda: mirror.rows["n2"].revision == 2)
        assert mirror.rows["n1"].revision == 1, "no longer followed"
        await mirror._apply(Deleted("n2"))
        assert "n2" not in mirror.rows


async def test_a_row_that_is_wanted_amid_a_listing_of_others_is_not_missed_by_it() -> None:
    told: list[tuple[str, bool]] = []

    async def tell(key: str, row: Claim | None) -> None:
        told.append((key, row is not None))

    mirror = Mirror(MemoryBus().bucket(CLAIMS), keys={"n1", "n2"}, on_change=tell)
    for event in (Restarted(frozenset({"n1", "n2"})), Changed.to("n2", claim("n2", 1)), Synced(complete=True)):
        await mirror._apply(event)
    mirror.want({"n1"})
    await mirror._apply(Restarted(mirror.keys))
    mirror.want({"n1", "n2"})
    await mirror._apply(Synced(complete=True))
    assert told == [("n2", True)]
    assert mirror.rows.keys() == {"n2"}
