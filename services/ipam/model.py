"""Which prefix a node claims, and which address an owner gets. Pure decisions over frozen state.

An address is free, leased, or quarantined: after its release nobody but its last owner gets it for a while, because peers still have
flows and caches of the one before. Released addresses stay on record beyond that, so that an owner who returns finds its old address,
and the one released longest ago is used again first.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from fairlead.address import Address, Family, Prefix
from fairlead.errors import Conflict, Exhausted, InvalidInput, Unavailable
from fairlead.schema.ipam import Lease, LeaseState

REMEMBERED = 1024
"""Released addresses kept on record after their quarantine."""
MAX_COUNT = (1 << 53) - 1
"""Counts are capped here: readers of JSON have doubles."""
_DEFAULT_LENGTH = {Family.IPV4: 24, Family.IPV6: 80}
_LONGEST = {Family.IPV4: 29, Family.IPV6: 124}


@dataclass(frozen=True)
class Pool:
    """A prefix out of which every node claims one of `length`."""

    prefix: Prefix
    length: int


def pools_from(prefixes: Iterable[Prefix], lengths: Iterable[int]) -> tuple[Pool, ...]:
    """Return the pools; lengths belong to prefixes by position, the family's default fills up. Raises InvalidInput."""
    wanted, given = tuple(prefixes), tuple(lengths)
    if len(given) > len(wanted):
        raise InvalidInput(
            f"`claim_lengths`: {len(given)} lengths for {len(wanted)} pools: give one per pool, or fewer"
        )
    filled = [*given, *(_DEFAULT_LENGTH[prefix.family] for prefix in wanted[len(given) :])]
    for prefix, length in zip(wanted, filled, strict=True):
        if not prefix.length <= length <= _LONGEST[prefix.family]:
            bounds = f"{prefix.length} to {_LONGEST[prefix.family]}"
            raise InvalidInput(f"`claim_lengths`: /{length} does not fit pool {prefix}: use {bounds}")
    for number, prefix in enumerate(wanted):
        for other in wanted[:number]:
            if prefix in other or other in prefix:
                raise InvalidInput(f"`pools`: {prefix} and {other} overlap: keep one")
    return tuple(Pool(prefix, length) for prefix, length in zip(wanted, filled, strict=True))


def choose_prefix(pool: Pool, node: str, taken: Iterable[Prefix]) -> Prefix:
    """Return a prefix of the pool that overlaps none of `taken`. Raises Exhausted.

    Where to begin follows from the node's name, so that many nodes that start together seldom want the same.
    """
    count = 1 << (pool.length - pool.prefix.length)
    blocked = _blocked(pool, taken)
    start = int.from_bytes(hashlib.sha256(f"{node} {pool.prefix}".encode()).digest()[:16]) % count
    for begin in (start, 0):
        index = _first_free(blocked, begin)
        if index < count:
            return _at(pool, index)
    raise Exhausted(f"pool {pool.prefix} has no free /{pool.length}: all {count} are claimed; enlarge `pools`")


def _at(pool: Pool, index: int) -> Prefix:
    step = 1 << (pool.prefix.family.bits - pool.length)
    number = int(pool.prefix.network.network_address) + index * step
    return Prefix(f"{_address(pool.prefix.family, number)}/{pool.length}")


def _blocked(pool: Pool, taken: Iterable[Prefix]) -> list[tuple[int, int]]:
    """Return the index ranges that `taken` covers, sorted, both ends included."""
    base, shift = int(pool.prefix.network.network_address), pool.prefix.family.bits - pool.length
    ranges = []
    for prefix in taken:
        if prefix in pool.prefix or pool.prefix in prefix:
            first = max(int(prefix.network.network_address) - base, 0) >> shift
            ranges.append((first, max(int(prefix.network.broadcast_address) - base, 0) >> shift))
    return sorted(ranges)


def _first_free(blocked: Iterable[tuple[int, int]], index: int) -> int:
    """Return the first index from `index` on that no range covers."""
    for first, last in blocked:
        if first <= index <= last:
            index = last + 1
    return index


