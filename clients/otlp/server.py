"""OTLP/HTTP on the way in, JSON on the way out.

`POST /v1/traces` takes protobuf, plain or gzip; `GET /traces?last=N`, `GET /traces/<id or its beginning>` and `GET /healthz` answer
JSON. Anything that cannot be used is answered with a reason and leaves no trace in the store.
"""

from __future__ import annotations

import logging
import socket
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import msgspec
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from clients.otlp.spans import Span, decode
from clients.otlp.store import TraceStore
from fairlead.errors import InvalidInput, NotFound

MAX_BODY_BYTES = 16 * 1024 * 1024
_TIMEOUT_S = 30
_LOG = logging.getLogger(__name__)
_PROTOBUF = "application/x-protobuf"


class Receiver(ThreadingHTTPServer):
    """The server on `address` (port 0 picks a free one); `serve_forever` in a thread of your own, then `shutdown`."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], store: TraceStore) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, _Handler)
        self.store = store


def unpack_body(body: bytes, encoding: str) -> bytes:
    """Return the body without its content encoding. Raises InvalidInput, also for more than MAX_BODY_BYTES unpacked."""
    if encoding in ("", "identity"):
        return body
    if encoding != "gzip":
        raise InvalidInput(f"Content-Encoding {encoding!r} is not accepted: use gzip or none")
    unzip = zlib.decompressobj(wbits=31)
    try:
        plain = unzip.decompress(body, MAX_BODY_BYTES)
    except zlib.error as error:
        raise InvalidInput(f"the body is not gzip: {error}") from error
    if unzip.unconsumed_tail or not unzip.eof:
        raise InvalidInput(f"the gzip body is cut short, or has more than {MAX_BODY_BYTES} bytes unpacked")
    return plain


def body_length(text: str) -> int:
    """Return how many bytes a Content-Length announces. Raises InvalidInput for none and for too many."""
    if not text.isascii() or not text.isdigit():
        raise InvalidInput("Content-Length is missing or no number: chunked bodies are not accepted")
    if int(text) > MAX_BODY_BYTES:
        raise InvalidInput(f"the body has {text} bytes; at most {MAX_BODY_BYTES} are accepted: export smaller batches")
    return int(text)


class _Handler(BaseHTTPRequestHandler):
    server: Receiver
    protocol_version = "HTTP/1.1"
    timeout = _TIMEOUT_S

    def do_POST(self) -> None:
        """Take an export request."""
        try:
            self._export()
        except InvalidInput as error:
            self.close_connection = True  # the body may not have been read
            self._json(400, {"error": error.message})

    def do_GET(self) -> None:
        """Serve what is stored."""
        try:
            self._get()
        except NotFound as error:
            self._json(404, {"error": error.message})
        except InvalidInput as error:
            self._json(400, {"error": error.message})

    def _export(self) -> None:
        if self.path != "/v1/traces":
            raise InvalidInput(f"{self.path!r} takes nothing: traces go to /v1/traces, metrics and logs are not kept")
        if self.headers.get_content_type() != _PROTOBUF:
            raise InvalidInput(f"Content-Type must be {_PROTOBUF}: set OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf")
        length = body_length(self.headers.get("Content-Length", ""))
        body = self.rfile.read(length)
        if len(body) < length:
            raise InvalidInput(f"the body ended after {len(body)} of {length} bytes")
        self._keep(decode(unpack_body(body, self.headers.get("Content-Encoding", ""))))

    def _keep(self, spans: list[Span]) -> None:
        try:
            self.server.store.add(spans)
        except OSError as error:
            self._json(503, {"error": f"the spans cannot be stored: {error}"})
        else:
            self._answer(200, _PROTOBUF, ExportTraceServiceResponse().SerializeToString())

    def _get(self) -> None:
        url = urlsplit(self.path)
        if url.path == "/healthz":
            self._json(200, {"ok": True})
        elif url.path == "/traces":
            self._json(200, self.server.store.traces(_last(url.query)))
        elif url.path.startswith("/traces/"):
            self._json(200, self.server.store.trace(url.path.removeprefix("/traces/")))
        else:
            raise NotFound(f"no {url.path!r} here: /traces, /traces/<id> and /healthz are")

    def _json(self, status: int, value: object) -> None:
        self._answer(status, "application/json", msgspec.json.encode(value))

    def _answer(self, status: int, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
        """Log at debug level: one line per export would be noise."""
        _LOG.debug(format, *args)


def _last(query: str) -> int:
    text = parse_qs(query).get("last", ["20"])[0]
    if not text.isascii() or not text.isdigit() or len(text) > 6:
        raise InvalidInput(f"last={text!r}: give a number of traces")
    return int(text)
