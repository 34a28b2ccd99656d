"""The OTLP receiver against OpenTelemetry's own exporter, and against garbage."""

from __future__ import annotations

import gzip
import http.client
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.trace import Status, StatusCode

from clients.otlp.server import MAX_BODY_BYTES, Receiver
from clients.otlp.spans import Span, decode
from clients.otlp.store import TraceStore
from fairlead.errors import InvalidInput, NotFound


@pytest.fixture(params=["127.0.0.1", "::1"])
def receiver(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Receiver]:
    server = Receiver((request.param, 0), TraceStore(tmp_path / "traces.jsonl", keep=10))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def ask(server: Receiver, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, Any]:
    host, port = server.server_address[:2]
    connection = http.client.HTTPConnection(str(host), int(port), timeout=5)
    connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
    answer = connection.getresponse()
    data = answer.read()
    connection.close()
    return answer.status, json.loads(data) if answer.headers.get_content_type() == "application/json" else data


def export(server: Receiver, compression: Compression) -> str:
    host, port = str(server.server_address[0]), server.server_address[1]
    place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    exporter = OTLPSpanExporter(f"http://{place}/v1/traces", compression=compression)
    provider = TracerProvider(resource=Resource({"service.name": "fairlead-policy", "service.instance.id": "p1"}))
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("test")
    with tracer.start_as_current_span("publish") as outer, tracer.start_as_current_span("resolve") as inner:
        inner.set_attribute("rows", 3)
        inner.set_status(Status(StatusCode.ERROR, "too wide"))
    provider.shutdown()
    return f"{outer.get_span_context().trace_id:032x}"


@pytest.mark.parametrize("compression", [Compression.NoCompression, Compression.Gzip])
def test_the_standard_exporter_is_understood_and_read_back(receiver: Receiver, compression: Compression) -> None:
    trace = export(receiver, compression)
    status, spans = ask(receiver, "GET", f"/traces/{trace}")
    assert status == 200
    assert [(span["name"], span["service"], span["instance"]) for span in spans] == [
        ("publish", "fairlead-policy", "p1"),
        ("resolve", "fairlead-policy", "p1"),
    ]
    assert spans[1]["parent_id"] == spans[0]["span_id"]
    assert (spans[1]["attributes"], spans[1]["error"], spans[0]["error"]) == ({"rows": 3}, "too wide", "")
    _, listed = ask(receiver, "GET", "/traces?last=5")
    assert [(row["trace_id"], row["name"], row["spans"], row["errors"]) for row in listed] == [(trace, "publish", 2, 1)]


def test_a_restart_reads_the_file_again_and_skips_a_line_cut_short(receiver: Receiver, tmp_path: Path) -> None:
    trace = export(receiver, Compression.Gzip)
    path = tmp_path / "traces.jsonl"
    path.write_bytes(path.read_bytes() + b'{"trace_id": "abc')
    again = TraceStore(path)
    assert [span.name for span in again.trace(trace[:8])] == ["publish", "resolve"]
    assert path.read_bytes().count(b"\n") == 2


@pytest.mark.parametrize(
    ("path", "body", "headers", "reason"),
    [
        ("/v1/traces", b"\xff\xff\xff", {}, "not an OTLP"),
        ("/v1/traces", b"{}", {"Content_Type": "application/json"}, "Content-Type"),
        ("/v1/traces", b"not gzip", {"Content_Encoding": "gzip"}, "not gzip"),
        ("/v1/traces", b"x", {"Content_Encoding": "br"}, "Content-Encoding"),
        ("/v1/traces", gzip.compress(bytes(MAX_BODY_BYTES + 1)), {"Content_Encoding": "gzip"}, "unpacked"),
        ("/v1/traces", gzip.compress(b"12345")[:-6], {"Content_Encoding": "gzip"}, "cut short"),
        ("/v1/metrics", b"", {}, "/v1/traces"),
        ("/v1/traces", b"", {"Content_Length": "99999999999"}, "at most"),
        ("/v1/traces", b"", {"Content_Length": "-1"}, "Content-Length"),
    ],
)
def test_garbage_is_refused_with_a_reason_and_the_receiver_goes_on(
    receiver: Receiver, path: str, body: bytes, headers: dict[str, str], reason: str
) -> None:
    status, answer = ask(receiver, "POST", path, body, **{"Content_Type": "application/x-protobuf", **headers})
    assert status == 400
    assert reason in answer["error"]
    assert ask(receiver, "GET", "/healthz") == (200, {"ok": True})
    assert ask(receiver, "GET", "/traces") == (200, [])


@pytest.mark.parametrize(
    ("path", "status"), [("/traces/ffff", 404), ("/traces/f", 404), ("/traces?last=x", 400), ("/other", 404)]
)
def test_what_is_not_there_is_said(receiver: Receiver, path: str, status: int) -> None:
    assert ask(receiver, "GET", path)[0] == status


@given(st.binary(max_size=200))
def test_any_bytes_decode_or_are_refused(data: bytes) -> None:
    try:
        spans = decode(data)
    except InvalidInput:
        return
    assert all(len(span.trace_id) == 32 for span in spans)


def _span(trace: int, number: int) -> Span:
    return Span(trace_id=f"{trace:032x}", span_id=f"{number:016x}", name="s", start_ns=number, end_ns=number + 1)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 20)), max_size=60), st.booleans())
def test_memory_and_file_tell_the_same_and_stay_bounded(
    tmp_path_factory: pytest.TempPathFactory, numbers: list[tuple[int, int]], one_by_one: bool
) -> None:
    path = tmp_path_factory.mktemp("store") / "t.jsonl"
    store = TraceStore(path, keep=4, spans_per_trace=5)
    spans = [_span(trace, number) for trace, number in numbers]
    for batch in [[span] for span in spans] if one_by_one else [spans]:
        store.add(batch)
    kept = {row.trace_id: store.trace(row.trace_id) for row in store.traces(100)}
    assert len(kept) <= 4
    assert all(len(trace) <= 5 for trace in kept.values())
    again = TraceStore(path, keep=100)
    for trace, held in kept.items():
        assert {span.span_id for span in again.trace(trace)} >= {span.span_id for span in held}


def test_the_file_is_rewritten_before_it_outgrows_memory(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    store = TraceStore(path, keep=10)
    for trace in range(5000):
        store.add([_span(trace, 1)])
    assert path.read_bytes().count(b"\n") < 1100
    assert TraceStore(path).traces(1)[0].trace_id == f"{4999:032x}"


def test_a_trace_that_was_dropped_is_not_found(tmp_path: Path) -> None:
    store = TraceStore(None, keep=1)
    store.add([_span(1, 1), _span(2, 1)])
    with pytest.raises(NotFound):
        store.trace(f"{1:032x}")
