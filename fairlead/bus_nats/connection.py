"""One connection to the nearest NATS server, kept for ever."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import nats
import nats.errors
import nats.js.errors
import nkeys
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext

from fairlead import codec, telemetry
from fairlead.bus import Bucket, Route
from fairlead.bus_nats import wire
from fairlead.bus_nats.bucket import NatsBucket
from fairlead.bus_nats.client import ObedientClient
from fairlead.bus_nats.link import ABSENT
from fairlead.bus_nats.serving import Server
from fairlead.errors import FairleadError, Unavailable
from fairlead.schema.base import BucketSpec, Delivery, Message, NodeName, Row, Topic

M = TypeVar("M", bound=Message)
R = TypeVar("R", bound=Message)
V = TypeVar("V", bound=Row)

_LOG = logging.getLogger(__name__)
_ACK_TIMEOUT_S = 3.0
_RETRY_S = 0.5
_MENDED_S = 5.0
"""How often a credential that cannot be used is looked at again."""


class NatsBus:
    """The bus over one NATS connection, which is made in the background and made again whenever it is lost."""

    def __init__(self, url: str, *, name: str, domain: str = "", seed_file: str = "", authority: str = "") -> None:
        self._url = url
        self.name = name
        """Who we are on the bus."""
        self.domain = domain
        """The JetStream domain of the hub; empty when our server has JetStream itself."""
        self._options: dict[str, Any] = {}
        if seed_file:
            # a credential may listen to answers below its own name only, and its file is called by that name
            self._options = {"nkeys_seed": seed_file, "inbox_prefix": f"_INBOX.{Path(seed_file).stem}"}
        if authority:
            self._options["tls"] = ssl.create_default_context(cafile=authority)
            logging.getLogger("asyncio").addFilter(_worth_telling)
        self._seed_file = seed_file
        self._trouble = ""
        """Why there can be no connection whether or not a server answers."""
        self._nc = ObedientClient()
        self._ready = asyncio.Event()
        self._connecting: asyncio.Task[None] | None = None
        self._servers: list[Server] = []
        self._followers: set[asyncio.Task[None]] = set()

    @property
    def connected(self) -> bool:
        """Tell whether the nearest server answers now."""
        return bool(self._nc.is_connected)

    def start(self) -> None:
        """Begin to connect, without waiting."""
        self._connecting = asyncio.create_task(self._connect(), name="bus-connect")

    async def _connect(self) -> None:
        while not self._nc.is_connected:
            try:
                await self._nc.connect(
                    servers=[self._url],
                    name=self.name,
                    max_reconnect_attempts=-1,
                    reconnect_time_wait=0.2,  # type: ignore[arg-type] # sleeps for it, so fractions work
                    connect_timeout=2,
                    ping_interval=5,
                    max_outstanding_pings=2,
                    error_cb=self._on_error,
                    **self._options,
                )
            except ABSENT as error:
                _LOG.info("bus %s is not there yet (%s), waiting", self._url, error)
                await asyncio.sleep(_RETRY_S)  # noqa: TID251 - the connection has no clock of its own
            except (nkeys.NkeysError, ValueError) as error:
                self._trouble = f"{self._seed_file} is no credential ({type(error).__name__}): issue it again"
                _LOG.error("bus: %s", self._trouble)
                await asyncio.sleep(_MENDED_S)  # noqa: TID251 - same
        self._trouble = ""
        self._ready.set()

    async def _on_error(self, error: Exception) -> None:
        if not isinstance(error, nats.errors.StaleConnectionError | OSError | nats.errors.UnexpectedEOF):
            _LOG.warning("bus: %s", error or type(error).__name__)

    async def client(self, timeout_s: float) -> Client:
        """Return the connected client. Raises Unavailable when there is none in time."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._ready.wait()
        except TimeoutError as error:
            absent = f"no NATS server answers at {self._url}: is it running, is the address right?"
            raise Unavailable(self._trouble or absent) from error
        if not self._nc.is_connected:
            raise Unavailable(f"the connection to {self._url} is lost; it is being made again")
        return self._nc

    async def joined(self) -> Client:
        """Return the client once it was connected, even if it is not now: what it subscribes to is heard from when it is back."""
        await self._ready.wait()
        return self._nc

    async def jetstream(self) -> JetStreamContext:
        """Return the JetStream of the hub."""
        client = await self.client(_ACK_TIMEOUT_S)
        return client.jetstream(domain=self.domain or None, timeout=_ACK_TIMEOUT_S)

    async def publish(self, topic: Topic[M, Any], message: M, *, node: NodeName | None = None) -> None:
        """Send and forget; for `evt` topics wait until JetStream has it. Raises Unavailable."""
        subject = topic.on(node)
        with (
            telemetry.span(f"send {topic.subject}", kind=telemetry.PRODUCER, messaging__system="nats")
            if topic.delivery is Delivery.EVENT
            else contextlib.nullcontext()
        ):
            await self.send(
                subject, codec.encode(message), wire.headers(self.name), durable=topic.delivery is Delivery.EVENT
            )

    async def send(self, subject: str, data: bytes, headers: dict[str, str], *, durable: bool) -> None:
        """Send bytes; `durable` waits for JetStream's acknowledgement. Raises Unavailable."""
        try:
            if durable:
                await (await self.jetstream()).publish(subject, data, headers=headers, timeout=_ACK_TIMEOUT_S)
            else:
                await (await self.client(0.1)).publish(subject, data, headers=headers)
        except ABSENT as error:
            raise Unavailable(
                f"{subject}: the bus did not take the message ({error or type(error).__name__})"
            ) from error

    async def request(
        self, topic: Topic[M, R], message: M, *, node: NodeName | None = None, timeout_s: float = 5.0
    ) -> R:
        """Ask, and return the reply. Raises what the handler raised, or Unavailable when nobody answers in time."""
        subject = topic.on(node)
        with telemetry.span(f"request {topic.subject}", kind=telemetry.CLIENT, messaging__system="nats"):
            client = await self.client(min(timeout_s, 3.0))
            try:
                reply = await client.request(
                    subject, codec.encode(message), timeout=timeout_s, headers=wire.headers(self.name)
                )
            except nats.errors.NoRespondersError as error:
                raise Unavailable(f"{subject}: nobody serves this now (service absent)") from error
            except ABSENT as error:
                raise Unavailable(f"{subject}: no answer within {timeout_s:g} s") from error
        return wire.read_reply(reply, topic.reply)

    async def gather(
        self, topic: Topic[M, R], message: M, *, node: NodeName | None = None, wait_s: float = 0.5
    ) -> list[R]:
        """Ask everybody, and return the replies of the next `wait_s` seconds."""
        client = await self.client(3.0)
        inbox = client.new_inbox()
        replies: list[R] = []

        async def collect(message: Msg) -> None:
            with contextlib.suppress(FairleadError):  # one sick replier must not hide the others
                replies.append(wire.read_reply(message, topic.reply))

        subscription = await client.subscribe(inbox, cb=collect)
        await client.publish(topic.on(node), codec.encode(message), reply=inbox, headers=wire.headers(self.name))
        await asyncio.sleep(wait_s)  # noqa: TID251 - waiting is what was asked for
        await subscription.unsubscribe()
        return replies

    async def serve(self, service: str, routes: Sequence[Route], *, shared: bool = True) -> None:
        """Answer requests and take events; see `fairlead.bus.Bus.serve`."""
        server = Server(self, service, shared=shared)
        self._servers.append(server)
        await server.start(routes)
        with contextlib.suppress(*ABSENT):
            await self._nc.flush()  # from here on the nearest server knows

    async def follow(
        self, topic: Topic[M, Any], handler: Callable[[M], Awaitable[None]], *, node: NodeName | None = None
    ) -> None:
        """Call `handler` with every message published from now on; see `fairlead.bus.Bus.follow`."""
        subject = topic.on(node) if node or not topic.names_speaker else f"{topic.subject}.*"
        await self._ready.wait()

        async def read(message: Msg) -> None:
            try:
                await handler(
                    codec.decode(message.data, topic.message, content_type=wire.header(message, "Content-Type"))
                )
            except FairleadError as error:
                _LOG.warning("%s: ignored a message: %s", message.subject, error.message)

        await self._nc.subscribe(subject, cb=read)

    def bucket(self, spec: BucketSpec[V]) -> Bucket[V]:
        """Return the bucket; nothing is sent before it is used."""
        return NatsBucket(self, spec)

    async def close(self) -> None:
        """Finish what is being handled, and disconnect."""
        if self._connecting:
            self._connecting.cancel()
        for server in self._servers:
            await server.stop()
        with contextlib.suppress(*ABSENT):
            if not self._trouble:  # what never began to connect cannot be closed
                await self._nc.close()


def _worth_telling(record: logging.LogRecord) -> bool:
    """Leave out what asyncio says at the end of each connection that began without TLS, as NATS's do; nothing follows from it."""
    return "eof_received" not in str(record.msg)


@contextlib.asynccontextmanager
async def connect(
    url: str, *, name: str, domain: str = "", seed_file: str = "", authority: str = ""
) -> AsyncIterator[NatsBus]:
    """Give a bus that is being connected, and close it at the end."""
    bus = NatsBus(url, name=name, domain=domain, seed_file=seed_file, authority=authority)
    bus.start()
    try:
        yield bus
    finally:
        await bus.close()
