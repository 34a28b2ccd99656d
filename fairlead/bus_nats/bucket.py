"""Buckets of state: JetStream KV, with a watch that survives the connection, the hub and the bucket itself.

The watch is an ephemeral ordered consumer. It resumes from the last sequence it saw while the stream is the same one, so an
outage of the hub costs a node only what changed meanwhile; a bucket that was made anew is listed from the start.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Sequence
from typing import Generic, TypeVar

import nats.errors
import nats.js.errors
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.js import JetStreamContext
from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    ConsumerInfo,
    DeliverPolicy,
    DiscardPolicy,
    StorageType,
    StreamConfig,
    StreamInfo,
)

from fairlead import codec
from fairlead.bus import BucketEvent, Changed, Deleted, Restarted, Synced
from fairlead.bus_nats import wire
from fairlead.bus_nats.link import ABSENT, Link
from fairlead.clock import SYSTEM
from fairlead.errors import InvalidInput, Unavailable
from fairlead.schema.base import BucketSpec, Row

V = TypeVar("V", bound=Row)

_LOG = logging.getLogger(__name__)
_COMPLETE = "_complete"
_HEARTBEAT_S = 2.0
_SILENCE_S = 5.0
"""No message and no heartbeat for so long: the consumer is gone."""
_RETRY_S = 0.5
_OPERATION = "KV-Operation"


class NatsBucket(Generic[V]):
    """One JetStream KV bucket; the stream layout is the usual one, so that `nats kv` tools can read it."""

    def __init__(self, bus: Link, spec: BucketSpec[V]) -> None:
        self._bus = bus
        self.spec = spec
        """What the bucket is."""
        self._stream = f"KV_{spec.name}"
        self._prefix = f"$KV.{spec.name}."
        # A leaf of another JetStream domain does not pass $KV on; the hub maps this subject back.
        self._put_prefix = f"$JS.{bus.domain}.API.{self._prefix}" if bus.domain else self._prefix

    async def ensure(self) -> str:
        """Create the bucket if it does not exist; return its incarnation, the time of its creation. Raises Unavailable."""
        try:
            js = await self._bus.jetstream()
            try:
                info = await js.stream_info(self._stream)
            except nats.js.errors.NotFoundError:
                info = await js.add_stream(self._config())
        except ABSENT as error:
            raise self._absent(error) from error
        return _created(info)

    def _config(self) -> StreamConfig:
        return StreamConfig(
            name=self._stream,
            description=self.spec.summary,
            subjects=[self._prefix + ">"],
            max_msgs_per_subject=1,
            max_msg_size=codec.MAX_MESSAGE_BYTES,
            storage=StorageType.FILE,
            discard=DiscardPolicy.NEW,
            allow_rollup_hdrs=True,
            deny_delete=True,
            allow_direct=True,
        )

    async def put(self, key: str, row: V) -> None:
        """Set the row. Raises Unavailable when the hub does not confirm."""
        await self._send(key, codec.encode(row), {"traceparent": row.trace} if row.trace else {})

    async def delete(self, key: str) -> None:
        """Remove the row; watchers see Deleted. Raises Unavailable."""
        await self._send(key, b"", {_OPERATION: "DEL"})

    async def mark_complete(self, revision: int) -> None:
        """Vouch that the bucket holds everything as of `revision`."""
        await self._send(_COMPLETE, str(revision).encode(), {})

    async def _send(self, key: str, data: bytes, headers: dict[str, str]) -> None:
        await self._bus.send(self._put_prefix + key, data, headers, durable=True)

    async def get(self, key: str) -> V | None:
        """Return the row, or None. Raises Unavailable."""
        try:
            js = await self._bus.jetstream()
            found = await js.get_last_msg(self._stream, self._prefix + key, direct=True)
        except nats.js.errors.NotFoundError:
            return None
        except ABSENT as error:
            raise self._absent(error) from error
        if (found.headers or {}).get(_OPERATION):
            return None
        return codec.decode(found.data or b"", self.spec.row)

    async def rows(self) -> dict[str, V]:
        """Return every row. Raises Unavailable."""
        await self.ensure()
        rows: dict[str, V] = {}
        async with contextlib.aclosing(self._listing(None)) as events:
            async for event in events:
                if isinstance(event, Changed):
                    try:
                        rows[event.key] = event.row
                    except InvalidInput as error:
                        _LOG.error("bucket %s: row %s cannot be read: %s", self.spec.name, event.key, error.message)
                elif isinstance(event, Synced):
                    break
        return rows

    async def watch(self, keys: Sequence[str] | None = None) -> AsyncGenerator[BucketEvent[V], None]:
        """Yield Restarted, the rows, Synced, then every change, without end; see `fairlead.bus.Bucket.watch`."""
        resume = Position()
        while True:
            try:
                async with contextlib.aclosing(self._listing(keys, resume)) as events:
                    async for event in events:
                        yield event
            except (*ABSENT, Unavailable) as error:
                _LOG.debug("watch of %s: %s; again", self.spec.name, error or type(error).__name__)
            await SYSTEM.sleep(_RETRY_S)

    async def _listing(
        self, keys: Sequence[str] | None, resume: Position | None = None
    ) -> AsyncGenerator[BucketEvent[V], None]:
        """Follow one consumer until it fails; begins where `resume` ended if the stream is still the same."""
        position = resume if resume is not None else Position()
        js = await self._bus.jetstream()
        info = await js.stream_info(self._stream)
        continued = position.fits(_created(info), info.state.last_seq)
        inbox: asyncio.Queue[Msg] = asyncio.Queue()
        consumer = await self._open(js, keys, position if continued else None, inbox)
        try:
            if not continued:
                position.restart(_created(info))
                yield Restarted()
                if consumer.pending == 0:
                    position.synced = True
                    yield Synced(complete=False)
            async for event in self._receive(inbox, position):
                yield event
        finally:
            await consumer.close(js)

    async def _open(
        self, js: JetStreamContext, keys: Sequence[str] | None, position: Position | None, inbox: asyncio.Queue[Msg]
    ) -> Consumer:
        client = await self._bus.client(1.0)
        subject = client.new_inbox()
        subscription = await client.subscribe(subject, cb=inbox.put)
        filters = [self._prefix + ">"] if keys is None else [self._prefix + key for key in (*sorted(keys), _COMPLETE)]
        config = ConsumerConfig(
            deliver_subject=subject,
            deliver_policy=DeliverPolicy.BY_START_SEQUENCE if position else DeliverPolicy.LAST_PER_SUBJECT,
            opt_start_seq=position.sequence + 1 if position else None,
            filter_subjects=filters,
            ack_policy=AckPolicy.NONE,
            max_deliver=1,
            mem_storage=True,
            num_replicas=1,
            idle_heartbeat=_HEARTBEAT_S,
            flow_control=True,
            inactive_threshold=30.0,
        )
        try:
            info = await js.add_consumer(self._stream, config)
        except BaseException:
            await subscription.unsubscribe()
            raise
        return Consumer(self._stream, info.name, subscription, _pending(info))

    async def _receive(self, inbox: asyncio.Queue[Msg], position: Position) -> AsyncGenerator[BucketEvent[V], None]:
        expected = 1
        while True:
            async with asyncio.timeout(_SILENCE_S):  # not wait_for: before Python 3.12 it can swallow a cancellation
                message = await inbox.get()
            if wire.header(message, "Status"):
                expected = await self._heartbeat(message, expected)
                continue
            metadata = message.metadata
            if metadata.sequence.consumer != expected:
                raise Unavailable(f"{self.spec.name}: message {expected} was lost on the way")
            expected += 1
            position.sequence = metadata.sequence.stream
            event = self._event(message, position)
            if event is not None:
                yield event
            if not position.synced and metadata.num_pending == 0:
                position.synced = True
                yield Synced(complete=position.complete)

    async def _heartbeat(self, message: Msg, expected: int) -> int:
        """Answer flow control; notice a gap from what the server says it delivered last."""
        if message.reply:
            await message.respond(b"")
        last = wire.header(message, "Nats-Last-Consumer")
        if last and int(last) >= expected:
            raise Unavailable(f"{self.spec.name}: messages up to {last} were lost on the way")
        return expected

    def _event(self, message: Msg, position: Position) -> BucketEvent[V] | None:
        key = message.subject.removeprefix(self._prefix)
        if key == _COMPLETE:
            newly = not position.complete
            position.complete = True
            return Synced(complete=True) if newly and position.synced else None
        if wire.header(message, _OPERATION) or wire.header(message, "Nats-Marker-Reason"):
            return Deleted(key)
        return Changed(key, message.data, self.spec.row)

    def _absent(self, error: BaseException) -> Unavailable:
        return Unavailable(f"bucket {self.spec.name}: the hub does not answer ({error or type(error).__name__})")


class Position:
    """How far a watch has come, and in which stream."""

    def __init__(self) -> None:
        self.stream = ""
        self.sequence = 0
        self.synced = False
        self.complete = False

    def fits(self, stream: str, last: int) -> bool:
        """Tell whether the watch can go on where it was: same stream, listing finished, history not behind us."""
        return self.synced and stream == self.stream and last >= self.sequence

    def restart(self, stream: str) -> None:
        """Begin anew in `stream`."""
        self.stream, self.sequence, self.synced, self.complete = stream, 0, False, False


class Consumer:
    """One ephemeral consumer and our subscription to it."""

    def __init__(self, stream: str, name: str, subscription: Subscription, pending: int) -> None:
        self._stream = stream
        self._name = name
        self._subscription = subscription
        self.pending = pending

    async def close(self, js: JetStreamContext) -> None:
        """Unsubscribe, and remove the consumer if the hub answers."""
        with contextlib.suppress(*ABSENT):
            await self._subscription.unsubscribe()
            async with asyncio.timeout(0.5):
                await js.delete_consumer(self._stream, self._name)


def _pending(info: ConsumerInfo) -> int:
    """Return how many messages the consumer had to deliver when it was made, those already under way included."""
    return (info.num_pending or 0) + (info.delivered.consumer_seq if info.delivered else 0)


def _created(info: StreamInfo) -> str:
    return str(getattr(info, "created", ""))  # a datetime or text, depending on the client's version
