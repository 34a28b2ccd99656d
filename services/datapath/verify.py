"""What stands in the kernel against what should stand there: every difference by name. Reads only; all functions are pure.

A difference is a fact about one object, in words that stay the same, so that programs can count them and people can search for them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Protocol, TypeVar

from fairlead.address import Address, Prefix
from services.datapath.addressmaps import AddressDrift
from services.datapath.failsafe import HostEntry
from services.datapath.operations import EndpointEntry, Link, PolicyKey, PolicyValue
from services.datapath.outside import Masquerade

K = TypeVar("K")
V = TypeVar("V")

_SHOWN = 8
"""Differences of one kind that are told one by one; more become a number."""


@dataclass(frozen=True, order=True)
class Difference:
    """One thing that is not as it should be."""

    subject: str
    """What it is about: `endpoint 7`, `address 10.0.0.1/32`, `device up0`, `pin fairlead_conntrack`."""
    problem: str
    """In stable words: `policy entry missing`, `filter missing`."""
    detail: str = ""
    endpoint: int = 0


class Inspector(Protocol):
    """Looks at what no row describes: devices, filters, routes, rules, settings, pins. Reads only."""

    def node(self, prefixes: Collection[Prefix]) -> list[Difference]:
        """Return what is wrong with what all endpoints share."""

    def endpoint(self, link: Link) -> list[Difference]:
        """Return what is wrong with one endpoint's plumbing."""


def entry_differences(want: EndpointEntry, have: EndpointEntry | None) -> list[Difference]:
    """Compare an endpoint's entry, field by field."""
    subject = f"endpoint {want.endpoint}"
    if have is None:
        return [Difference(subject, "endpoint entry missing", endpoint=want.endpoint)]
    return [
        Difference(subject, f"endpoint entry: wrong {_words(name)}", _text(wanted, found), want.endpoint)
        for name in (field.name for field in fields(want))
        if (wanted := getattr(want, name)) != (found := getattr(have, name))
    ]


def policy_differences(
    endpoint: int, want: Mapping[PolicyKey, PolicyValue], have: Mapping[PolicyKey, PolicyValue]
) -> list[Difference]:
    """Compare an endpoint's policy map, entry by entry."""
    found = _mapping_differences(want, have, "policy entry")
    return [Difference(f"endpoint {endpoint}", problem, f"{_key(key)}{text}", endpoint) for problem, key, text in found]


def host_differences(want: HostEntry | None, have: HostEntry | None) -> list[Difference]:
    """Compare how the node itself is filtered, field by field."""
    if want is None or have is None:
        if want == have:
            return []
        return [Difference("host", "filter foreign" if want is None else "filter missing")]
    return [
        Difference("host", f"filter: wrong {_words(name)}", _text(wanted, found))
        for name in (field.name for field in fields(want))
        if (wanted := getattr(want, name)) != (found := getattr(have, name))
    ]


def address_differences(
    want: Mapping[Prefix, int], drift: AddressDrift, foreign: Collection[Prefix]
) -> list[Difference]:
    """Name the addresses that are missing or stand for somebody else, and those that nobody claims."""
    found, missing = drift
    wanted = {prefix: want[prefix] for prefix in (*missing, *found) if prefix in want}
    have = {prefix: identity for prefix, identity in found.items() if prefix in want or prefix in foreign}
    told = _mapping_differences(wanted, have, "address")
    return [Difference(f"address {prefix}", problem, text.removeprefix(": ")) for problem, prefix, text in told]


def tunnel_differences(
    want: Mapping[Prefix, Address], have: Mapping[Prefix, Address], tolerated: Collection[Prefix], *, whole: bool
) -> list[Difference]:
    """Compare the ways to other nodes' prefixes, as `address_differences` does."""
    shown = {prefix: have[prefix] for prefix in have if prefix in want or (whole and prefix not in tolerated)}
    found = _mapping_differences(want, shown, "tunnel")
    return [Difference(f"tunnel {prefix}", problem, text.removeprefix(": ")) for problem, prefix, text in found]


def masquerade_differences(want: Masquerade, have: Masquerade) -> list[Difference]:
    """Compare what leaves as the node's own; which of its addresses that is, is the uplinks' affair."""
    pairs = [(name, getattr(want, name), getattr(have, name)) for name in ("families", "first_port", "last_port")]
    found = [
        Difference(
            "masquerade", f"masquerade: wrong {_words(name)}", f"should be {_shown(wanted)}, is {_shown(stands)}"
        )
        for name, wanted, stands in pairs
        if wanted != stands
    ]
    for verb, prefixes in (
        ("missing", want.exclusions - have.exclusions),
        ("foreign", have.exclusions - want.exclusions),
    ):
        found += [Difference(f"masquerade {prefix}", f"exclusion {verb}") for prefix in sorted(prefixes)]
    return found


def _shown(value: object) -> str:
    return (
        ", ".join(f"IPv{int(one)}" for one in sorted(value)) or "none" if isinstance(value, frozenset) else str(value)
    )


def stranger_differences(known: Collection[int], have: Collection[int]) -> list[Difference]:
    """Return endpoints that stand in the kernel and that nothing explains."""
    return [
        Difference(f"endpoint {number}", "endpoint that nobody asked for", endpoint=number)
        for number in sorted(set(have) - set(known))
    ]


def _mapping_differences(want: Mapping[K, V], have: Mapping[K, V], noun: str) -> Iterator[tuple[str, K, str]]:
    for key, value in want.items():
        if key not in have:
            yield f"{noun} missing", key, ""
        elif have[key] != value:
            yield f"{noun} changed", key, f": {_text(value, have[key])}"
    for key in have:
        if key not in want:
            yield f"{noun} foreign", key, ""


def summarise(found: Collection[Difference]) -> list[Difference]:
    """Return the differences in order; of many of one kind about one endpoint (or of addresses) the first ones and a number."""
    groups: dict[tuple[str, int], list[Difference]] = {}
    for difference in sorted(found):
        groups.setdefault((difference.problem, difference.endpoint), []).append(difference)
    told: list[Difference] = []
    for group in groups.values():
        told += group[:_SHOWN]
        if len(group) > _SHOWN:
            last = group[-1]
            told.append(Difference(last.subject, last.problem, f"and {len(group) - _SHOWN} more", last.endpoint))
    return told


def _key(key: object) -> str:
    if not isinstance(key, PolicyKey):
        return str(key)
    bits = f" bits {key.port_bits}" if getattr(key, "port_bits", 0) else ""
    return f"identity {key.identity} port {key.port}{bits} protocol {key.protocol} direction {key.direction}"


def _text(want: object, have: object) -> str:
    return f"should be {_value(want)}, is {_value(have)}"


def _value(value: object) -> str:
    if isinstance(value, bytes):
        return value.hex(":")
    if type(value) is tuple:  # rows are named tuples, and name their fields
        return ", ".join(map(str, value)) or "nothing"
    return str(value)


def _words(name: str) -> str:
    return name.replace("_", " ")
