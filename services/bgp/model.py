"""What may be announced, to whom, and what a change of the speaker costs. Pure: values in, values out.

Every value that reaches an engine's configuration passes here first and leaves as a number, an `Address`, a `Prefix` or a name made
from one of them; text from an event never travels further than its parser.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

from fairlead.address import Address, Family, Prefix
from fairlead.errors import InvalidInput

LENGTHS: Mapping[Family, tuple[int, int]] = {Family.IPV4: (24, 25), Family.IPV6: (56, 80)}
"""The shortest and longest prefix of a node's workloads that the fabric accepts."""
MAX_ASN = 4294967295

Asn = Annotated[int, Meta(ge=1, le=MAX_ASN)]
Password = Annotated[str, Meta(max_length=80, pattern=r"^[\x21\x23-\x5b\x5d-\x7e]*$")]
"""Printable ASCII without blank, quote and backslash; empty: no MD5."""
Community = tuple[Annotated[int, Meta(ge=0, le=65535)], Annotated[int, Meta(ge=0, le=65535)]]


class Attributes(msgspec.Struct, frozen=True, kw_only=True):
    """What travels with a route besides its prefix."""

    communities: tuple[Community, ...] = ()


Routes = Mapping[Prefix, Attributes]


class Neighbour(msgspec.Struct, frozen=True, kw_only=True):
    """One router that we announce to."""

    address: Address
    asn: Asn

    @property
    def name(self) -> str:
        """Return the session's name. It comes from the address alone, so that a new neighbour never renames, and flaps, another."""
        return "peer_" + self.address.replace(".", "_").replace(":", "_")


class Timers(msgspec.Struct, frozen=True, kw_only=True):
    """Session timers in seconds; the defaults were measured (see the README)."""

    hold_s: Annotated[int, Meta(ge=3, le=65535)] = 9
    keepalive_s: Annotated[int, Meta(ge=1, le=21845)] = 3
    restart_s: Annotated[int, Meta(ge=1, le=4095)] = 60
    """How long neighbours keep our routes when we vanish (graceful restart)."""
    stale_s: Annotated[int, Meta(ge=0, le=16777215)] = 3600
    """How long they keep them after that, as a last resort (long-lived graceful restart)."""


class Speaker(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that an engine needs to know besides the routes."""

    asn: Asn
    router_id: Address
    neighbours: tuple[Neighbour, ...]
    pools: tuple[Prefix, ...]
    timers: Timers = msgspec.field(default_factory=Timers)
    password: Password = ""
    drain: bool = False


def parse_neighbour(text: str) -> Neighbour:
    """Return the neighbour in `10.0.1.1:65101` or `[fd00::1]:65101`. Raises InvalidInput."""
    host, colon, asn = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if (
        not colon
        or not asn.isascii()
        or not asn.isdigit()
        or not 1 <= int(asn) <= MAX_ASN
        or (":" in bare and bare == host)
    ):
        raise InvalidInput(f"bgp_peers: {text!r} is not a neighbour: write 10.0.1.1:65101 or [fd00::1]:65101")
    return Neighbour(address=Address(bare), asn=int(asn))


def parse_neighbours(texts: Sequence[str]) -> tuple[Neighbour, ...]:
    """Return the neighbours, sorted, each address once. Raises InvalidInput."""
    found = [parse_neighbour(text) for text in texts]
    twice = {each.address for each in found if sum(each.address == other.address for other in found) > 1}
    if twice:
        raise InvalidInput(f"bgp_peers: {', '.join(sorted(twice))} stands there twice")
    return tuple(sorted(found, key=lambda each: each.name))


def router_id(wanted: str, node_addresses: Sequence[Address]) -> Address:
    """Return the router id: as wanted, else the node's first IPv4 address. Raises InvalidInput."""
    candidates = [Address(wanted)] if wanted else list(node_addresses)
    for address in candidates:
        if address.family is Family.IPV4:
            return address
    raise InvalidInput("bgp_router_id: an IPv4 address is needed: set it, or put one into node_addresses")


def allowed_lengths(pool: Prefix) -> tuple[int, int]:
    """Return the shortest and longest prefix that may be announced from `pool`. Raises InvalidInput when none can."""
    shortest, longest = LENGTHS[pool.family]
    if pool.length > longest:
        raise InvalidInput(f"pools: {pool} is longer than /{longest}: no prefix of it can be announced")
    return max(shortest, pool.length), longest


def refusal(prefix: Prefix, pools: Iterable[Prefix]) -> str:
    """Return why the prefix must not be announced, or an empty text."""
    homes = [pool for pool in pools if prefix in pool]
    if not homes:
        return f"{prefix} lies in no pool"
    shortest, longest = allowed_lengths(homes[0])
    if not shortest <= prefix.length <= longest:
        return f"{prefix} is not between /{shortest} and /{longest}"
    return ""


def announceable(
    prefixes: Iterable[Prefix], pools: Sequence[Prefix]
) -> tuple[dict[Prefix, Attributes], tuple[str, ...]]:
    """Split what is claimed into routes to announce and the reasons against the rest."""
    reasons = {prefix: refusal(prefix, pools) for prefix in prefixes}
    routes = {prefix: Attributes() for prefix, reason in reasons.items() if not reason}
    return routes, tuple(reason for reason in reasons.values() if reason)


def flapping(old: Speaker, new: Speaker) -> tuple[str, ...]:
    """Name the sessions that the change from `old` to `new` restarts; added and removed ones are not among them."""
    before = {neighbour.name: neighbour for neighbour in old.neighbours}
    session_wide = any(
        getattr(old, field) != getattr(new, field) for field in ("asn", "router_id", "password", "timers")
    )
    return tuple(
        neighbour.name
        for neighbour in new.neighbours
        if neighbour.name in before and (session_wide or before[neighbour.name] != neighbour)
    )
