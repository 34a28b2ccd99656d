"""Between typed structs and bytes: MessagePack maps on the wire, JSON accepted where people and other systems write.

`msgpack` packs and unpacks; `msgspec` validates what was unpacked against the struct. The only custom types are
`Address` and `Prefix`; every other unknown type is refused by both hooks.
"""

from __future__ import annotations

import json
from typing import Any, TypeVar

import msgpack
import msgspec

from fairlead.address import Address, Prefix
from fairlead.errors import FairleadError, InvalidInput

T = TypeVar("T")

MAX_MESSAGE_BYTES = 4 * 1024 * 1024
MAX_FILE_BYTES = 1 << 30
"""For files that this process wrote itself."""
_MAX_ITEMS = 1_000_000


def _encode_hook(value: object) -> object:
    if isinstance(value, Address | Prefix):
        return str(value)
    raise NotImplementedError(f"no wire form for {type(value).__name__}")


def _decode_hook(kind: type, value: object) -> object:
    if kind is Prefix or kind is Address:
        if not isinstance(value, str):
            raise TypeError(f"expected text, got {type(value).__name__}")
        try:
            return kind(value)
        except InvalidInput as error:
            raise ValueError(error.message) from error
    raise NotImplementedError(f"no wire form for {kind.__name__}")


def to_builtins(message: object) -> Any:
    """Return `message` as dicts, lists, numbers and text only."""
    return msgspec.to_builtins(message, enc_hook=_encode_hook, order="deterministic")


def from_builtins(value: object, kind: type[T], *, strict: bool = True, checked: bool = False) -> T:
    """Return `value` as a `kind`; `checked`: its addresses are canonical text already. Raises InvalidInput naming the field."""
    # a hook is called with the class and the text, as `str.__new__` is: no line of ours runs for each of hundreds of thousands
    hook = str.__new__ if checked else _decode_hook
    try:
        return msgspec.convert(value, kind, dec_hook=hook, strict=strict)
    except (msgspec.ValidationError, FairleadError) as error:
        raise InvalidInput(_readable(str(error))) from error
    except (RecursionError, OverflowError, ValueError, TypeError) as error:
        raise InvalidInput(f"the message cannot be read: {error}") from error


def encode(message: object) -> bytes:
    """Return the MessagePack form of `message`; equal messages give equal bytes."""
    return pack(to_builtins(message))


def encode_json(message: object) -> bytes:
    """Return the JSON form of `message`, sorted and without blanks."""
    return json.dumps(to_builtins(message), sort_keys=True, separators=(",", ":")).encode()


def pack(value: object) -> bytes:
    """Return the MessagePack form of a plain value: dicts, lists, numbers, text, bytes."""
    packed: bytes = msgpack.packb(value, use_bin_type=True)
    return packed


def pack_map_header(size: int) -> bytes:
    """Return what stands before the keys and values of a map, for maps that are written piece by piece."""
    packed: bytes = msgpack.Packer().pack_map_header(size)
    return packed


def decode(
    data: bytes, kind: type[T], *, content_type: str = "", max_bytes: int = MAX_MESSAGE_BYTES, checked: bool = False
) -> T:
    """Return the `kind` in `data`, MessagePack or JSON; `checked` as in `from_builtins`. Raises InvalidInput naming the field."""
    return from_builtins(unpack(data, content_type=content_type, max_bytes=max_bytes), kind, checked=checked)


def unpack(data: bytes, *, content_type: str = "", max_bytes: int = MAX_MESSAGE_BYTES) -> Any:
    """Return the plain value in `data`; CloudEvents envelopes (structured mode) are opened. Raises InvalidInput."""
    if len(data) > max_bytes:
        raise InvalidInput(f"the message has {len(data)} bytes; at most {max_bytes} are accepted: split it")
    if not data:
        return {}
    is_json = "json" in content_type or (not content_type and data[:1] in b"{[")
    value = _unpack_json(data) if is_json else _unpack_msgpack(data)
    if is_json and isinstance(value, dict) and "specversion" in value:
        return _cloud_event_data(value)
    return value


def _unpack_json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"the message is not JSON: {error}") from error


def _unpack_msgpack(data: bytes) -> Any:
    try:
        return msgpack.unpackb(
            data, raw=False, strict_map_key=False, max_array_len=_MAX_ITEMS, max_map_len=_MAX_ITEMS, timestamp=0
        )
    except (ValueError, RecursionError, TypeError, msgpack.exceptions.UnpackException) as error:
        raise InvalidInput(f"the message is not MessagePack: {error or type(error).__name__}") from error


def _cloud_event_data(envelope: dict[str, Any]) -> Any:
    """Return the data of a CloudEvents 1.0 structured-mode envelope."""
    if "data" not in envelope:
        raise InvalidInput("`data` is missing in the CloudEvents envelope: put the message there")
    return envelope["data"]


def _readable(text: str) -> str:
    """Turn msgspec's `... - at `$.a.b`` into a message that begins with the field."""
    problem, marker, path = text.rpartition(" - at `")
    if not marker:
        return text
    field = path.rstrip("`").removeprefix("$").removeprefix(".") or "message"
    return f"`{field}`: {problem}"
