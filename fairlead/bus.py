"""The bus, as the services see it: typed requests, events and buckets of state.

Two implementations pass the same suite: `bus_nats` (NATS with JetStream) and `bus_memory` (tests, simulation). Nothing here blocks
on the hub: a bus that is away makes requests fail with Unavailable and watches pause; both resume by themselves.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from fairlead import codec
from fairlead.errors import Denied
from fairlead.schema.base import BucketSpec, Message, NodeName, Row, Topic

M = TypeVar("M", bound=Message)
R = TypeVar("R", bound=Message)
V = TypeVar("V", bound=Row)

Handler = Callable[[M], Awaitable[R]]
"""Turns a message into its reply; raises FairleadError for what the sender must hear."""


ANY_NODE = NodeName("*")
"""As a route's node: whichever node (or owner) asks, each on a subject of its own, which is all that its credential lets it use."""


@dataclass(frozen=True)
class Route:
    """One topic and who handles it; `node` for per-node topics."""

    topic: Topic[Any, Any]
    handler: Handler[Any, Any]
    node: NodeName | None = None


def route(topic: Topic[M, R], handler: Handler[M, R], node: NodeName | None = None) -> Route:
    """Return the route, with the types of topic and handler checked against each other."""
    return Route(topic, handler, node)


def check_speaker(route: Route, subject: str, ask: Message) -> None:
    """Raise Denied unless the message speaks of the node, or for the owner, on whose subject it came; only for routes of ANY_NODE."""
    if route.node != ANY_NODE:
        return
    speaker, owner = subject.rpartition(".")[2], getattr(ask, "owner", "")
    if route.topic.per_owner and owner.partition("/")[0] != speaker:
        raise Denied(f"`owner`: {owner or 'nobody'} stated on the subject of {speaker}: use the subject of the owner")
    if route.topic.per_node and (named := getattr(ask, "node", None)) != speaker:
        raise Denied(f"`node`: {named} stated on the subject of node {speaker}: a node states its own facts only")


@dataclass(frozen=True, slots=True)
class Changed(Generic[V]):
    """A row of the bucket has this value now. It is read when somebody asks for it: most rows of a listing are known already."""

    key: str
    data: bytes
    """Its MessagePack form; equal rows have equal forms."""
    kind: type[V]

    @classmethod
    def to(cls, key: str, row: V) -> Changed[V]:
        """Return the event for this row."""
        return cls(key, codec.encode(row), type(row))

    @property
    def row(self) -> V:
        """Return the row. Raises InvalidInput when it cannot be read."""
        return codec.decode(self.data, self.kind)


@dataclass(frozen=True, slots=True)
class Deleted:
    """The owner has removed this row on purpose."""

    key: str


@dataclass(frozen=True, slots=True)
class Restarted:
    """The watch begins anew: what follows until `Synced` is a complete listing."""

    keys: frozenset[str] | None = None
    """Of these keys; None: of all."""


@dataclass(frozen=True, slots=True)
class Synced:
    """The listing is over. `complete` tells that the owner vouches for it (its marker is there); a bucket being rebuilt is not."""

    complete: bool


BucketEvent = Changed[V] | Deleted | Restarted | Synced


class Keys:
    """The keys that a watch follows. Others can be wanted while it goes on."""

    def __init__(self, wanted: Iterable[str] | None = None) -> None:
        self.wanted: frozenset[str] | None = None if wanted is None else frozenset(wanted)
        """None: all."""
        self._listeners: list[Callable[[], None]] = []

    def want(self, keys: Iterable[str]) -> None:
        """Follow just these from now on."""
        wanted = frozenset(keys)
        if wanted != self.wanted:
            self.wanted = wanted
            for tell in self._listeners:
                tell()

    @contextlib.contextmanager
    def telling(self, tell: Callable[[], None]) -> Iterator[None]:
        """Call `tell` when other keys are wanted."""
        self._listeners.append(tell)
        try:
            yield
        finally:
            self._listeners.remove(tell)

    def __contains__(self, key: str) -> bool:
        """Tell whether the key is wanted."""
        return self.wanted is None or key in self.wanted


class Bucket(Protocol[V]):
    """A table of rows on the bus, written by one owner."""

    @property
    def spec(self) -> BucketSpec[V]:
        """Return what the bucket is."""

    async def put(self, key: str, row: V) -> None:
        """Set the row. Raises Unavailable when the hub does not confirm."""

    async def get(self, key: str) -> V | None:
        """Return the row, or None. Raises Unavailable."""

    async def delete(self, key: str) -> None:
        """Remove the row; watchers see Deleted. Raises Unavailable."""

    async def rows(self) -> dict[str, V]:
        """Return every row. Raises Unavailable."""

    async def ensure(self) -> str:
        """Create the bucket if it does not exist; return its incarnation, another text once it was lost and made anew.

        Raises Unavailable.
        """

    async def mark_complete(self, revision: int) -> None:
        """Vouch that the bucket holds everything as of `revision`."""

    def watch(self, keys: Keys | None = None) -> AsyncGenerator[BucketEvent[V], None]:
        """Yield Restarted, the rows, Synced, then every change, without end; all keys, or just those wanted.

        When other keys are wanted, the rows of new ones follow (Deleted for one that has none, if the owner vouches for it).
        Survives loss of the connection, of the hub and of the bucket itself: each time it begins again with Restarted.
        """


class Bus(Protocol):
    """A connection to the bus."""

    @property
    def connected(self) -> bool:
        """Tell whether the nearest server answers now."""

    async def publish(self, topic: Topic[M, Any], message: M, *, node: NodeName | None = None) -> None:
        """Send and forget; for `evt` topics wait until JetStream has it. Raises Unavailable."""

    async def request(
        self, topic: Topic[M, R], message: M, *, node: NodeName | None = None, timeout_s: float = 5.0
    ) -> R:
        """Ask, and return the reply. Raises what the handler raised, or Unavailable when nobody answers in time."""

    async def gather(
        self, topic: Topic[M, R], message: M, *, node: NodeName | None = None, wait_s: float = 0.5
    ) -> list[R]:
        """Ask everybody, and return the replies of the next `wait_s` seconds."""

    async def serve(self, service: str, routes: Sequence[Route], *, shared: bool = True) -> None:
        """Answer requests: `cmd` and `get` topics as a discoverable NATS micro service, `evt` topics from JetStream.

        `shared` makes replicas share the work (queue group); otherwise every process answers. Malformed requests get an error
        reply; events that cannot be used go to `fairlead.dead.<service>`, and are acknowledged. Events whose handler raises
        Unavailable are delivered again.
        """

    async def follow(
        self, topic: Topic[M, Any], handler: Callable[[M], Awaitable[None]], *, node: NodeName | None = None
    ) -> None:
        """Call `handler` with every message published from now on; a per-node topic without `node` means all nodes. Lossy."""

    def bucket(self, spec: BucketSpec[V]) -> Bucket[V]:
        """Return the bucket; nothing is sent before it is used."""

    async def close(self) -> None:
        """Finish what is being handled, and disconnect."""
