"""One gRPC channel to one member of etcd, and what its refusals mean. Nothing is sent before the first call."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import grpc
import grpc.aio

from fairlead import etcd_messages  # noqa: F401 - makes etcd3 importable
from fairlead.errors import Denied, FairleadError, InvalidInput, NotFound, Unavailable
from fairlead.kv import Compacted

from etcd3 import etcdrpc  # isort: skip - importable only after etcd_messages

_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # etcd counts pings that come faster than every 5 s as abuse, and without a call not at all
    ("grpc.keepalive_time_ms", 6000),
    ("grpc.keepalive_timeout_ms", 3000),
    # without this gRPC waits a minute for the answer, whatever the line above says
    ("grpc.http2.ping_timeout_ms", 3000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.enable_http_proxy", 0),
)
_ERRORS: dict[grpc.StatusCode, type[FairleadError]] = {
    grpc.StatusCode.OUT_OF_RANGE: Compacted,
    grpc.StatusCode.INVALID_ARGUMENT: InvalidInput,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.PERMISSION_DENIED: Denied,
    grpc.StatusCode.UNAUTHENTICATED: Denied,
}
_OLD_RIGHTS = "revision of auth store is old"
"""etcd's words when rights changed while the request was under way; its code says that the request was wrong, which it was not."""
_MEND = "`fairlead credentials etcd --url` gives every holder of a certificate its rights"


class Tls(NamedTuple):
    """Files in PEM form; `certificate` and `key` only where etcd wants to know its clients."""

    authority: Path | None = None
    certificate: Path | None = None
    key: Path | None = None


class Link:
    """The channel and its stubs. With `tls` the scheme of the address does not matter; without, `https` trusts the system's authorities."""

    def __init__(self, address: str, tls: Tls | None) -> None:
        self.address = address
        target = address.partition("://")[2] or address
        if tls is None and not address.startswith("https://"):
            self.channel = grpc.aio.insecure_channel(target, options=_OPTIONS)
        else:
            self.channel = grpc.aio.secure_channel(target, _credentials(tls or Tls()), options=_OPTIONS)
        self.kv = etcdrpc.KVStub(self.channel)
        self.watches = etcdrpc.WatchStub(self.channel)
        self.leases = etcdrpc.LeaseStub(self.channel)
        self.auth = etcdrpc.AuthStub(self.channel)

    def failure(self, error: grpc.aio.AioRpcError) -> FairleadError:
        """Return our error for a call that failed."""
        details = error.details() or error.code().name
        kind = Unavailable if _OLD_RIGHTS in details else _ERRORS.get(error.code(), Unavailable)
        return kind(f"etcd at {self.address}: {details}" + (f": {_MEND}" if kind is Denied else ""))


def _credentials(tls: Tls) -> grpc.ChannelCredentials:
    authority, key, certificate = (
        path.read_bytes() if path else None for path in (tls.authority, tls.key, tls.certificate)
    )
    return grpc.ssl_channel_credentials(authority, key, certificate)
