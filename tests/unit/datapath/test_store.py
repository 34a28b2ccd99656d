from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairlead.address import Address, Prefix
from fairlead.schema.base import EndpointId, NodeName
from fairlead.schema.datapath import BreakGlass
from services.datapath.ledger import Ledger
from services.datapath.model import EndpointRecord, PolicyMap
from services.datapath.operations import PolicyKey, PolicyValue
from services.datapath.store import Finding, Origins, Store

NOW = datetime(2026, 1, 1, 12, 30, 1, 500, tzinfo=UTC)
RECORD = EndpointRecord(
    endpoint=7,
    name="web",
    netns="/run/netns/web",
    interface="eth0",
    addresses=(Address("10.0.0.2"), Address("fd00::2")),
    labels=("container:app=web",),
    created=NOW,
    generation=1 << 60,
    identity=300,
)
_KEYS = st.builds(
    PolicyKey,
    *(st.integers(0, 2**32 - 1), st.integers(0, 65535), st.integers(0, 255), st.integers(0, 1), st.integers(0, 16)),
)
_VALUES = st.builds(PolicyValue, st.booleans(), st.integers(0, 255), st.integers(0, 65535), st.integers(0, 2**32 - 1))


def test_endpoints_come_back_as_they_were(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.save_endpoint(RECORD)
    store.save_endpoint(msgspec.structs.replace(RECORD, endpoint=8, detached=True))
    assert Store(tmp_path).endpoints() == [RECORD, msgspec.structs.replace(RECORD, endpoint=8, detached=True)]
    store.drop_endpoint(7)
    store.drop_endpoint(7)
    assert [record.endpoint for record in Store(tmp_path).endpoints()] == [8]


@pytest.mark.parametrize("garbage", [b"", b"\xc1", b"{", b"\x81\xa4name\x01"])
def test_a_file_that_makes_no_sense_is_set_aside_and_the_others_serve(tmp_path: Path, garbage: bytes) -> None:
    store = Store(tmp_path)
    store.save_endpoint(RECORD)
    (tmp_path / "endpoints" / "00008").write_bytes(garbage)
    (tmp_path / "ledgers").write_bytes(garbage)
    again = Store(tmp_path)
    assert again.endpoints() == [RECORD]
    assert again.ledgers() == {}
    assert sorted(again.unreadable) == ["endpoints/00008"]
    assert (tmp_path / "endpoints" / "00008.unreadable").read_bytes() == garbage


@given(entries=st.dictionaries(_KEYS, _VALUES, max_size=5), others=st.frozensets(st.tuples(_KEYS, _VALUES), max_size=5))
def test_ledgers_come_back_as_they_were(
    tmp_path_factory: pytest.TempPathFactory, entries: dict[PolicyKey, PolicyValue], others: frozenset[object]
) -> None:
    folder = tmp_path_factory.mktemp("store")
    ledger = Ledger(PolicyMap(300, 9, entries, 3, 4, "00-aa-bb-01"), others)  # type: ignore[arg-type] # pairs
    Store(folder).save_ledger(7, ledger)
    Store(folder).save_ledger(8, Ledger(None, others))  # type: ignore[arg-type] # pairs
    again = Store(folder).ledgers()
    assert again == {7: ledger, 8: Ledger(None, others)}  # type: ignore[arg-type] # pairs
    assert again[7].policy is not None
    assert again[7].policy.trace == "00-aa-bb-01"


def _ledger(revision: int, count: int = 1) -> Ledger:
    entries = {PolicyKey(number, 80, 6, 0): PolicyValue(provenance=revision) for number in range(count)}
    return Ledger(PolicyMap(300, revision, entries))


def test_of_a_record_cut_short_the_one_before_counts_and_the_next_is_read(tmp_path: Path) -> None:
    path, store = tmp_path / "ledgers", Store(tmp_path)
    store.save_ledger(7, _ledger(1))
    whole = path.read_bytes()
    store.save_ledger(7, _ledger(2))
    longer = path.read_bytes()
    for size in range(len(whole), len(longer)):
        path.write_bytes(longer[:size])
        again = Store(tmp_path)
        assert again.ledgers() == {7: _ledger(1)}, size
        again.save_ledger(8, _ledger(3))
        assert Store(tmp_path).ledgers() == {7: _ledger(1), 8: _ledger(3)}, size


def test_the_ledgers_stay_small_and_whole_however_often_they_change(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for revision in range(40):
        shared = _ledger(revision, 16_384)
        for endpoint in (1, 2, 3):
            store.save_ledger(endpoint, shared)
    store.drop_ledger(2)
    store.drop_ledger(9)
    assert (tmp_path / "ledgers").stat().st_size < 12 << 20
    assert Store(tmp_path).ledgers() == {1: shared, 3: shared}


def test_origins_keep_their_numbers_over_a_restart_and_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "origins"
    origins = Origins(path)
    assert origins.number(()) == 0
    first, second = origins.number(("a",)), origins.number(("a", 'b "quoted"\nnext'))
    assert (first, second, origins.number(("a",))) == (1, 2, 1)
    with path.open("a") as file:
        file.write('["torn')
    again = Origins(path)
    assert again.texts(2) == ("a", 'b "quoted"\nnext')
    assert again.texts(3) == again.texts(0) == again.texts(99) == ()
    assert again.number(("a",)) == 1
    new = again.number(("new",))
    assert Origins(path).texts(new) == ("new",)


def _finding(number: int, published: bool) -> Finding:
    event = BreakGlass(node=NodeName("n1"), endpoint=EndpointId(7), name="web", time=NOW, entries=("x",))
    return Finding(number=number, event=event, published=published)


def test_of_published_findings_the_newest_twenty_stay_and_unpublished_ones_all(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.save_finding(_finding(1, published=False))
    for number in range(2, 40):
        store.save_finding(_finding(number, published=True))
    assert [finding.number for finding in Store(tmp_path).findings()] == [1, *range(20, 40)]


def test_ages_come_back(tmp_path: Path) -> None:
    fleet = [Prefix.trusted(f"fd00:1111:2222:3333:4444:5555:{n >> 8:x}:{n & 255:x}/128") for n in range(100_000)]
    ages = {(300, NOW): [Prefix("10.0.0.2")], (1 << 24, NOW): [Prefix("fd00::/64")], (301, NOW): fleet}
    Store(tmp_path).save_ages(ages)
    assert {key: list(prefixes) for key, prefixes in Store(tmp_path).ages().items()} == ages
    (tmp_path / "known-since").write_bytes(b"\xc1")
    assert Store(tmp_path).ages() == {}


def test_a_release_is_taken_once(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert not store.take_release()
    (tmp_path / "release-held").touch()
    assert store.take_release()
    assert not store.take_release()
