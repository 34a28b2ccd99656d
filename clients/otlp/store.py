"""The newest traces, in memory and in a file of JSON lines, one span per line.

The file is read again at start and rewritten when it has grown to twice what memory holds, so that neither grows without bound.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable
from pathlib import Path

import msgspec

from clients.otlp.spans import Span, TraceSummary, summary
from fairlead.errors import InvalidInput, NotFound

_LOG = logging.getLogger(__name__)
_MIN_PREFIX = 4
_REWRITE_AFTER_LINES = 1000


class TraceStore:
    """Keeps the newest `keep` traces of at most `spans_per_trace` spans each; safe to call from several threads.

    A span that comes twice (exporters retry) is kept once. Without `path` nothing is written.
    """

    def __init__(self, path: Path | None, *, keep: int = 1000, spans_per_trace: int = 5000) -> None:
        self._path, self._keep, self._spans_per_trace = path, keep, spans_per_trace
        self._traces: dict[str, dict[str, Span]] = {}
        self._lock = threading.Lock()
        self._lines = 0
        if path and path.exists():
            self._load(path)

    def add(self, spans: Iterable[Span]) -> int:
        """Keep the spans, and return how many of them were new. Raises OSError when the file cannot be written."""
        with self._lock:
            new = [span for span in spans if self._insert(span)]
            if new and self._path:
                self._append(self._path, new)
            return len(new)

    def traces(self, last: int = 20) -> list[TraceSummary]:
        """Return the `last` traces that were heard of most recently, newest first."""
        with self._lock:
            newest = list(self._traces.values())[-last:][::-1] if last > 0 else []
            return [summary(list(spans.values())) for spans in newest]

    def trace(self, prefix: str) -> list[Span]:
        """Return the spans of the trace whose id begins with `prefix`, by time. Raises NotFound, InvalidInput if several do."""
        with self._lock:
            found = [trace for trace in self._traces if trace.startswith(prefix.lower())]
            if not found or len(prefix) < _MIN_PREFIX:
                raise NotFound(f"no trace {prefix!r} here: list the newest, or raise --keep of the receiver")
            if len(found) > 1:
                raise InvalidInput(f"{prefix!r} begins {len(found)} trace ids: give more digits")
            return sorted(self._traces[found[0]].values(), key=lambda span: (span.start_ns, -span.end_ns))

    def _insert(self, span: Span) -> bool:
        spans = self._traces.pop(span.trace_id, {})
        self._traces[span.trace_id] = spans  # popped and set: the order of the dict is the order of news
        while len(self._traces) > self._keep:
            del self._traces[next(iter(self._traces))]
        if span.span_id in spans or len(spans) >= self._spans_per_trace:
            return False
        spans[span.span_id] = span
        return True

    def _load(self, path: Path) -> None:
        bad = 0
        with path.open("rb") as file:
            for line in file:
                try:
                    self._insert(msgspec.json.decode(line, type=Span))
                except (msgspec.DecodeError, UnicodeDecodeError):
                    bad += 1  # a line cut short by a crash is expected; it must not cost the others
        if bad:
            _LOG.warning("%s: %d unreadable lines left out", path, bad)
        self._rewrite(path)

    def _append(self, path: Path, spans: list[Span]) -> None:
        held = sum(len(trace) for trace in self._traces.values())
        if self._lines > _REWRITE_AFTER_LINES and self._lines > 2 * held:
            self._rewrite(path)
            return
        with path.open("ab") as file:
            file.writelines(msgspec.json.encode(span) + b"\n" for span in spans)
        self._lines += len(spans)

    def _rewrite(self, path: Path) -> None:
        fresh = path.with_name(path.name + ".new")
        spans = [span for trace in self._traces.values() for span in trace.values()]
        with fresh.open("wb") as file:
            file.writelines(msgspec.json.encode(span) + b"\n" for span in spans)
        fresh.replace(path)
        self._lines = len(spans)
