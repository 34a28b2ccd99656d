"""`Kv` on etcd v3, over the gRPC stubs that `etcd3` carries.

The stubs are used on gRPC's asyncio channel, not through `etcd3`'s client: that one blocks its caller, reads a whole prefix in one
message (and fails above 4 MB), and its watcher dies with the connection. Nothing is sent before the first call, and a store that is
away for hours needs no restart of ours: the channel tries again once a second.

Gotchas. (1) A commit whose answer was lost raises Unavailable although it may have happened: callers repeat it, and a repetition that
finds the wanted value is a success. (2) etcd accepts a watch from the compacted revision itself, yet a deletion at just that revision
is gone by then; therefore history is asked for the last revision seen, before each watch. The same question finds a store that was
replaced by an older one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Sequence
from typing import TypeVar

import grpc.aio

from fairlead import etcd_messages as messages
from fairlead.clock import SYSTEM, Clock
from fairlead.errors import Conflict, InvalidInput, Unavailable
from fairlead.etcd_link import Link, Tls
from fairlead.kv import Change, Check, Compacted, Delete, Item, Listing, Put

from etcd3 import etcdrpc  # isort: skip - importable only after etcd_messages

T = TypeVar("T")
_LOG = logging.getLogger(__name__)

MAX_CHANGES = 100
PAGE_KEYS = 2000
"""Keys per page of a listing; a page is one gRPC message."""
RETRY_S = 0.25
"""Pause before a broken watch is opened again; the channel's own back-off comes on top, at most a second."""
_HAS_LEADER = (("hasleader", "true"),)
"""Makes a member that has lost its cluster end the watch, where it would otherwise stay silent."""


