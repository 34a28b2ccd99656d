"""Traces: one from the event on the bus to every kernel map write it caused; and metrics.

Context travels as W3C `traceparent` in message headers and beside stored values. Spans leave by OTLP/HTTP when the standard variable
`OTEL_EXPORTER_OTLP_ENDPOINT` (or its traces form) is set; otherwise context still travels, and nothing is exported. Metrics leave in the same way when
`OTEL_EXPORTER_OTLP_METRICS_ENDPOINT` is set, or the general variable together with `OTEL_METRICS_EXPORTER=otlp`: a receiver of
traces need not take metrics.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from opentelemetry import context, metrics, trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import Decision, ParentBased, Sampler, SamplingResult
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

_TRACER = trace.get_tracer("fairlead")
"""Of whatever provider is set later; to look it up for each span is a third of what a span costs."""
_PROPAGATOR = TraceContextTextMapPropagator()
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_METRICS_ENDPOINT = "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"
_EXPORT_DELAY_MS = 500
_QUESTION = " fairlead.get."

PRODUCER = SpanKind.PRODUCER
CONSUMER = SpanKind.CONSUMER
CLIENT = SpanKind.CLIENT
SERVER = SpanKind.SERVER
INTERNAL = SpanKind.INTERNAL

AttributeValue = str | int | float | bool


def setup(service: str, node: str, environ: Mapping[str, str] | None = None) -> TracerProvider:
    """Make this process's spans carry the service's name, and export them if an endpoint is set."""
    env = os.environ if environ is None else environ
    resource = Resource({"service.name": f"fairlead-{service}", "service.instance.id": node, "host.name": node})
    sampler = None if "OTEL_TRACES_SAMPLER" in env else ParentBased(root=_NotMereQuestions())
    provider = TracerProvider(resource=resource, sampler=sampler)
    if any(env.get(name) for name in _ENDPOINTS):
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415 - 10 MB, only if used
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415 - same

        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(), schedule_delay_millis=_EXPORT_DELAY_MS))
    trace.set_tracer_provider(provider)
    if env.get(_METRICS_ENDPOINT) or (env.get(_ENDPOINTS[0]) and env.get("OTEL_METRICS_EXPORTER") == "otlp"):
        _export_metrics(resource)
    return provider


def _export_metrics(resource: Resource) -> None:
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter  # noqa: PLC0415 - only if used
    from opentelemetry.sdk.metrics import MeterProvider  # noqa: PLC0415 - same
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader  # noqa: PLC0415 - same

    metrics.set_meter_provider(MeterProvider([PeriodicExportingMetricReader(OTLPMetricExporter())], resource))


def gauge(name: str, read: Callable[[], Mapping[str, float]], *, unit: str, summary: str) -> None:
    """Export what `read` returns, by the attribute `kind`, whenever metrics are collected."""

    def observe(_options: metrics.CallbackOptions) -> Iterator[metrics.Observation]:
        return (metrics.Observation(value, {"kind": kind}) for kind, value in read().items())

    meter = metrics.get_meter("fairlead")
    meter.create_observable_gauge(name, [observe], unit=unit, description=summary)


def total(name: str, read: Callable[[], Sequence[tuple[Mapping[str, str], float]]], *, summary: str) -> None:
    """Export sums that only grow, each with its attributes, whenever metrics are collected; Prometheus adds `_total`."""

    def observe(_options: metrics.CallbackOptions) -> Iterator[metrics.Observation]:
        return (metrics.Observation(value, dict(attributes)) for attributes, value in read())

    metrics.get_meter("fairlead").create_observable_counter(name, [observe], description=summary)


class _NotMereQuestions(Sampler):
    """Leaves out traces that consist of a question alone (`get` topics): they change nothing, and there are many.

    `OTEL_TRACES_SAMPLER` replaces this choice. A question that is part of a larger trace is kept.
    """

    def should_sample(self, *args: Any, **kwargs: Any) -> SamplingResult:
        """Return the decision for a root span; see OpenTelemetry's Sampler."""
        name = str(kwargs.get("name", args[2] if len(args) > 2 else ""))
        return SamplingResult(Decision.DROP if _QUESTION in name else Decision.RECORD_AND_SAMPLE)

    def get_description(self) -> str:
        """Return what this sampler is, for debugging."""
        return "all but mere questions"


@contextmanager
def span(name: str, *, parent: str = "", kind: SpanKind = INTERNAL, **attributes: AttributeValue) -> Iterator[Span]:
    """Run the body inside a span; `parent` is a W3C traceparent, or empty to continue the current span.

    Dots in attribute names are written as two underscores: `messaging__system` is `messaging.system`.
    """
    outer = _PROPAGATOR.extract({"traceparent": parent}) if parent else context.get_current()
    named = {key.replace("__", "."): value for key, value in attributes.items()}
    with _TRACER.start_as_current_span(name, context=outer, kind=kind, attributes=named) as current:
        yield current


def traceparent() -> str:
    """Return the W3C traceparent of the current span; empty outside any."""
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier)
    return carrier.get("traceparent", "")


def failed(current: Span, reason: str) -> None:
    """Mark the span as failed for `reason`."""
    current.set_status(Status(StatusCode.ERROR, reason))


def trace_id(parent: str) -> str:
    """Return the 32 hex digits of the trace in a traceparent; empty when there is none."""
    parts = parent.split("-")
    return parts[1] if len(parts) == 4 else ""
