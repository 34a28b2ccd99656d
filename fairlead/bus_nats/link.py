"""What buckets and servers need of the connection, and what the absence of a server looks like."""

from __future__ import annotations

from typing import Protocol

import nats.errors
import nats.js.errors
from nats.aio.client import Client
from nats.js import JetStreamContext

ABSENT = (nats.errors.Error, nats.js.errors.Error, OSError, TimeoutError)
"""What nats-py raises when the server, the hub or the one who should answer is away."""


class Link(Protocol):
    """One connection to the nearest server."""

    name: str
    """Who we are on the bus."""
    domain: str
    """The JetStream domain of the hub; empty when our server has JetStream itself."""

    async def client(self, timeout_s: float) -> Client:
        """Return the connected client. Raises Unavailable when there is none in time."""

    async def joined(self) -> Client:
        """Return the client once it was connected, even if it is not now: what it subscribes to is heard from when it is back."""

    async def jetstream(self) -> JetStreamContext:
        """Return the JetStream of the hub. Raises Unavailable."""

    async def send(self, subject: str, data: bytes, headers: dict[str, str], *, durable: bool) -> None:
        """Send bytes; `durable` waits for JetStream's acknowledgement. Raises Unavailable."""