class EtcdKv:
    """A store in etcd. `url` is `http://host:port`, or several with commas between: the next is tried when one fails."""

    def __init__(self, url: str, *, timeout_s: float = 3.0, tls: Tls | None = None, clock: Clock = SYSTEM) -> None:
        self._addresses = [part.strip() for part in url.split(",") if part.strip()] or [url]
        self._timeout_s = timeout_s
        self._tls = tls
        self._clock = clock
        self._links: dict[str, Link] = {}
        self._current = 0
        self._watching: set[grpc.aio.StreamStreamCall[etcdrpc.WatchRequest, etcdrpc.WatchResponse]] = set()
        self._closed = False

    async def get(self, key: str) -> Item | None:
        """Return the key, or None."""
        answer = await self._range(etcdrpc.RangeRequest(key=messages.key_bytes(key)))
        return messages.item(answer.kvs[0]) if answer.kvs else None

    async def list(self, prefix: str) -> Listing:
        """Return every key under `prefix` at one revision, page by page."""
        while True:
            try:
                return await self._list_once(prefix)
            except Compacted:  # a compaction overtook the pages: begin again at a newer revision
                await self._clock.sleep(0)

    async def _list_once(self, prefix: str) -> Listing:
        first, last = messages.bounds(prefix)
        items: list[Item] = []
        revision, more = 0, True
        while more:
            answer = await self._range(
                etcdrpc.RangeRequest(key=first, range_end=last, limit=PAGE_KEYS, revision=revision)
            )
            revision = revision or answer.header.revision
            items.extend(map(messages.item, answer.kvs))
            more = answer.more and bool(answer.kvs)
            first = answer.kvs[-1].key + b"\0" if more else first
        return Listing(tuple(items), revision)

    async def commit(self, checks: Sequence[Check], changes: Sequence[Put | Delete]) -> int:
        """Apply all changes if every check holds. Raises Conflict naming the first check that does not."""
        if max(len(checks), len(changes)) > MAX_CHANGES:
            raise InvalidInput(f"{len(checks)} checks and {len(changes)} changes: at most {MAX_CHANGES} of each")
        request = etcdrpc.TxnRequest(
            compare=[messages.compare(check) for check in checks],
            success=[messages.operation(change) for change in changes],
            failure=[etcdrpc.RequestOp(request_range=messages.current_revision_of(check)) for check in checks],
        )
        link = self._link()
        answer = await self._answer(link, link.kv.Txn(request, timeout=self._timeout_s))
        if not answer.succeeded:
            raise Conflict(messages.first_conflict(checks, answer))
        return answer.header.revision

    async def watch(self, prefix: str, after: int) -> AsyncGenerator[tuple[Change, ...], None]:
        """Yield the changes under `prefix` after a revision, one batch per revision, for ever; ends when the store is closed."""
        seen = after
        while not self._closed:
            try:
                async for batch in self._watch_once(prefix, seen):
                    seen = batch[0].revision
                    yield batch
            except Unavailable as error:
                _LOG.info("watch on %s after revision %d is interrupted: %s", prefix, seen, error.message)
            except asyncio.CancelledError:
                if _is_task_cancelled() or not self._closed:
                    raise
                return
            await self._clock.sleep(RETRY_S)

    async def _watch_once(self, prefix: str, seen: int) -> AsyncGenerator[tuple[Change, ...], None]:
        """Yield batches until the connection ends, which raises Unavailable."""
        await self._require_history(seen)
        link = self._link()
        call = link.watches.Watch(metadata=_HAS_LEADER, wait_for_ready=False)
        self._watching.add(call)
        try:
            first, last = messages.bounds(prefix)
            create = etcdrpc.WatchCreateRequest(key=first, range_end=last, start_revision=seen + 1)
            await self._answer(link, call.write(etcdrpc.WatchRequest(create_request=create)))
            while isinstance(answer := await self._answer(link, call.read()), etcdrpc.WatchResponse):
                messages.require_open(answer, prefix, link.address)
                for batch in messages.batches(answer):
                    yield batch
            # the stream is over: its status tells why
            raise Unavailable(f"etcd at {link.address} ended the watch: {await call.details() or 'no reason given'}")
        finally:
            self._watching.discard(call)
            call.cancel()

    async def _require_history(self, revision: int) -> None:
        """Raise Compacted unless the store still knows what happened after `revision`."""
        await self._range(etcdrpc.RangeRequest(key=b"\0", limit=1, keys_only=True, revision=max(revision, 1)))

    async def grant(self, ttl_s: int) -> int:
        """Return a new lease."""
        link = self._link()
        request = etcdrpc.LeaseGrantRequest(TTL=ttl_s)
        return (await self._answer(link, link.leases.LeaseGrant(request, timeout=self._timeout_s))).ID

    async def keep_alive(self, lease: int) -> bool:
        """Renew the lease; False when it has already ended."""
        link = self._link()
        call = link.leases.LeaseKeepAlive(timeout=self._timeout_s)
        try:
            await self._answer(link, call.write(etcdrpc.LeaseKeepAliveRequest(ID=lease)))
            answer = await self._answer(link, call.read())
        finally:
            call.cancel()
        if not isinstance(answer, etcdrpc.LeaseKeepAliveResponse):
            raise Unavailable(f"etcd at {link.address} did not answer whether lease {lease} stands")
        return answer.TTL > 0

    async def close(self) -> None:
        """End watches and channels, and wait for it."""
        self._closed = True
        for call in tuple(self._watching):
            call.cancel()
        for link in tuple(self._links.values()):
            await link.channel.close()
        self._links.clear()

    def _link(self) -> Link:
        """Return the channel in use, opened on first use."""
        if self._closed:
            raise Unavailable("the connection to etcd was closed by us")
        address = self._addresses[self._current % len(self._addresses)]
        if address not in self._links:
            self._links[address] = Link(address, self._tls)
        return self._links[address]

    async def _range(self, request: etcdrpc.RangeRequest) -> etcdrpc.RangeResponse:
        link = self._link()
        return await self._answer(link, link.kv.Range(request, timeout=self._timeout_s))

    async def _answer(self, link: Link, call: Awaitable[T]) -> T:
        """Return what the call gives, its failure turned into ours; after a failure of the member the next one is used."""
        try:
            return await call
        except grpc.aio.AioRpcError as error:
            failed = link.failure(error)
            if type(failed) is Unavailable and link.address == self._addresses[self._current % len(self._addresses)]:
                self._current += 1
            raise failed from error
        except asyncio.InvalidStateError as error:  # the stream ended between two of our steps
            raise Unavailable(f"etcd at {link.address} ended the call") from error
        except asyncio.CancelledError as error:
            if _is_task_cancelled() or not self._closed:
                raise
            raise Unavailable("the connection to etcd was closed by us") from error


def _is_task_cancelled() -> bool:
    """Tell whether a CancelledError means this task, and not a call that we ended ourselves."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0
