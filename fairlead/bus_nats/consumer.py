"""The ephemeral ordered consumer behind a watch, and how far the watch has come."""

from __future__ import annotations

import asyncio
import contextlib

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, ConsumerInfo, DeliverPolicy, StreamInfo

from fairlead.bus_nats.link import ABSENT
from fairlead.errors import Unavailable

_HEARTBEAT_S = 2.0

Inbox = asyncio.Queue[Msg | None]
"""What the consumer delivers; None: the keys of the watch are others now."""


class Position:
    """How far a watch has come, and in which stream."""

    def __init__(self) -> None:
        self.stream = ""
        self.sequence = 0
        self.synced = False
        self.complete = False
        self.listed: frozenset[str] | None = None
        """The keys whose rows were listed; None: all."""
        self.fetched: dict[str, int] = {}
        """The sequence of rows that were asked for, not delivered: what the consumer has of their keys up to there is old."""

    def fits(self, stream: str, last: int) -> bool:
        """Tell whether the watch can go on where it was: same stream, listing finished, history not behind us."""
        return self.synced and stream == self.stream and last >= self.sequence

    def restart(self, stream: str, listed: frozenset[str] | None) -> None:
        """Begin anew in `stream`, with a listing of these keys."""
        self.stream, self.sequence, self.synced, self.complete = stream, 0, False, False
        self.listed, self.fetched = listed, {}


class Consumer:
    """One ephemeral consumer and our subscription to it."""

    def __init__(self, js: JetStreamContext, stream: str, subscription: Subscription, config: ConsumerConfig) -> None:
        self._js = js
        self._stream = stream
        self._subscription = subscription
        self._config = config
        self._born = ""
        self.pending = 0
        """How many messages it had to deliver when it was made, those already under way included."""

    @classmethod
    async def open(
        cls, client: Client, js: JetStreamContext, stream: str, inbox: Inbox, subjects: list[str], after: int | None
    ) -> Consumer:
        """Deliver these subjects to the inbox: what came after that sequence, or the last of each and then what comes."""
        deliver = client.new_inbox()
        subscription = await client.subscribe(deliver, cb=inbox.put)
        consumer = cls(js, stream, subscription, _config(deliver, subjects, after))
        try:
            info = await consumer._state()
        except BaseException:
            await subscription.unsubscribe()
            raise
        consumer._config.name, consumer._born = info.name, created(info)
        consumer.pending = (info.num_pending or 0) + (info.delivered.consumer_seq if info.delivered else 0)
        return consumer

    async def deliver(self, subjects: list[str]) -> None:
        """Deliver these subjects from now on; nothing of before. Raises Unavailable when the consumer is gone."""
        if subjects != self._config.filter_subjects:
            self._config.filter_subjects = subjects
            info = await self._state()
            if created(info) != self._born:
                raise Unavailable(f"the consumer of {self._stream} was gone")

    async def _state(self) -> ConsumerInfo:
        """Have the server make the consumer as configured, or change the one it has."""
        return await self._js.add_consumer(self._stream, self._config)

    async def close(self) -> None:
        """Unsubscribe, and remove the consumer if the hub answers."""
        with contextlib.suppress(*ABSENT):
            await self._subscription.unsubscribe()
            async with asyncio.timeout(0.5):
                await self._js.delete_consumer(self._stream, str(self._config.name))


def _config(deliver: str, subjects: list[str], after: int | None) -> ConsumerConfig:
    return ConsumerConfig(
        deliver_subject=deliver,
        deliver_policy=DeliverPolicy.LAST_PER_SUBJECT if after is None else DeliverPolicy.BY_START_SEQUENCE,
        opt_start_seq=None if after is None else after + 1,
        filter_subjects=subjects,
        ack_policy=AckPolicy.NONE,
        max_deliver=1,
        mem_storage=True,
        num_replicas=1,
        idle_heartbeat=_HEARTBEAT_S,
        flow_control=True,
        inactive_threshold=30.0,
    )


def created(info: ConsumerInfo | StreamInfo) -> str:
    """Return when it was made, which tells it from another of the same name."""
    return str(getattr(info, "created", ""))  # a datetime or text, depending on the client's version
