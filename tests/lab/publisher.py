"""Another system: a plain NATS client that knows nothing of Fairlead but a subject and JSON.

    FAIRLEAD_NATS=url FAIRLEAD_NATS_CREDENTIALS=name.nk FAIRLEAD_NATS_AUTHORITY=authority.crt python publisher.py SUBJECT < message.json

Publishes through JetStream with a trace context of its own, and prints the trace id, when it published and when JetStream had it.
"""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import sys
import time
from pathlib import Path

import nats
from opentelemetry import propagate
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor


async def publish(subject: str, body: bytes, provider: TracerProvider) -> dict[str, object]:
    """Publish `body`, and return what there is to know of it."""
    seed = os.environ["FAIRLEAD_NATS_CREDENTIALS"]
    connection = await nats.connect(
        os.environ["FAIRLEAD_NATS"],
        nkeys_seed=seed,
        inbox_prefix=f"_INBOX.{Path(seed).stem}",  # where this credential may listen
        tls=ssl.create_default_context(cafile=os.environ["FAIRLEAD_NATS_AUTHORITY"]),
    )
    with provider.get_tracer("other-system").start_as_current_span(f"publish {subject}") as span:
        headers = {"Content-Type": "application/json"}
        propagate.inject(headers)
        published_s = time.monotonic()
        await connection.jetstream().publish(subject, body, headers=headers)
        acknowledged_ms = (time.monotonic() - published_s) * 1000
    await connection.close()
    trace = f"{span.get_span_context().trace_id:032x}"
    return {"trace": trace, "published_s": published_s, "acknowledged_ms": round(acknowledged_ms, 2)}


def main() -> None:
    """Read the message, publish it, print one line of JSON."""
    provider = TracerProvider(resource=Resource({"service.name": "other-system"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    print(json.dumps(asyncio.run(publish(sys.argv[1], sys.stdin.buffer.read(), provider))))
    provider.shutdown()


if __name__ == "__main__":
    main()
