"""`fairlead trace`: a trace as a waterfall in the terminal, from the OTLP receiver."""

from __future__ import annotations

import argparse
import http.client
import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import msgspec

from clients.cli import command, output
from clients.cli.output import Answer, Exit, Stop
from clients.otlp.spans import Span, TraceSummary

_BAR_COLUMNS = 28
_TIMEOUT_S = 10
_MAX_ANSWER_BYTES = 256 * 1024 * 1024
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""The receiver stands nearby: a proxy for the outside world must not come between."""
_DEFAULT = "http://127.0.0.1:4318"


def run(options: argparse.Namespace) -> Answer:
    """Show one trace, or list the newest."""
    if options.id:
        spans = msgspec.json.decode(
            _fetch(options, f"/traces/{urllib.parse.quote(options.id, safe='')}"), type=list[Span]
        )
        return Answer(spans, waterfall(spans))
    found = msgspec.json.decode(_fetch(options, f"/traces?last={options.last}"), type=list[TraceSummary])
    rows = [
        (
            _time(one.start_ns),
            one.trace_id,
            f"{one.duration_ms:.1f} ms",
            one.spans,
            one.errors,
            one.name,
            _services(one),
        )
        for one in found
    ]
    return Answer(found, output.table(("TIME", "TRACE", "DURATION", "SPANS", "ERRORS", "ROOT", "SERVICES"), rows))


def _fetch(options: argparse.Namespace, path: str) -> bytes:
    """Return the receiver's answer. Raises Stop."""
    url = options.traces.rstrip("/") + path
    if not url.startswith(("http://", "https://")):
        raise Stop(Exit.USAGE, f"{options.traces!r} is no URL: write FAIRLEAD_TRACES=http://host:4318")
    try:
        with _DIRECT.open(url, timeout=options.timeout or _TIMEOUT_S) as answer:
            body: bytes = answer.read(_MAX_ANSWER_BYTES)
            return body
    except urllib.error.HTTPError as error:
        raise Stop(Exit.NO if error.code == 404 else Exit.USAGE, _reason(error.read(65536), error.code)) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        hint = "start it with `python -m clients.otlp`, or set FAIRLEAD_TRACES=http://host:4318"
        raise Stop(Exit.NO_BUS, f"no trace receiver answers at {options.traces} ({error}): {hint}") from error


def _reason(body: bytes, code: int) -> str:
    try:
        return str(msgspec.json.decode(body, type=dict[str, str])["error"])
    except (msgspec.DecodeError, KeyError):
        return f"the trace receiver answered with status {code}"


def waterfall(spans: Sequence[Span]) -> str:
    """Return the spans as a tree with bars on one time axis; spans whose parent is not here stand at the left."""
    if not spans:
        return "no spans"
    start, end = min(span.start_ns for span in spans), max(span.end_ns for span in spans)
    services = sorted({_short(span.service) for span in spans})
    head = f"trace {spans[0].trace_id}  {_time(start)}  {(end - start) / 1e6:.1f} ms  {len(spans)} spans  {', '.join(services)}"
    rows = [_line(span, depth, start, max(end - start, 1)) for depth, span in tree(spans)]
    return f"{head}\n{output.table(('START', 'TOOK', '', 'SERVICE', 'SPAN'), rows)}"


def tree(spans: Sequence[Span]) -> Iterator[tuple[int, Span]]:
    """Yield every span once with its depth, children after their parent, by time; a ring of parents is cut."""
    known = {span.span_id for span in spans}
    children: dict[str, list[Span]] = {}
    for span in sorted(spans, key=lambda span: (span.start_ns, span.span_id)):
        children.setdefault(span.parent_id if span.parent_id in known else "", []).append(span)
    seen: set[str] = set()
    for start in ("", *sorted(children)):  # what a ring keeps from the roots comes last
        stack = [(0, span) for span in reversed(children.get(start, []))]
        while stack:
            depth, span = stack.pop()
            if span.span_id not in seen:
                seen.add(span.span_id)
                yield depth, span
                stack.extend((depth + 1, child) for child in reversed(children.get(span.span_id, [])))


def _line(span: Span, depth: int, start_ns: int, total_ns: int) -> tuple[object, ...]:
    offset, took = (span.start_ns - start_ns) / 1e6, (span.end_ns - span.start_ns) / 1e6
    who = _short(span.service) + (f"@{span.instance}" if span.instance else "")
    wrong = f"  ERROR: {span.error}" if span.error else ""
    return (
        f"{offset:.1f}",
        f"{took:.1f} ms",
        bar(span, start_ns, total_ns),
        who,
        "  " * depth + span.name + _facts(span) + wrong,
    )


def bar(span: Span, start_ns: int, total_ns: int) -> str:
    """Return the span's place on the time axis, at least one mark wide."""
    first = min((span.start_ns - start_ns) * _BAR_COLUMNS // total_ns, _BAR_COLUMNS - 1)
    width = max(1, (span.end_ns - span.start_ns) * _BAR_COLUMNS // total_ns)
    return ("." * first + "=" * min(width, _BAR_COLUMNS - first)).ljust(_BAR_COLUMNS, ".")


def _facts(span: Span) -> str:
    """Return the attributes that are ours; those of the messaging conventions repeat what the name says."""
    ours = [f"{key}={value}" for key, value in sorted(span.attributes.items()) if not key.startswith("messaging.")]
    return f"  [{' '.join(ours)}]" if ours else ""


def _short(service: str) -> str:
    return service.removeprefix("fairlead-") or "unknown"


def _services(one: TraceSummary) -> tuple[str, ...]:
    return tuple(map(_short, one.services))


def _time(ns: int) -> str:
    return datetime.fromtimestamp(ns / 1e9, UTC).astimezone().strftime("%H:%M:%S.%f")[:-3]


def register(commands: command.Subcommands) -> None:
    """Declare `trace`."""
    example = "fairlead trace 0af7651916cd43dd8448eb211c80319c"
    parser = command.add(commands, "trace", None, "show a trace as a waterfall, or list the newest", example)
    parser.add_argument(
        "id", nargs="?", default="", metavar="ID", help="trace id or its beginning; default: list traces"
    )
    parser.add_argument("--last", type=int, default=20, metavar="N", help="how many to list (%(default)s)")
    default = os.environ.get("FAIRLEAD_TRACES", _DEFAULT)
    parser.add_argument("--traces", default=default, metavar="URL", help="the receiver (FAIRLEAD_TRACES, %(default)s)")
    parser.set_defaults(run=run, bus=False)
