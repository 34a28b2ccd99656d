"""From wanted and found to the least work between them. All functions are pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Generic, TypeVar

import msgspec

from fairlead.address import Prefix
from fairlead.errors import Exhausted, InvalidInput
from fairlead.schema.policy import PolicyEntry, PolicyRow
from services.datapath.model import PolicyMap
from services.datapath.operations import POLICY_MAP_CAPACITY, PolicyKey, PolicyValue
from services.datapath.ranges import PortRange, blocks, rank

K = TypeVar("K")
V = TypeVar("V")

HELD_ROWS = 20
HELD_SHARE = 0.2

Numbering = Callable[[tuple[str, ...]], int]
"""Gives each set of provenance texts its number; none has 0."""


@dataclass(frozen=True)
class Change(Generic[K, V]):
    """What to do so that a map holds what is wanted."""

    puts: Mapping[K, V]
    deletes: tuple[K, ...]

    @cached_property
    def ordered(self) -> frozenset[tuple[K, V]]:
        """Return the rows that are put."""
        return frozenset(self.puts.items())

    def __bool__(self) -> bool:
        """Tell whether there is anything to do."""
        return bool(self.puts or self.deletes)


def plan(want: Mapping[K, V], have: Mapping[K, V]) -> Change[K, V]:
    """Return the least work that turns `have` into `want`."""
    puts = {key: value for key, value in want.items() if have.get(key) != value}
    return Change(puts, tuple(key for key in have if key not in want))


def foreign(have: Mapping[K, V], ordered: Collection[tuple[K, V]]) -> dict[K, V]:
    """Return the entries that nobody has ordered: neither the wanted map nor any that was on its way into the kernel holds them."""
    return {key: value for key, value in have.items() if (key, value) not in ordered}


def expand(row: PolicyRow, number: Numbering) -> PolicyMap:
    """Return the kernel map that the row comes to.

    Raises Exhausted when it would not fit, InvalidInput when an entry contradicts itself; nothing of such a row is realised.
    """
    entries: dict[PolicyKey, PolicyValue] = {}
    ranges: dict[PolicyKey, list[PortRange]] = defaultdict(list)
    numbers = cache(lambda origins: number(_texts(row, origins)))
    values = cache(PolicyValue)
    for entry in row.entries:
        _check(entry)
        # thousands of entries have a few origins and values between them
        value = values(entry.deny, entry.precedence, entry.proxy_port, numbers(entry.origins))
        key = PolicyKey(entry.identity, entry.port, entry.protocol, int(entry.direction))
        if entry.end_port > entry.port:
            ranges[key._replace(port=0)].append(PortRange(entry.port, entry.end_port, value))
            continue
        other = entries.get(key)
        entries[key] = value if other is None else max(value, other, key=rank)
    for key, found in ranges.items():
        entries.update({key._replace(port=port, port_bits=bits): value for port, bits, value in blocks(found)})
    if len(entries) > POLICY_MAP_CAPACITY:
        raise Exhausted(
            f"{len(entries)} entries for identity {row.identity}, a policy map holds {POLICY_MAP_CAPACITY}: "
            "select fewer peers or ports"
        )
    return PolicyMap(
        identity=row.identity,
        revision=row.revision,
        entries=entries,
        ingress_default_deny=number(_texts(row, row.ingress_default_deny)),
        egress_default_deny=number(_texts(row, row.egress_default_deny)),
        audit_ingress=row.audit_ingress,
        audit_egress=row.audit_egress,
        trace=row.trace,
    )


def expand_staged(row: PolicyRow, number: Numbering) -> PolicyMap | None:
    """Return what the row would come to with all that is audited or staged enforced; None if nothing is. Raises as `expand`."""
    if row.staged is None:
        return None
    staged = msgspec.structs.replace(
        row,
        entries=row.staged.entries,
        ingress_default_deny=row.staged.ingress_default_deny,
        egress_default_deny=row.staged.egress_default_deny,
    )
    return expand(staged, number)


def _texts(row: PolicyRow, indexes: tuple[int, ...]) -> tuple[str, ...]:
    if any(not 0 <= index < len(row.origins) for index in indexes):
        raise InvalidInput(f"`origins`: {indexes} of identity {row.identity} names a text that the row does not have")
    return tuple(sorted({row.origins[index] for index in indexes}))


def _check(entry: PolicyEntry) -> None:
    last = entry.end_port or entry.port
    if last < entry.port or (entry.end_port and not entry.port) or (entry.port and not entry.protocol):
        raise InvalidInput(
            f"`entries`: ports {entry.port}-{entry.end_port} of protocol {entry.protocol} contradict each other"
        )


def too_many(removed: Collection[Prefix], present: int) -> bool:
    """Tell whether so many rows at once look like a fault of the source rather than like the truth."""
    return len(removed) > max(HELD_ROWS, HELD_SHARE * present)
