"""Hypothesis strategies for any message of the schema, made from its type."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import strategies as st
from msgspec import inspect

from fairlead.address import Address

Plain = st.SearchStrategy[Any]
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ANY_DEPTH = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text() | st.lists(st.text(), max_size=2)


def plain_values(kind: type) -> Plain:
    """Return a strategy for plain values (dicts, lists, text, numbers) that decode as a `kind`."""
    return values(inspect.type_info(kind))


def values(info: inspect.Type) -> Plain:
    """Return a strategy for plain values that the described type accepts."""
    while isinstance(info, inspect.Metadata):
        info = info.type
    return _STRATEGIES[type(info)](info)


def _struct(info: inspect.StructType) -> Plain:
    fields = {field.encode_name: values(field.type) for field in info.fields}
    return st.tuples(*fields.values()).map(list) if info.array_like else st.fixed_dictionaries(fields)


def _text(info: inspect.StrType) -> Plain:
    longest = 1000 if info.max_length is None else info.max_length
    if not info.pattern:
        return st.text(min_size=info.min_length or 0, max_size=min(longest, 20))
    pattern = re.compile(info.pattern)

    def fits(text: str) -> bool:
        # by ASCII alone, a negated class would take the blanks of other scripts
        return len(text) <= longest and pattern.search(text) is not None

    return st.from_regex(re.compile(info.pattern, re.ASCII), fullmatch=True).filter(fits)


def _integer(info: inspect.IntType) -> Plain:
    low, high = -(2**63) if info.ge is None else int(info.ge), 2**64 - 1 if info.le is None else int(info.le)
    return st.integers(low, high)


def _array(info: inspect.VarTupleType | inspect.ListType) -> Plain:
    fewest = info.min_length or 0
    return st.lists(values(info.item_type), min_size=fewest, max_size=max(fewest, 2))


def _union(info: inspect.UnionType) -> Plain:
    return st.sampled_from(info.types).flatmap(values)


def _custom(info: inspect.CustomType) -> Plain:
    return st.ip_addresses().map(str) if info.cls is Address else st.sampled_from(["10.0.0.0/8", "fd00::/64", "::/0"])


_STRATEGIES: dict[type, Callable[[Any], Plain]] = {
    inspect.StructType: _struct,
    inspect.StrType: _text,
    inspect.IntType: _integer,
    inspect.FloatType: lambda info: st.floats(info.ge, info.le, allow_nan=False, allow_infinity=False),
    inspect.BoolType: lambda _: st.booleans(),
    inspect.NoneType: lambda _: st.none(),
    inspect.DateTimeType: lambda _: st.timedeltas(timedelta(0), timedelta(90000)).map(
        lambda t: (_EPOCH + t).isoformat()
    ),
    inspect.EnumType: lambda info: st.sampled_from([one.value for one in info.cls]),
    inspect.BytesType: lambda _: st.sampled_from(["", "3q2+7w=="]),
    inspect.AnyType: lambda _: _ANY_DEPTH,
    inspect.CustomType: _custom,
    inspect.VarTupleType: _array,
    inspect.ListType: _array,
    inspect.DictType: lambda info: st.dictionaries(values(info.key_type), values(info.value_type), max_size=3),
    inspect.UnionType: _union,
}
