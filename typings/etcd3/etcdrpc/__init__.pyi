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

class AuthPermission:
    permType: int
    key: bytes
    range_end: bytes

class AuthEnableRequest: ...
class AuthRoleListRequest: ...
class AuthUserListRequest: ...

class AuthRoleListResponse:
    roles: Sequence[str]

class AuthUserListResponse:
    users: Sequence[str]

class AuthRoleAddRequest:
    def __init__(self, *, name: str) -> None: ...

class AuthRoleGetRequest:
    def __init__(self, *, role: str) -> None: ...

class AuthRoleGetResponse:
    perm: Sequence[AuthPermission]

class AuthRoleGrantPermissionRequest:
    perm: AuthPermission
    def __init__(self, *, name: str) -> None: ...

class AuthRoleRevokePermissionRequest:
    def __init__(self, *, role: str, key: bytes, range_end: bytes) -> None: ...

class AuthUserAddRequest:
    def __init__(self, *, name: str, password: str) -> None: ...

class AuthUserGetRequest:
    def __init__(self, *, name: str) -> None: ...

class AuthUserGetResponse:
    roles: Sequence[str]

class AuthUserDeleteRequest:
    def __init__(self, *, name: str) -> None: ...

class AuthUserGrantRoleRequest:
    def __init__(self, *, user: str, role: str) -> None: ...

class AuthStub:
    def __init__(self, channel: Channel) -> None: ...
    def AuthEnable(self, request: AuthEnableRequest, *, timeout: float) -> UnaryUnaryCall[object]: ...
    def RoleList(self, request: AuthRoleListRequest, *, timeout: float) -> UnaryUnaryCall[AuthRoleListResponse]: ...
    def RoleAdd(self, request: AuthRoleAddRequest, *, timeout: float) -> UnaryUnaryCall[object]: ...
    def RoleGet(self, request: AuthRoleGetRequest, *, timeout: float) -> UnaryUnaryCall[AuthRoleGetResponse]: ...
    def RoleGrantPermission(
        self, request: AuthRoleGrantPermissionRequest, *, timeout: float
    ) -> UnaryUnaryCall[object]: ...
    def RoleRevokePermission(
        self, request: AuthRoleRevokePermissionRequest, *, timeout: float
    ) -> UnaryUnaryCall[object]: ...
    def UserList(self, request: AuthUserListRequest, *, timeout: float) -> UnaryUnaryCall[AuthUserListResponse]: ...
    def UserAdd(self, request: AuthUserAddRequest, *, timeout: float) -> UnaryUnaryCall[object]: ...
    def UserGet(self, request: AuthUserGetRequest, *, timeout: float) -> UnaryUnaryCall[AuthUserGetResponse]: ...
    def UserDelete(self, request: AuthUserDeleteRequest, *, timeout: float) -> UnaryUnaryCall[object]: ...
    def UserGrantRole(self, request: AuthUserGrantRoleRequest, *, timeout: float) -> UnaryUnaryCall[object]: ...
