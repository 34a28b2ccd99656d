"""Buckets of state: JetStream KV, with a watch that survives the connection, the hub and the bucket itself.

The watch is an ephemeral ordered consumer. It resumes from the last sequence it saw while the stream is the same one, so an
outage of the hub costs a node only what changed meanwhile; a bucket that was made anew is listed from the start.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Callable
from typing import Generic, TypeVar

import nats.errors
import nats.js.errors
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import DiscardPolicy, RawStreamMsg, StorageType, StreamConfig

from fairlead import codec
from fairlead.bus import BucketEvent, Changed, Deleted, Keys, Restarted, Synced
from fairlead.bus_nats import wire
from fairlead.bus_nats.consumer import Consumer, Inbox, Position, created
from fairlead.bus_nats.link import ABSENT, Link
from fairlead.clock import SYSTEM
from fairlead.errors import InvalidInput, Unavailable
from fairlead.schema.base import BucketSpec, Row

V = TypeVar("V", bound=Row)

_LOG = logging.getLogger(__name__)
_COMPLETE = "_complete"
_SILENCE_S = 5.0
"""No message and no heartbeat for so long: the consumer is gone."""
_RETRY_S = 0.5
_OPERATION = "KV-Operation"
_GONE = (_OPERATION, "Nats-Marker-Reason")
"""Headers of a message that is no row."""
_AT_ONCE = 32
"""How many rows are asked for together."""


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
        return created(info)

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
            found = await self._last(await self._bus.jetstream(), key)
        except ABSENT as error:
            raise self._absent(error) from error
        return None if found is None or _is_gone(found) else codec.decode(found.data or b"", self.spec.row)

    async def _last(self, js: JetStreamContext, key: str) -> RawStreamMsg | None:
        """Return the last message of the key. The stream has one replica, so whoever answers knows the newest."""
        try:
            return await js.get_last_msg(self._stream, self._prefix + key, direct=True)
        except nats.js.errors.NotFoundError:
            return None

    async def rows(self) -> dict[str, V]:
        """Return every row. Raises Unavailable."""
        await self.ensure()
        rows: dict[str, V] = {}
        async with contextlib.aclosing(self._listing(Keys())) as events:
            async for event in events:
                if isinstance(event, Changed):
                    try:
                        rows[event.key] = event.row
                    except InvalidInput as error:
                        _LOG.error("bucket %s: row %s cannot be read: %s", self.spec.name, event.key, error.message)
                elif isinstance(event, Synced):
                    break
        return rows

    async def watch(self, keys: Keys | None = None) -> AsyncGenerator[BucketEvent[V], None]:
        """Yield Restarted, the rows, Synced, then every change, without end; see `fairlead.bus.Bucket.watch`."""
        resume = Position()
        while True:
            try:
                async with contextlib.aclosing(self._listing(keys or Keys(), resume)) as events:
                    async for event in events:
                        yield event
            except (*ABSENT, Unavailable) as error:
                _LOG.debug("watch of %s: %s; again", self.spec.name, error or type(error).__name__)
            await SYSTEM.sleep(_RETRY_S)

    async def _listing(self, keys: Keys, resume: Position | None = None) -> AsyncGenerator[BucketEvent[V], None]:
        """Follow one consumer until it fails; begins where `resume` ended if the stream is still the same."""
        position = resume if resume is not None else Position()
        js = await self._bus.jetstream()
        info = await js.stream_info(self._stream)
        after = position.sequence if position.fits(created(info), info.state.last_seq) else None
        inbox: Inbox = asyncio.Queue()
        with keys.telling(lambda: inbox.put_nowait(None)):
            wanted, client = keys.wanted, await self._bus.client(1.0)
            consumer = await Consumer.open(client, js, self._stream, inbox, self._subjects(wanted), after)
            try:
                if after is None:
                    position.restart(created(info), wanted)
                    yield Restarted(wanted)
                    if consumer.pending == 0:
                        position.synced = True
                        yield Synced(complete=False)
                async for event in self._receive(inbox, position, lambda: self._adapt(js, consumer, keys, position)):
                    yield event
            finally:
                await consumer.close()

    def _subjects(self, keys: frozenset[str] | None) -> list[str]:
        return [self._prefix + key for key in ((">",) if keys is None else (*sorted(keys), _COMPLETE))]

    async def _adapt(
        self, js: JetStreamContext, consumer: Consumer, keys: Keys, position: Position
    ) -> AsyncGenerator[BucketEvent[V], None]:
        """Follow what is wanted now: the consumer delivers what changes from here on, and the rows themselves are asked for."""
        wanted = keys.wanted
        await consumer.deliver(self._subjects(wanted))
        if wanted is None or position.listed is None:
            return
        new = sorted(wanted - position.listed)
        position.fetched = {key: last for key, last in position.fetched.items() if key in wanted}
        for begin in range(0, len(new), _AT_ONCE):
            some = new[begin : begin + _AT_ONCE]
            for key, found in zip(some, await asyncio.gather(*(self._last(js, key) for key in some)), strict=True):
                if found is not None:
                    position.fetched[key] = found.seq or 0
                    yield Deleted(key) if _is_gone(found) else Changed(key, found.data or b"", self.spec.row)
                elif position.complete:
                    yield Deleted(key)
        position.listed = wanted

    async def _receive(
        self, inbox: Inbox, position: Position, adapt: Callable[[], AsyncGenerator[BucketEvent[V], None]]
    ) -> AsyncGenerator[BucketEvent[V], None]:
        """Yield what is delivered. The keys are adapted to what is wanted once the listing is over, not amid it."""
        expected = 1
        inbox.put_nowait(None)
        while True:
            async with asyncio.timeout(_SILENCE_S):  # not wait_for: before Python 3.12 it can swallow a cancellation
                message = await inbox.get()
            if message is None:
                if position.synced:
                    async for change in adapt():
                        yield change
                continue
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
                inbox.put_nowait(None)

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
        if position.sequence <= position.fetched.get(key, 0):
            return None
        return Deleted(key) if _is_gone(message) else Changed(key, message.data, self.spec.row)

    def _absent(self, error: BaseException) -> Unavailable:
        return Unavailable(f"bucket {self.spec.name}: the hub does not answer ({error or type(error).__name__})")


def _is_gone(message: Msg | RawStreamMsg) -> bool:
    """Tell whether the message says that there is no row."""
    return any((message.headers or {}).get(name) for name in _GONE)
