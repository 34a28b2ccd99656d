"""Golden vectors: one example of every message, and the bytes it has on the wire. Pure.

Examples are made from the types, so a new topic has its vector without anybody writing one. Text fields hold their own name
unless the table below knows better.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec import inspect

from fairlead import codec
from fairlead.address import Address, Prefix
from fairlead.contract.asyncapi import has_reply, topic_id
from fairlead.errors import InvalidInput
from fairlead.schema import BUCKETS, TOPICS
from fairlead.schema.base import Message
from fairlead.schema.health import DeadLetter

_TEXT_BY_FIELD = {
    "apiVersion": "cilium.io/v2",
    "kind": "CiliumNetworkPolicy",
    "labels": "container:app=web",
    "netns": "/run/netns/web",
    "interface": "eth0",
    "trace": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "uuid": "018f2d3c-7b1e-7c5a-9d2f-3c4b5a697887",
    "prefix": "10.0.1.0/24",
    "state": "Established",
    "protocol": "TCP",
    "verdict": "DROPPED",
    "rows": "1001",
    "failed": "1001",
}
_TEXT_BY_PATTERN = {
    r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$": "n1",
    r"^[A-Za-z0-9]([A-Za-z0-9._:/@-]*[A-Za-z0-9])?$": "web",
    r"^[^\s;,\x00-\x1f][^;,\x00-\x1f]*$": "container:app=web",
    r"^[A-Za-z0-9_.-]+$": "eth0",
    r"^[0-9A-Fa-f:.]{2,45}(/[0-9]{1,3})?$": "10.0.1.0/24",
    "^(INGRESS|EGRESS)$": "EGRESS",
}
_DATE = "2026-01-02T03:04:05.678901Z"


def vectors() -> dict[str, type[Message]]:
    """Return the kind of message behind each vector, by the vector's name."""
    found: dict[str, type[Message]] = {"dead": DeadLetter}
    for topic in TOPICS:
        found[f"{topic_id(topic)}.message"] = topic.message
        if has_reply(topic):
            found[f"{topic_id(topic)}.reply"] = topic.reply
    return dict(sorted((found | {f"bucket.{spec.name}": spec.row for spec in BUCKETS}).items()))


def encoded(kind: type[Message]) -> bytes:
    """Return the bytes of the kind's example."""
    return codec.encode(codec.from_builtins(example(inspect.type_info(kind), ""), kind))


def still_means(old: bytes, kind: type[Message]) -> str:
    """Return why `old` bytes no longer mean what they meant, or nothing: additive change keeps every field and value."""
    try:
        again = codec.unpack(codec.encode(codec.decode(old, kind)))
    except InvalidInput as error:
        return error.message
    return _lost(codec.unpack(old), again, kind.__name__)


def _lost(old: Any, new: Any, where: str) -> str:
    if isinstance(old, dict) and isinstance(new, dict):
        gone = sorted(map(str, old.keys() - new.keys()))
        inner = (_lost(old[key], new[key], f"{where}.{key}") for key in old.keys() & new.keys())
        return f"{where}.{gone[0]} is gone" if gone else next(filter(None, inner), "")
    if isinstance(old, list) and isinstance(new, list) and len(old) <= len(new):
        return next(filter(None, (_lost(one, other, f"{where}[]") for one, other in zip(old, new, strict=False))), "")
    return "" if old == new else f"{where}: {old!r} became {new!r}"


def example(info: inspect.Type, field: str) -> Any:
    """Return a plain value of the type, always the same. Raises NotImplementedError for a type that has none yet."""
    while isinstance(info, inspect.Metadata):
        info = info.type
    make = _MAKERS.get(type(info))
    if make is None:
        raise NotImplementedError(f"{field}: no example for {type(info).__name__}: add one")
    return make(info, field)


def _struct(info: inspect.StructType, _field: str) -> Any:
    pairs = [(field.encode_name, example(field.type, field.encode_name)) for field in info.fields]
    return [value for _, value in pairs] if info.array_like else dict(pairs)


def _text(info: inspect.StrType, field: str) -> str:
    return _TEXT_BY_FIELD.get(field) or _TEXT_BY_PATTERN.get(info.pattern or "") or field or "key"


def _number(info: inspect.IntType | inspect.FloatType, _field: str) -> int | float:
    low = info.ge if info.ge is not None else 0
    return max(low, min(7, info.le if info.le is not None else 7))


def _custom(info: inspect.CustomType, field: str) -> str:
    if info.cls not in (Address, Prefix):
        raise NotImplementedError(f"{field}: no example for {info.cls.__name__}: add one")
    return "10.0.1.2" if info.cls is Address else "10.0.1.0/24"


def _union(info: inspect.UnionType, field: str) -> Any:
    return next(example(one, field) for one in info.types if not isinstance(one, inspect.NoneType))


def _map(info: inspect.DictType, field: str) -> Any:
    return {example(info.key_type, field): example(info.value_type, "name")}


def _one(info: inspect.VarTupleType | inspect.ListType, field: str) -> list[Any]:
    return [example(info.item_type, field)]


_MAKERS: dict[type, Callable[[Any, str], Any]] = {
    inspect.StructType: _struct,
    inspect.StrType: _text,
    inspect.IntType: _number,
    inspect.FloatType: _number,
    inspect.BoolType: lambda _info, _field: True,
    inspect.BytesType: lambda _info, _field: "3q2+7w==",
    inspect.DateTimeType: lambda _info, _field: _DATE,
    inspect.EnumType: lambda info, _field: next(iter(info.cls)).value,
    inspect.CustomType: _custom,
    inspect.UnionType: _union,
    inspect.DictType: _map,
    inspect.VarTupleType: _one,
    inspect.ListType: _one,
    inspect.AnyType: lambda _info, field: field,
}


def to_hex(data: bytes) -> str:
    """Return bytes as lines of 32 in hex."""
    return "".join(data[start : start + 32].hex(" ") + "\n" for start in range(0, len(data), 32)) or "\n"


def from_hex(text: str) -> bytes:
    """Return the bytes of `to_hex`."""
    return bytes.fromhex(text)
