"""Start admission: spread over a window that grows with the fleet, one start per window, overridable by a person."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import socket
import subprocess
import sys
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairlead.admission import Record, recall
from fairlead.clock import SYSTEM, ManualClock
from services.entrypoint import (
    AdmissionSettings,
    admit,
    decide,
    jitter,
    main,
    remember,
    window_s,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)
FLEETS = st.integers(20, 1_000_000)
TIMES = st.floats(1e9, 2e9)
RECORDS = st.builds(
    Record,
    boot=st.sampled_from(["", "a", "b"]),
    started_s=st.just(0.0) | TIMES,
    due_s=st.just(0.0) | TIMES,
    held=st.integers(0, 50),
    due_held=st.integers(0, 50),
)


@pytest.mark.parametrize(
    ("nodes", "minutes"), [(0, 0), (1, 0), (19, 0), (20, 1.4), (1000, 20), (5000, 60), (10_000, 96)]
)
def test_the_window_grows_with_the_fleet(nodes: int, minutes: float) -> None:
    assert window_s(nodes) / 60 == pytest.approx(minutes, abs=0.5)


@given(FLEETS, FLEETS)
def test_a_larger_fleet_never_has_a_smaller_window(one: int, other: int) -> None:
    assert (one <= other) == (window_s(one) <= window_s(other))


def test_a_thousand_nodes_spread_evenly_and_differently_in_the_next_boot() -> None:
    places = Counter(int(jitter(f"n{number}/datapath", "boot") * 10) for number in range(1000))
    assert len(places) == 10
    assert all(60 < count < 140 for count in places.values())
    assert jitter("n1/ipam", "boot") != jitter("n1/ipam", "next boot")
    assert jitter("n1/ipam", "boot") == jitter("n1/ipam", "boot")


@given(TIMES, FLEETS, RECORDS)
def test_every_wait_is_bounded_and_repeatable(now: float, fleet: int, record: Record) -> None:
    window = window_s(fleet)
    decision = decide(now, "n1/ipam", "a", window, record)
    assert 0 <= decision.wait_s <= 4 * window + 1e-3
    assert decide(now, "n1/ipam", "a", window, record) == decision


@given(TIMES, RECORDS.filter(lambda record: record.held == 0))
def test_a_small_fleet_never_waits(now: float, record: Record) -> None:
    assert decide(now, "n1/ipam", "a", 0.0, record).wait_s == 0


@given(st.lists(st.floats(0, 20_000), max_size=30), st.sampled_from([20, 1000, 5000]), st.booleans())
def test_crashes_at_any_times_start_at_most_once_per_window(runs: list[float], fleet: int, reboots: bool) -> None:
    window, now, record, starts = window_s(fleet), 1e9, Record(), []
    for number, lived in enumerate(runs):
        decision = decide(now, "n1/ipam", f"boot {number if reboots else 0}", window, record)
        record = decision.started
        starts.append(now + decision.wait_s)
        now = starts[-1] + lived
    assert all(later - earlier >= window - 1e-3 for earlier, later in itertools.pairwise(starts))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=10), RECORDS)
def test_an_interrupted_wait_ends_when_it_would_have(parts: list[float], record: Record) -> None:
    now = 1.5e9
    window = window_s(1000)
    first = decide(now, "n1/ipam", "a", window, record)
    due, held = now + first.wait_s, first.started.held
    left = first
    for part in parts:  # stopped and started again after a part of what was left
        now += left.wait_s * part
        left = decide(now, "n1/ipam", "a", window, left.waiting) if left.wait_s else left
    assert now + left.wait_s == pytest.approx(due, abs=1e-3)
    assert left.started.held == held


def test_each_crash_in_a_row_is_held_longer_up_to_four_windows() -> None:
    window, now, record, waits = window_s(1000), 1e9, Record(), []
    for _ in range(6):
        decision = decide(now, "n1/ipam", "a", window, record)
        waits.append(round(decision.wait_s / window, 2))
        now, record = now + decision.wait_s, decision.started
    assert waits[1:] == [1, 2, 4, 4, 4]
    assert decide(now + 4 * window, "n1/ipam", "a", window, record).started.held == 0


@pytest.mark.parametrize(
    "text", [b"", b"[]", b'{"held": "x"}', b"\xff\xfe", b'{"started_s": nan}', b'{"held": 1000000000}']
)
def test_a_spoiled_record_counts_as_the_first_start(text: bytes, tmp_path: Path) -> None:
    path = tmp_path / "ipam.json"
    path.write_bytes(text)
    assert recall(path) == Record()


def test_a_record_that_cannot_be_written_does_not_stop_a_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    remember(tmp_path / "file" / "ipam.json", Record())
    assert "cannot be written" in caplog.text


def settings_for(folder: Path, fleet: int) -> AdmissionSettings:
    return AdmissionSettings(node="n1", state_dir=str(folder), fleet_size=fleet)


async def test_the_start_waits_for_its_place_and_remembers_it(tmp_path: Path) -> None:
    clock = ManualClock(NOW)
    await admit(settings_for(tmp_path, 1000), "ipam", "a", clock)
    waited = (clock.now() - NOW).total_seconds()
    assert waited == pytest.approx(jitter("n1/ipam", "a") * window_s(1000), abs=1e-3)
    record = recall(tmp_path / "admission" / "ipam.json")
    assert (record.started_s, record.due_s) == (clock.now().timestamp(), 0)
    await admit(settings_for(tmp_path, 1000), "ipam", "a", clock)
    assert clock.now() - NOW >= timedelta(seconds=window_s(1000))


async def test_a_person_can_start_it_now_even_while_it_waits(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    waiting = asyncio.create_task(admit(settings_for(tmp_path, 5000), "ipam", "a", SYSTEM))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    (tmp_path / "admission" / "start-now").touch()
    await asyncio.wait_for(waiting, 5)
    assert "start-now is there" in caplog.text


def _run(tmp_path: Path, fleet: str, *command: str) -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        "FAIRLEAD_NODE": "n1",
        "FAIRLEAD_STATE_DIR": str(tmp_path),
        "FAIRLEAD_FLEET_SIZE": fleet,
    }
    return subprocess.Popen(
        [sys.executable, "-m", "services.entrypoint", "ipam", *command],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_the_entrypoint_becomes_the_service(tmp_path: Path) -> None:
    process = _run(tmp_path, "0", sys.executable, "-c", "import os; print(os.getpid())")
    out, error = process.communicate(timeout=20)
    assert (process.returncode, int(out)) == (0, process.pid), error


def test_a_wait_is_told_to_syslog_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(20)
        monkeypatch.setenv("FAIRLEAD_SYSLOG", f"udp://127.0.0.1:{receiver.getsockname()[1]}")
        process = _run(tmp_path, "5000", "false")
        assert b"ipam starts in" in receiver.recv(4096)
    process.terminate()
    assert process.communicate(timeout=20)
    monkeypatch.setenv("FAIRLEAD_SYSLOG", "nowhere")
    assert "`syslog`: 'nowhere' is no target" in _run(tmp_path, "0", "true").communicate(timeout=20)[1]


def test_a_waiting_container_stops_at_once_when_told_to(tmp_path: Path) -> None:
    process = _run(tmp_path, "5000", "false")
    assert process.stderr
    assert "to start now: touch" in process.stderr.readline()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=5) == 0
    process.communicate()


def test_wrong_use_says_what_is_right(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main([]) == main(["nobody"]) == 2
    monkeypatch.setenv("FAIRLEAD_NODE", "n1")
    monkeypatch.setenv("FAIRLEAD_FLEET_SIZE", "-1")
    assert main(["ipam"]) == 2
    assert "FAIRLEAD_FLEET_SIZE" in caplog.text
    assert _run(tmp_path, "0", "/no/such/program").wait(timeout=20) == 127