def overlapping(prefix: Prefix, others: Iterable[Prefix]) -> tuple[Prefix, ...]:
    """Return those of `others` that share an address with `prefix`."""
    return tuple(other for other in others if prefix in other or other in prefix)


def usable(prefix: Prefix) -> tuple[int, int]:
    """Return the first and the last address that may be leased, as numbers.

    IPv4 keeps back network, gateway (.1) and broadcast; IPv6 the first two.
    """
    first, last = int(prefix.network.network_address), int(prefix.network.broadcast_address)
    return first + 2, last - (prefix.family is Family.IPV4)


@dataclass(frozen=True)
class State:
    """All that a node's ipam knows: its prefixes, and its leases by address."""

    prefixes: tuple[Prefix, ...] = ()
    leases: Mapping[Address, Lease] = field(default_factory=dict)

    def leased_to(self, owner: str) -> tuple[Lease, ...]:
        """Return what an owner holds."""
        return tuple(lease for lease in self.leases.values() if lease.owner == owner and _is_leased(lease))


@dataclass(frozen=True)
class Rules:
    """How leasing goes: `lost` tells why a prefix gives no new leases."""

    quarantine_s: float = 60
    lost: Mapping[Prefix, str] = field(default_factory=dict)


def allocate(
    state: State,
    owner: str,
    wanted: Iterable[Address],
    now: datetime,
    rules: Rules,
    families: Collection[Family] = (),
) -> tuple[State, tuple[Address, ...]]:
    """Return the state in which `owner` holds one address of each family, or of those in `families`, and its addresses.

    Raises InvalidInput, Conflict or Exhausted, and then nothing has changed; Unavailable when a prefix was lost to another node.
    """
    fixed = _by_family(state, wanted)
    for family in families:
        if all(prefix.family is not family for prefix in state.prefixes):
            raise InvalidInput(
                f"`families`: this node has no prefix of IPv{family.value}: add a pool to the option `pools`"
            )
    for prefix in state.prefixes:
        if families and prefix.family not in families:
            continue
        state = _allocate_one(state, owner, prefix, fixed.get(prefix.family), now, rules)
    return state, tuple(lease.address for lease in state.leased_to(owner))


def _allocate_one(
    state: State, owner: str, prefix: Prefix, fixed: Address | None, now: datetime, rules: Rules
) -> State:
    held = next((lease.address for lease in state.leased_to(owner) if lease.address.family is prefix.family), None)
    if held is not None and fixed in (None, held):
        return state
    if held is not None:
        raise Conflict(f"`addresses`: {owner} holds {held} already: release it before asking for {fixed}")
    if prefix in rules.lost:
        raise Unavailable(f"{prefix} gives no new leases: {rules.lost[prefix]}")
    if fixed is not None:
        _require_free(state, owner, fixed, now, rules)
    address = fixed or _pick(state, owner, prefix, now, rules)
    lease = Lease(address=address, owner=owner, state=LeaseState.LEASED, since=now)
    # the new lease goes to the end: the mapping's order is the order of events
    rest = {key: value for key, value in state.leases.items() if key != address}
    return replace(state, leases={**rest, address: lease})


def _by_family(state: State, wanted: Iterable[Address]) -> dict[Family, Address]:
    """Return the addresses asked for, each checked against the node's prefixes. Raises InvalidInput."""
    fixed: dict[Family, Address] = {}
    for address in wanted:
        if address.family in fixed:
            raise InvalidInput(f"`addresses`: {fixed[address.family]} and {address} are of one family: ask for one")
        prefix = next((prefix for prefix in state.prefixes if address in prefix), None)
        if prefix is None:
            raise InvalidInput(f"`addresses`: {address} is outside this node's {', '.join(state.prefixes)}")
        first, last = usable(prefix)
        if not first <= int(address.ip) <= last:
            raise InvalidInput(f"`addresses`: {address} is reserved in {prefix}: network, gateway or broadcast")
        fixed[address.family] = address
    return fixed


