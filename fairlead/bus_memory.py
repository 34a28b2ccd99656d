"""The bus inside one process, for tests and simulation. It passes the suite of the real one (tests/contract/test_bus.py, test_buckets.py).

Messages are encoded and decoded on the way, so that what would not survive the wire does not survive here either.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Any, Generic, TypeVar

from fairlead import codec, telemetry
from fairlead.bus import ANY_NODE, Bucket, BucketEvent, Changed, Deleted, Keys, Restarted, Route, Synced, check_speaker
from fairlead.errors import FairleadError, Unavailable
from fairlead.schema.base import BucketSpec, Delivery, Message, NodeName, Row, Topic

M = TypeVar("M", bound=Message)
R = TypeVar("R", bound=Message)
V = TypeVar("V", bound=Row)

_OTHERS = "*"
"""In place of a key: other keys are wanted."""


class Hub:
    """What every MemoryBus of one test shares; `up = False` takes it away from all of them."""

    def __init__(self) -> None:
        self.up = True
        self.routes: dict[str, list[Route]] = defaultdict(list)
        self.followers: list[tuple[str, Any]] = []
        self.dead: list[tuple[str, str]] = []
        """Service and reason of every event that could not be used."""
        self.tables: dict[str, dict[str, bytes]] = {}
        self.incarnations: dict[str, int] = defaultdict(int)
        self.complete: set[str] = set()
        self.watchers: dict[str, list[asyncio.Queue[tuple[str, bytes | None]]]] = defaultdict(list)

    def check(self) -> None:
        """Raise Unavailable while the hub is away."""
        if not self.up:
            raise Unavailable("the hub is away")

    def serving(self, topic: Topic[Any, Any], subject: str) -> list[Route]:
        """Return who handles the subject, by its name or for all nodes."""
        return [*self.routes[subject], *(self.routes[topic.on(ANY_NODE)] if topic.names_speaker else ())]

    def tell(self, bucket: str, key: str, data: bytes | None) -> None:
        """Let every watcher of the bucket know."""
        for queue in self.watchers[bucket]:
            queue.put_nowait((key, data))

    def drop_bucket(self, bucket: str) -> None:
        """Lose a bucket, as a disk failure would."""
        self.tables.pop(bucket, None)
        self.complete.discard(bucket)
        self.tell(bucket, "", None)


class MemoryBus:
    """One participant of a Hub."""

    def __init__(self, hub: Hub | None = None, name: str = "memory") -> None:
        self.hub = hub or Hub()
        self.name = name

    @property
    def connected(self) -> bool:
        """Tell whether the hub is up."""
        return self.hub.up

    async def publish(self, topic: Topic[M, Any], message: M, *, node: NodeName | None = None) -> None:
        """Hand the message to followers, and events to their service. Raises Unavailable."""
        self.hub.check()
        subject, data = topic.on(node), codec.encode(message)
        for pattern, handler in list(self.hub.followers):
            if subject == pattern or (pattern.endswith(".*") and subject.startswith(pattern[:-1])):
                await handler(codec.decode(data, topic.message))
        if topic.delivery is Delivery.EVENT:
            for route in self.hub.serving(topic, subject):
                await self._take(route, subject, data)

    async def _take(self, route: Route, subject: str, data: bytes) -> None:
        try:
            await self._handle(route, subject, data)
        except FairleadError as error:
            self.hub.dead.append((route.topic.service, error.message))

    async def _handle(self, route: Route, subject: str, data: bytes) -> Any:
        with telemetry.span(f"process {route.topic.subject}"):
            ask = codec.decode(data, route.topic.message)
            check_speaker(route, subject, ask)
            reply = await route.handler(ask)
        return codec.decode(codec.encode(reply), route.topic.reply)

    async def request(
        self, topic: Topic[M, R], message: M, *, node: NodeName | None = None, timeout_s: float = 5.0
    ) -> R:
        """Ask the first who serves the topic. Raises what the handler raised, or Unavailable."""
        self.hub.check()
        routes = self.hub.serving(topic, topic.on(node))
        if not routes:
            raise Unavailable(f"{topic.on(node)}: nobody serves this now (service absent)")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                reply: R = await self._handle(routes[0], topic.on(node), codec.encode(message))
                return reply
        raise Unavailable(f"{topic.on(node)}: no answer within {timeout_s:g} s")

    async def gather(
        self, topic: Topic[M, R], message: M, *, node: NodeName | None = None, wait_s: float = 0.5
    ) -> list[R]:
        """Ask everybody who serves the topic."""
        self.hub.check()
        del wait_s
        subject, data = topic.on(node), codec.encode(message)
        return [await self._handle(route, subject, data) for route in self.hub.serving(topic, subject)]

    async def serve(self, service: str, routes: Sequence[Route], *, shared: bool = True) -> None:
        """Answer requests and events."""
        del service, shared
        for route in routes:
            self.hub.routes[route.topic.on(route.node)].append(route)

    async def follow(
        self, topic: Topic[M, Any], handler: Callable[[M], Awaitable[None]], *, node: NodeName | None = None
    ) -> None:
        """Call `handler` with every message from now on."""
        pattern = topic.on(node) if node or not topic.names_speaker else f"{topic.subject}.*"
        self.hub.followers.append((pattern, handler))

    def bucket(self, spec: BucketSpec[V]) -> Bucket[V]:
        """Return the bucket."""
        return MemoryBucket(self.hub, spec)

    async def close(self) -> None:
        """Nothing is held."""


class MemoryBucket(Generic[V]):
    """One bucket of a Hub."""

    def __init__(self, hub: Hub, spec: BucketSpec[V]) -> None:
        self._hub = hub
        self.spec = spec
        """What the bucket is."""

    async def ensure(self) -> str:
        """Create the bucket if it does not exist; return its incarnation."""
        self._hub.check()
        if self.spec.name not in self._hub.tables:
            self._hub.tables[self.spec.name] = {}
            self._hub.incarnations[self.spec.name] += 1
        return str(self._hub.incarnations[self.spec.name])

    def _table(self) -> dict[str, bytes]:
        self._hub.check()
        table = self._hub.tables.get(self.spec.name)
        if table is None:
            raise Unavailable(f"bucket {self.spec.name} does not exist")
        return table

    async def put(self, key: str, row: V) -> None:
        """Set the row."""
        self._table()[key] = codec.encode(row)
        self._hub.tell(self.spec.name, key, self._table()[key])

    async def get(self, key: str) -> V | None:
        """Return the row, or None."""
        data = self._table().get(key)
        return None if data is None else codec.decode(data, self.spec.row)

    async def delete(self, key: str) -> None:
        """Remove the row."""
        self._table().pop(key, None)
        self._hub.tell(self.spec.name, key, None)

    async def rows(self) -> dict[str, V]:
        """Return every row."""
        await self.ensure()
        return {key: codec.decode(data, self.spec.row) for key, data in self._table().items()}

    async def mark_complete(self, revision: int) -> None:
        """Vouch for the bucket."""
        del revision
        self._table()
        self._hub.complete.add(self.spec.name)
        self._hub.tell(self.spec.name, "", b"")

    async def watch(self, keys: Keys | None = None) -> AsyncGenerator[BucketEvent[V], None]:
        """Yield Restarted, the rows, Synced, then every change; begins again when the bucket is lost."""
        keys = keys or Keys()
        queue: asyncio.Queue[tuple[str, bytes | None]] = asyncio.Queue()
        self._hub.watchers[self.spec.name].append(queue)
        try:
            with keys.telling(lambda: queue.put_nowait((_OTHERS, None))):
                while True:
                    while not self._hub.up or self.spec.name not in self._hub.tables:
                        await queue.get() if self._hub.up else await asyncio.sleep(0.01)  # noqa: TID251 - polls a flag of the test
                    async with contextlib.aclosing(self._once(keys, queue)) as events:
                        async for event in events:
                            yield event
        finally:
            self._hub.watchers[self.spec.name].remove(queue)

    async def _once(
        self, keys: Keys, queue: asyncio.Queue[tuple[str, bytes | None]]
    ) -> AsyncGenerator[BucketEvent[V], None]:
        while not queue.empty():
            queue.get_nowait()
        listed = keys.wanted
        yield Restarted(listed)
        for key, data in list(self._hub.tables.get(self.spec.name, {}).items()):
            if key in keys:
                yield Changed(key, data, self.spec.row)
        complete = self.spec.name in self._hub.complete
        yield Synced(complete=complete)
        while True:
            added, listed = self._added(keys, listed, complete), keys.wanted
            for event in added:
                yield event
            key, change = await queue.get()
            if key == "" and change is None:
                return
            if key == "":
                if not complete:
                    yield Synced(complete=True)
                complete = True
            elif key != _OTHERS and key in keys:
                yield self._event(key, change)

    def _added(self, keys: Keys, listed: frozenset[str] | None, complete: bool) -> list[BucketEvent[V]]:
        """Return what there is to say of keys that are wanted newly."""
        table, new = self._hub.tables.get(self.spec.name, {}), (keys.wanted or frozenset()) - (listed or frozenset())
        return [self._event(key, table.get(key)) for key in sorted(new) if key in table or complete]

    def _event(self, key: str, data: bytes | None) -> BucketEvent[V]:
        return Deleted(key) if data is None else Changed(key, data, self.spec.row)
