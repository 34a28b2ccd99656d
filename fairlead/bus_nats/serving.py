"""Answering: requests as a NATS micro service, events from JetStream, what cannot be used to the dead letters."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Coroutine, Sequence

import nats.errors
import nats.js.errors
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DiscardPolicy, StreamConfig
from nats.micro.request import Request
from nats.micro.service import Service, ServiceConfig

from fairlead import __version__, codec, telemetry
from fairlead.bus import Route, check_speaker
from fairlead.bus_nats import wire
from fairlead.bus_nats.link import ABSENT, Link
from fairlead.clock import SYSTEM
from fairlead.errors import FairleadError, Unavailable
from fairlead.schema import DEAD_STREAM, EVENTS_STREAM
from fairlead.schema.base import Delivery, Message
from fairlead.schema.health import DeadLetter, dead_subject
from fairlead.tasks import stop

_LOG = logging.getLogger(__name__)
_PARALLEL = 64
_RETRY_S = 1.0
_DAY_S = 86_400.0
_KEEP_BYTES = 65_536


class Server:
    """Everything that one service answers on one connection."""

    def __init__(self, bus: Link, service: str, *, shared: bool) -> None:
        self._bus = bus
        self._service = service
        self._shared = shared
        self._slots = asyncio.Semaphore(_PARALLEL)
        self._tasks: set[asyncio.Task[None]] = set()
        self._micro: Service | None = None

    async def start(self, routes: Sequence[Route]) -> None:
        """Subscribe to all routes; the server may come and go afterwards."""
        asked = [route for route in routes if route.topic.delivery is not Delivery.EVENT]
        if asked and self._shared:
            await self._start_micro(asked)
        elif asked:
            await self._start_plain(asked)
        for route in routes:
            if route.topic.delivery is Delivery.EVENT:
                self._spawn(self._consume(route))
        if self._micro:
            # last, since it waits for the server: ten seconds long when that dies just then
            with contextlib.suppress(*ABSENT):
                await self._micro.start()

    async def stop(self) -> None:
        """Let requests in hand finish, for two seconds; then drop them."""
        if self._micro:
            with contextlib.suppress(*ABSENT):
                await self._micro.stop()
        await stop(*self._tasks)

    async def _start_micro(self, routes: Sequence[Route]) -> None:
        self._micro = Service(
            await self._bus.joined(),
            ServiceConfig(
                name=f"fairlead-{self._service}", version=__version__, description=f"Fairlead {self._service}"
            ),
        )
        for route in routes:

            async def answer(request: Request, route: Route = route) -> None:
                self._spawn(self._answer(request._msg, route))  # noqa: SLF001 - the message carries reply and headers

            name = "-".join(route.topic.subject.split(".")[1:])
            await self._micro.add_endpoint(
                name=name, subject=route.topic.on(route.node), queue_group=self._service, handler=answer
            )

    async def _start_plain(self, routes: Sequence[Route]) -> None:
        client = await self._bus.joined()
        for route in routes:

            async def answer(message: Msg, route: Route = route) -> None:
                self._spawn(self._answer(message, route))

            await client.subscribe(route.topic.on(route.node), cb=answer)

    def _spawn(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, message: Msg, route: Route) -> None:
        async with self._slots:
            try:
                body, headers = wire.body_for(message, await self._handle(message, route))
            except FairleadError as error:
                body, headers = _error_body(error), wire.error_headers(error)
                if not message.reply:
                    await self._bury(message, error)
            if message.reply:
                with contextlib.suppress(*ABSENT):  # the asker is gone, or so is the server: nobody to tell
                    await (await self._bus.client(1.0)).publish(message.reply, body, headers=headers)

    async def _handle(self, message: Msg, route: Route) -> Message:
        topic = route.topic
        with telemetry.span(
            f"process {topic.subject}",
            parent=wire.header(message, "traceparent"),
            kind=telemetry.SERVER if message.reply else telemetry.CONSUMER,
            messaging__system="nats",
            messaging__destination__template=topic.subject,
        ) as span:
            try:
                ask = codec.decode(message.data, topic.message, content_type=wire.header(message, "Content-Type"))
                check_speaker(route, message.subject, ask)
                reply: Message = await route.handler(ask)
            except FairleadError as error:
                telemetry.failed(span, error.message)
                raise
            except Exception as error:
                _LOG.exception("%s: the handler failed", message.subject)
                telemetry.failed(span, repr(error))
                raise FairleadError(f"{topic.subject}: internal error, see the service's log") from error
        return reply

    async def _bury(self, message: Msg, error: FairleadError) -> None:
        """Keep a message that could not be used, with the reason."""
        letter = DeadLetter(
            subject=message.subject,
            reason=error.message,
            code=error.code,
            time=SYSTEM.now(),
            data=message.data[:_KEEP_BYTES],
            trace=wire.header(message, "traceparent"),
        )
        _LOG.warning("%s: unusable: %s", message.subject, error.message)
        try:
            await self._ensure_stream(await self._bus.jetstream(), DEAD_STREAM, "fairlead.dead.>", max_messages=10_000)
            await self._bus.send(
                dead_subject(self._service), codec.encode(letter), wire.headers(self._bus.name), durable=True
            )
        except (*ABSENT, Unavailable) as lost:
            _LOG.error("dead letter of %s could not be kept: %s", message.subject, lost)

    async def _consume(self, route: Route) -> None:
        """Take events one by one for ever; each is acknowledged once it is committed or buried."""
        while True:
            try:
                js = await self._bus.jetstream()
                await self._ensure_stream(js, EVENTS_STREAM, "fairlead.evt.>", max_messages=1_000_000)
                await self._pull(js, route)
            except (*ABSENT, Unavailable) as error:
                _LOG.info("%s: waiting for the event stream (%s)", route.topic.subject, error or type(error).__name__)
                await SYSTEM.sleep(_RETRY_S)

    async def _pull(self, js: JetStreamContext, route: Route) -> None:
        durable = f"{self._service}-" + "-".join(route.topic.subject.split(".")[3:])
        config = ConsumerConfig(
            durable_name=durable, ack_policy=AckPolicy.EXPLICIT, ack_wait=30, filter_subject=route.topic.on(route.node)
        )
        subscription = await js.pull_subscribe(
            route.topic.on(route.node), durable=durable, stream=EVENTS_STREAM, config=config
        )
        try:
            while True:
                with contextlib.suppress(nats.errors.TimeoutError):
                    for message in await subscription.fetch(1, timeout=5, heartbeat=1):
                        await self._take(message, route)
        finally:
            with contextlib.suppress(*ABSENT):
                await subscription.unsubscribe()

    async def _take(self, message: Msg, route: Route) -> None:
        try:
            await self._handle(message, route)
        except Unavailable as error:
            _LOG.info("%s: again in a second (%s)", message.subject, error.message)
            await message.nak(delay=_RETRY_S)
            return
        except FairleadError as error:
            await self._bury(message, error)
        await message.ack()

    async def _ensure_stream(self, js: JetStreamContext, name: str, subjects: str, *, max_messages: int) -> None:
        try:
            await js.stream_info(name)
        except nats.js.errors.NotFoundError:
            await js.add_stream(
                StreamConfig(
                    name=name, subjects=[subjects], max_age=7 * _DAY_S, max_msgs=max_messages, discard=DiscardPolicy.OLD
                )
            )


def _error_body(error: FairleadError) -> bytes:
    """Return the error once more as a readable body, for clients that show bodies only."""
    return json.dumps({"error": error.message, "code": error.code}).encode()
