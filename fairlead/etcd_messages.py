"""Between the store's words and etcd's messages; pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from fairlead import etcd_stubs
from fairlead.errors import Unavailable
from fairlead.kv import Change, Check, Compacted, Delete, Item, Put

etcd_stubs.install()
from etcd3 import etcdrpc  # noqa: E402 - importable only after the line above
from etcd3.etcdrpc import kv_pb2  # noqa: E402


def key_bytes(key: str) -> bytes:
    """Return the key's bytes; what people put there need not be UTF-8, and survives the way back and forth."""
    return key.encode("utf-8", "surrogateescape")


def bounds(prefix: str) -> tuple[bytes, bytes]:
    """Return the half-open range of all keys that begin with `prefix`."""
    first = key_bytes(prefix)
    head = first.rstrip(b"\xff")
    return (first, head[:-1] + bytes([head[-1] + 1])) if head else (first or b"\0", b"\0")


def item(kv: kv_pb2.KeyValue) -> Item:
    """Return the key as the store's users know it."""
    return Item(kv.key.decode("utf-8", "surrogateescape"), kv.value, kv.mod_revision, kv.create_revision)


def compare(check: Check) -> etcdrpc.Compare:
    """Return the condition of a transaction."""
    return etcdrpc.Compare(
        key=key_bytes(check.key),
        target=etcdrpc.Compare.MOD,
        result=etcdrpc.Compare.EQUAL,
        mod_revision=check.revision,
    )


def operation(change: Put | Delete) -> etcdrpc.RequestOp:
    """Return the change of a transaction."""
    if isinstance(change, Delete):
        return etcdrpc.RequestOp(request_delete_range=etcdrpc.DeleteRangeRequest(key=key_bytes(change.key)))
    put = etcdrpc.PutRequest(key=key_bytes(change.key), value=change.value, lease=change.lease)
    return etcdrpc.RequestOp(request_put=put)


def current_revision_of(check: Check) -> etcdrpc.RangeRequest:
    """Return the question for what the check found instead."""
    return etcdrpc.RangeRequest(key=key_bytes(check.key), keys_only=True)


def first_conflict(checks: Sequence[Check], answer: etcdrpc.TxnResponse) -> str:
    """Return why the transaction was refused."""
    for check, response in zip(checks, answer.responses, strict=True):
        found = response.response_range.kvs[0].mod_revision if response.response_range.kvs else 0
        if found != check.revision:
            return f"{check.key} is at revision {found}, not {check.revision}: another writer was first"
    return "another writer was first"


def require_open(answer: etcdrpc.WatchResponse, prefix: str, address: str) -> None:
    """Raise Compacted or Unavailable if etcd has ended the watch."""
    if answer.compact_revision:
        raise Compacted(f"history of {prefix} before revision {answer.compact_revision} is gone")
    if answer.canceled:
        raise Unavailable(f"etcd at {address} cancelled the watch: {answer.cancel_reason}")


def batches(answer: etcdrpc.WatchResponse) -> Iterator[tuple[Change, ...]]:
    """Yield the events by revision; etcd never spreads one revision over two answers unless asked to fragment."""
    for revision, events in groupby(answer.events, key=lambda event: event.kv.mod_revision):
        yield tuple(_change(event, revision) for event in events)


def _change(event: kv_pb2.Event, revision: int) -> Change:
    found = item(event.kv)
    return Change(found.key, None if event.type == kv_pb2.Event.DELETE else found, revision)
