from collections.abc import Sequence
from typing import Any

NLM_F_ACK: int
NLM_F_CREATE: int
NLM_F_DUMP: int
NLM_F_EXCL: int
NLM_F_REPLACE: int
NLM_F_REQUEST: int
NLMSG_DONE: int
NLMSG_ERROR: int

class nlmsg_base(dict[str, Any]):
    prefix: str | None
    fields: Sequence[tuple[str, str]]
    nla_map: Sequence[tuple[str, str] | tuple[int, str, str]]
    data: bytearray
    def encode(self) -> None: ...
    def get_attr(self, attr: str, default: Any = ...) -> Any: ...

class nla(nlmsg_base): ...
class nlmsg(nlmsg_base): ...
