"""Spans as the receiver keeps and serves them, and how they come out of an OTLP export request. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1 import trace_pb2

from fairlead.errors import InvalidInput

Value = str | int | float | bool
_KINDS = ("", "internal", "server", "client", "producer", "consumer")
_TRACE_ID_BYTES, _SPAN_ID_BYTES = 16, 8


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """One span; identifiers are lower-case hex, `parent_id` is empty for a root, times are nanoseconds since 1970."""

    trace_id: str
    span_id: str
    parent_id: str = ""
    name: str
    kind: str = ""
    service: str = ""
    instance: str = ""
    start_ns: int
    end_ns: int
    error: str = ""
    """Empty unless the span failed; then why."""
    attributes: dict[str, Value] = msgspec.field(default_factory=dict)


class TraceSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One trace in a list: its root span (the earliest without a parent here), its size and its duration."""

    trace_id: str
    name: str
    service: str
    start_ns: int
    duration_ms: float
    spans: int
    errors: int
    services: tuple[str, ...]


def decode(body: bytes) -> list[Span]:
    """Return the spans of an OTLP export request. Raises InvalidInput for what is none."""
    try:
        request = ExportTraceServiceRequest.FromString(body)
    except DecodeError as error:
        raise InvalidInput(f"the body is not an OTLP ExportTraceServiceRequest in protobuf: {error}") from error
    return [
        _span(raw, attributes(group.resource.attributes))
        for group in request.resource_spans
        for scope in group.scope_spans
        for raw in scope.spans
    ]


def _span(raw: trace_pb2.Span, resource: dict[str, Value]) -> Span:
    if len(raw.trace_id) != _TRACE_ID_BYTES or len(raw.span_id) != _SPAN_ID_BYTES:
        raise InvalidInput(f"span {raw.name!r}: trace_id needs 16 bytes and span_id 8")
    failed = raw.status.code == trace_pb2.Status.STATUS_CODE_ERROR
    return Span(
        trace_id=raw.trace_id.hex(),
        span_id=raw.span_id.hex(),
        parent_id=raw.parent_span_id.hex(),
        name=raw.name,
        kind=_KINDS[raw.kind] if 0 <= raw.kind < len(_KINDS) else "",
        service=str(resource.get("service.name", "")),
        instance=str(resource.get("service.instance.id", "")),
        start_ns=raw.start_time_unix_nano,
        end_ns=max(raw.end_time_unix_nano, raw.start_time_unix_nano),
        error=(raw.status.message or "failed") if failed else "",
        attributes=attributes(raw.attributes),
    )


def attributes(pairs: Iterable[KeyValue]) -> dict[str, Value]:
    """Return the attributes as plain values; lists, maps and bytes become their text."""
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> Value:
    match value.WhichOneof("value"):
        case "string_value":
            return value.string_value
        case "int_value":
            return value.int_value
        case "double_value":
            return value.double_value
        case "bool_value":
            return value.bool_value
        case _:
            return str(value).strip()


def summary(spans: Sequence[Span]) -> TraceSummary:
    """Return the summary of one trace, which has at least one span."""
    first = min(spans, key=_rootness(spans))
    start, end = min(span.start_ns for span in spans), max(span.end_ns for span in spans)
    return TraceSummary(
        trace_id=first.trace_id,
        name=first.name,
        service=first.service,
        start_ns=start,
        duration_ms=(end - start) / 1e6,
        spans=len(spans),
        errors=sum(1 for span in spans if span.error),
        services=tuple(sorted({span.service for span in spans})),
    )


class _rootness:  # noqa: N801 - used as a function: it orders roots first, then by time
    def __init__(self, spans: Sequence[Span]) -> None:
        self._known = {span.span_id for span in spans}

    def __call__(self, span: Span) -> tuple[bool, int]:
        return span.parent_id in self._known, span.start_ns