def _require_free(state: State, owner: str, address: Address, now: datetime, rules: Rules) -> None:
    lease = state.leases.get(address)
    if lease is None or (lease.owner == owner and not _is_leased(lease)):
        return
    if _is_leased(lease):
        raise Conflict(f"`addresses`: {address} is leased to {lease.owner} since {lease.since.isoformat()}")
    if _is_quarantined(lease, now, rules):
        raise Conflict(f"`addresses`: {address} was {lease.owner}'s and is quarantined for {rules.quarantine_s:g} s")


def _pick(state: State, owner: str, prefix: Prefix, now: datetime, rules: Rules) -> Address:
    """Return the owner's old address, else one never used, else the one released longest ago. Raises Exhausted."""
    records = [lease for lease in state.leases.values() if lease.address.family is prefix.family]
    released = sorted((lease for lease in records if not _is_leased(lease)), key=lambda lease: lease.since)
    old = next((lease.address for lease in reversed(released) if lease.owner == owner), None)
    fresh = old or _never_used(prefix, records)
    again = (lease.address for lease in released if not _is_quarantined(lease, now, rules))
    address = fresh or next(again, None)
    if address is None:
        leased = sum(map(_is_leased, records))
        raise Exhausted(f"{prefix} has no free address: {leased} leased, {len(released)} in quarantine")
    return address


def _never_used(prefix: Prefix, records: Iterable[Lease]) -> Address | None:
    """Return the lowest address that no record speaks of."""
    known = {int(lease.address.ip) for lease in records}
    first, last = usable(prefix)
    number = first
    while number in known:
        number += 1
    return _address(prefix.family, number) if number <= last else None


def _address(family: Family, number: int) -> Address:
    kind = ipaddress.IPv4Address if family is Family.IPV4 else ipaddress.IPv6Address
    return Address(str(kind(number)))


def release(
    state: State, owner: str, now: datetime, rules: Rules, *, unused: bool = False
) -> tuple[State, tuple[Address, ...]]:
    """Return the state without the owner's leases, and the addresses given back; those that were never used need no quarantine."""
    mine = state.leased_to(owner)
    leases = dict(state.leases)
    for lease in mine:
        del leases[lease.address]
        if unused:
            continue
        leases[lease.address] = Lease(address=lease.address, owner=owner, state=LeaseState.QUARANTINED, since=now)
    return replace(state, leases=_forget(leases, now, rules)), tuple(lease.address for lease in mine)


def _forget(leases: dict[Address, Lease], now: datetime, rules: Rules) -> dict[Address, Lease]:
    """Drop the oldest records that serve nobody any more, beyond a number worth keeping."""
    over = [lease for lease in leases.values() if not _is_leased(lease) and not _is_quarantined(lease, now, rules)]
    for lease in sorted(over, key=lambda lease: lease.since)[: max(0, len(over) - REMEMBERED)]:
        del leases[lease.address]
    return leases


def free_count(state: State, now: datetime, rules: Rules) -> int:
    """Return how many addresses could be leased now."""
    room = sum(last - first + 1 for first, last in map(usable, state.prefixes))
    busy = sum(_is_leased(lease) or _is_quarantined(lease, now, rules) for lease in state.leases.values())
    return min(max(room - busy, 0), MAX_COUNT)


def visible(state: State, now: datetime, rules: Rules) -> tuple[Lease, ...]:
    """Return leases and quarantines, in the order of addresses; what is merely remembered is free."""
    shown = (lease for lease in state.leases.values() if _is_leased(lease) or _is_quarantined(lease, now, rules))
    return tuple(sorted(shown, key=lambda lease: (lease.address.family, lease.address.packed)))


def _is_leased(lease: Lease) -> bool:
    return lease.state is LeaseState.LEASED


def _is_quarantined(lease: Lease, now: datetime, rules: Rules) -> bool:
    return not _is_leased(lease) and now - lease.since < timedelta(seconds=rules.quarantine_s)
