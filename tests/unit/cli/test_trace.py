"""The waterfall, and how it gets its spans."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clients.cli.__main__ import main
from clients.cli.trace import bar, tree, waterfall
from clients.otlp.server import Receiver
from clients.otlp.spans import Span
from clients.otlp.store import TraceStore

TRACE = "ab" * 16


def span(number: int, parent: int, start_ms: int, end_ms: int, service: str = "fairlead-policy") -> Span:
    return Span(
        trace_id=TRACE,
        span_id=f"{number:016x}",
        parent_id=f"{parent:016x}" if parent else "",
        name=f"step {number}",
        service=service,
        instance="n1",
        start_ns=start_ms * 1_000_000,
        end_ns=end_ms * 1_000_000,
    )


SPANS = [span(1, 0, 0, 100, "fairlead-cli"), span(3, 2, 60, 90), span(2, 1, 50, 100)]


def test_children_stand_under_their_parents_with_bars_on_one_axis() -> None:
    lines = waterfall(SPANS).splitlines()
    assert lines[0].startswith(f"trace {TRACE}")
    assert "100.0 ms  3 spans  cli, policy" in lines[0]
    assert lines[2].split() == ["0.0", "100.0", "ms", "=" * 28, "cli@n1", "step", "1"]
    assert lines[3].endswith("policy@n1    step 2")
    assert lines[3].split()[3] == "." * 14 + "=" * 14
    assert lines[4].endswith("policy@n1      step 3")


def test_a_span_whose_parent_is_elsewhere_stands_at_the_left() -> None:
    assert [(depth, one.span_id[-1]) for depth, one in tree([span(2, 9, 1, 2), span(3, 2, 1, 2)])] == [
        (0, "2"),
        (1, "3"),
    ]


@given(st.lists(st.tuples(st.integers(1, 8), st.integers(0, 8), st.integers(0, 5), st.integers(0, 5)), max_size=20))
def test_every_span_is_shown_once_whatever_the_parents_say(rows: list[tuple[int, int, int, int]]) -> None:
    spans = list({row[0]: span(row[0], row[1], row[2], row[2] + row[3]) for row in rows}.values())
    assert sorted(one.span_id for _, one in tree(spans)) == sorted(one.span_id for one in spans)
    start = min((one.start_ns for one in spans), default=0)
    total = max((one.end_ns for one in spans), default=0) - start
    assert all(len(bar(one, start, max(total, 1))) == 28 and "=" in bar(one, start, max(total, 1)) for one in spans)


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    server = Receiver(("127.0.0.1", 0), TraceStore(None))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("FAIRLEAD_TRACES", f"http://127.0.0.1:{server.server_address[1]}")
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_trace_is_listed_and_shown_by_its_beginning(receiver: Receiver, capsys: pytest.CaptureFixture[str]) -> None:
    receiver.store.add(SPANS)
    assert main(["trace"]) == 0
    assert f"{TRACE}  100.0 ms  3" in capsys.readouterr().out
    assert main(["trace", TRACE[:6]]) == 0
    assert "step 3" in capsys.readouterr().out


def test_what_is_not_there_has_its_own_status(receiver: Receiver, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trace", "ffffff"]) == 1
    assert main(["trace", "../x"]) == 1
    assert main(["trace", "--traces", "ftp://x"]) == 2
    assert main(["trace", "--traces", "http://127.0.0.1:1"]) == 4
    assert "python -m clients.otlp" in capsys.readouterr().err
