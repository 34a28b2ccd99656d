from collections.abc import Iterable, Sequence
from etcd3.etcdrpc.kv_pb2 import Event, KeyValue
from grpc.aio import Channel, StreamStreamCall, UnaryUnaryCall

class ResponseHeader:
    revision: int

class RangeRequest:
    def __init__(
        self,
        *,
        key: bytes = ...,
        range_end: bytes = ...,
        limit: int = ...,
        revision: int = ...,
        keys_only: bool = ...,
    ) -> None: ...

class RangeResponse:
    header: ResponseHeader
    kvs: Sequence[KeyValue]
    more: bool

class PutRequest:
    def __init__(self, *, key: bytes, value: bytes, lease: int = ...) -> None: ...

class DeleteRangeRequest:
    def __init__(self, *, key: bytes) -> None: ...

class Compare:
    EQUAL: int
    MOD: int
    def __init__(self, *, key: bytes, target: int, result: int, mod_revision: int) -> None: ...

class RequestOp:
    def __init__(
        self,
        *,
        request_range: RangeRequest | None = ...,
        request_put: PutRequest | None = ...,
        request_delete_range: DeleteRangeRequest | None = ...,
    ) -> None: ...

class ResponseOp:
    response_range: RangeResponse

class TxnRequest:
    def __init__(
        self, *, compare: Iterable[Compare], success: Iterable[RequestOp], failure: Iterable[RequestOp]
    ) -> None: ...

class TxnResponse:
    header: ResponseHeader
    succeeded: bool
    responses: Sequence[ResponseOp]

class WatchCreateRequest:
    def __init__(self, *, key: bytes, range_end: bytes, start_revision: int) -> None: ...

class WatchRequest:
    def __init__(self, *, create_request: WatchCreateRequest) -> None: ...

class WatchResponse:
    header: ResponseHeader
    created: bool
    canceled: bool
    compact_revision: int
    cancel_reason: str
    events: Sequence[Event]

class LeaseGrantRequest:
    def __init__(self, *, TTL: int) -> None: ...

class LeaseGrantResponse:
    ID: int

class LeaseKeepAliveRequest:
    def __init__(self, *, ID: int) -> None: ...

class LeaseKeepAliveResponse:
    TTL: int

class KVStub:
    def __init__(self, channel: Channel) -> None: ...
    def Range(self, request: RangeRequest, *, timeout: float) -> UnaryUnaryCall[RangeResponse]: ...
    def Txn(self, request: TxnRequest, *, timeout: float) -> UnaryUnaryCall[TxnResponse]: ...

class WatchStub:
    def __init__(self, channel: Channel) -> None: ...
    def Watch(
        self, *, metadata: Sequence[tuple[str, str]], wait_for_ready: bool
    ) -> StreamStreamCall[WatchRequest, WatchResponse]: ...

class LeaseStub:
    def __init__(self, channel: Channel) -> None: ...
    def LeaseGrant(self, request: LeaseGrantRequest, *, timeout: float) -> UnaryUnaryCall[LeaseGrantResponse]: ...
    def LeaseKeepAlive(self, *, timeout: float) -> StreamStreamCall[LeaseKeepAliveRequest, LeaseKeepAliveResponse]: ...
