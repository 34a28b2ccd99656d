from typing import Any

from . import exceptions as exceptions

def packb(o: Any, *, use_bin_type: bool = ..., default: Any = ...) -> bytes: ...
class Packer:
    def pack_map_header(self, size: int) -> bytes: ...

def unpackb(
    packed: bytes,
    *,
    raw: bool = ...,
    strict_map_key: bool = ...,
    max_array_len: int = ...,
    max_map_len: int = ...,
    timestamp: int = ...,
) -> Any: ...
