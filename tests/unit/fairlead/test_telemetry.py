"""Traces: what is worth one, and how context travels as text."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from fairlead import telemetry


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    monkeypatch.setattr(trace, "set_tracer_provider", lambda _provider: None)
    provider: TracerProvider = telemetry.setup("test", "n1", environ={})
    exporter = InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(telemetry, "_TRACER", provider.get_tracer("fairlead"))
    yield exporter
    provider.shutdown()


def names(exporter: InMemorySpanExporter) -> list[str]:
    return [span.name for span in exporter.get_finished_spans()]


def test_a_mere_question_is_no_trace_but_a_part_of_one(recorded: InMemorySpanExporter) -> None:
    with telemetry.span("process fairlead.get.ipam.lease.list.v1"):
        pass
    assert names(recorded) == []
    with (
        telemetry.span("process fairlead.cmd.ipam.address.allocate.v1"),
        telemetry.span("request fairlead.get.x.y.z.v1"),
    ):
        pass
    assert names(recorded) == ["request fairlead.get.x.y.z.v1", "process fairlead.cmd.ipam.address.allocate.v1"]


def test_a_traceparent_continues_its_trace(recorded: InMemorySpanExporter) -> None:
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    with telemetry.span("announce", parent=parent, key__name="n1"):
        assert telemetry.trace_id(telemetry.traceparent()) == telemetry.trace_id(parent)
    (span,) = recorded.get_finished_spans()
    assert span.parent is not None
    assert f"{span.parent.span_id:016x}" == "b7ad6b7169203331"
    assert dict(span.attributes or {}) == {"key.name": "n1"}


def test_nonsense_is_no_parent(recorded: InMemorySpanExporter) -> None:
    with telemetry.span("announce", parent="00-zz-1-01"):
        pass
    assert recorded.get_finished_spans()[0].parent is None
    assert telemetry.trace_id("nonsense") == ""
