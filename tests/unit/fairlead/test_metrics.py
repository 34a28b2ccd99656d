"""Metrics leave the process when an endpoint for them is set, and not to a receiver of traces alone."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

PROGRAM = """
from opentelemetry import metrics
from fairlead import telemetry
telemetry.setup("policy", "p1")
telemetry.gauge("fairlead.policy.audited", lambda: {"document": 2.0}, unit="{audit}", summary="audits")
getattr(metrics.get_meter_provider(), "force_flush", lambda: None)()
"""


class Receiver(HTTPServer):
    """Keeps what is posted to it, by path."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.posted: dict[str, bytes] = {}


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert isinstance(self.server, Receiver)
        self.server.posted[self.path] = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    server = Receiver()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("environment", "arrives"),
    [
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "{url}/v1/metrics"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "{url}", "OTEL_METRICS_EXPORTER": "otlp"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "{url}"}, False),
    ],
)
def test_a_gauge_is_exported(receiver: Receiver, environment: dict[str, str], *, arrives: bool) -> None:
    url = f"http://127.0.0.1:{receiver.server_address[1]}"
    variables = {name: text.format(url=url) for name, text in environment.items()}
    subprocess.run([sys.executable, "-c", PROGRAM], env=variables, check=True, timeout=50)
    assert (b"fairlead.policy.audited" in receiver.posted.get("/v1/metrics", b"")) == arrives
