"""Who may hold which address, and which number a label set gets. Pure decisions; nothing here waits or writes.

Every workload, a node's endpoint or an external one, has one record in the store. The record carries the generation and outlives the
workload as a tombstone, so that a late duplicate brings nothing back; each address names its record as owner.
"""

from __future__ import annotations

import hashlib
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import msgspec

from fairlead.address import Address, Prefix
from fairlead.errors import Conflict, Exhausted
from fairlead.schema.base import Message
from fairlead.schema.identity import FIRST_CLUSTER_IDENTITY, LAST_CLUSTER_IDENTITY
from services.identity import keys
from services.identity.cilium import AddressValue, Ownership, address_value, label_string

NUMBERS = LAST_CLUSTER_IDENTITY - FIRST_CLUSTER_IDENTITY + 1
LOSS_MIN = 20
"""Fewer entries may vanish at once without a question."""
LOSS_SHARE = 0.5
FULL_AT = 0.8
"""From this share of used numbers on, the service says that it is degraded."""


class Record(Message, frozen=True, kw_only=True):
    """What is known of one workload; `withdrawn` makes it a tombstone, which keeps the generation and nothing else."""

    generation: int
    addresses: tuple[Prefix, ...] = ()
    identity: int = 0
    labels: tuple[str, ...] = ()
    host: Address | None = None
    withdrawn: bool = False
    trace: str = ""
    responsible: str = ""
    """Who answers for an external workload, in the words of its source."""
    lease_s: float = 0
    heard: datetime | None = None
    """When a workload with a lease was last heard of."""
    site: str = ""


@dataclass(frozen=True)
class Held:
    """One address key as it stands; `revision` 0 and no value when there is none."""

    revision: int = 0
    value: AddressValue | None = None

    @property
    def owner(self) -> str:
        """Return the owner's record key, or nothing."""
        return self.value.owner if self.value else ""

    @property
    def generation(self) -> int:
        """Return the owner's generation when it took the address."""
        return self.value.fairlead.generation if self.value and self.value.fairlead else 0


@dataclass(frozen=True)
class Plan:
    """What one commit changes: addresses to set, addresses to remove, the record to store, the groups that this touches."""

    record: Record
    puts: Mapping[Prefix, AddressValue]
    deletes: tuple[Prefix, ...]
    groups: frozenset[str]

    @property
    def size(self) -> int:
        """Return how many keys the plan changes."""
        return len(self.puts) + len(self.deletes) + len(self.groups) + 1


@dataclass
class LossGuard:
    """Notices when much vanishes from the store at once, which is more likely an accident than a wish.

    While `held`, nothing is announced; it ends when most of it is back, or when a person accepts the loss.
    """

    lost: frozenset[str] = frozenset()

    @property
    def held(self) -> bool:
        """Tell whether announcing must wait."""
        return bool(self.lost)

    def look(self, before: frozenset[str], now: frozenset[str]) -> None:
        """Compare what was there with what is there."""
        gone = before - now
        if len(gone) >= LOSS_MIN and len(gone) > len(before) * LOSS_SHARE:
            self.lost |= gone
        elif self.held and len(self.lost - now) <= len(self.lost) * LOSS_SHARE:
            self.accept()

    def accept(self) -> None:
        """Let the loss take effect."""
        self.lost = frozenset()


def plan_put(owner: str, name: str, old: Record | None, new: Record, held: Mapping[Prefix, Held]) -> Plan | None:
    """Return how `new` takes effect, None if all stands already. Raises Conflict naming who holds an address.

    `held` tells of every address of `new` and of `old`.
    """
    for prefix in new.addresses:
        require_available(owner, new, prefix, held[prefix])
    values = {prefix: _value(owner, name, new, prefix) for prefix in new.addresses}
    puts = {prefix: value for prefix, value in values.items() if not _equal(held[prefix].value, value)}
    before = old.addresses if old else ()
    deletes = tuple(p for p in before if p not in values and held[p].owner == owner)
    if not puts and not deletes and old is not None and _same(old, new):
        return None
    return Plan(new, puts, deletes, _groups(owner, (*puts, *deletes), held))


def plan_withdraw(owner: str, old: Record | None, tombstone: Record, held: Mapping[Prefix, Held]) -> Plan | None:
    """Return how the workload goes, None if it is gone already. What a newer generation or somebody else owns stays."""
    mine = tuple(
        prefix for prefix, found in held.items() if found.owner == owner and found.generation <= tombstone.generation
    )
    if not mine and old is not None and old.withdrawn and old.generation >= tombstone.generation:
        return None
    return Plan(tombstone, {}, mine, _groups(owner, mine, held))


def plan_release(owner: str, old: Record, plan: Plan, held: Mapping[Prefix, Held]) -> Plan:
    """Return the part of a plan that only gives addresses back, for plans too large for one commit."""
    kept = tuple(prefix for prefix in old.addresses if prefix not in plan.deletes)
    record = msgspec.structs.replace(old, addresses=kept, trace=plan.record.trace)
    return Plan(record, {}, plan.deletes, _groups(owner, plan.deletes, held))


def require_newer(what: str, old: Record | None, generation: int) -> None:
    """Raise Conflict when a node speaks of an endpoint with an older generation than the one known, or of one that is gone.

    Generation 0 means that the sender does not count; it is never newer than one that counts.
    """
    if old is None:
        return
    if generation < old.generation:
        raise Conflict(f"`generation`: {what} is known with generation {old.generation}, newer than {generation}")
    if old.withdrawn and generation == old.generation != 0:
        raise Conflict(f"`generation`: {what} of generation {generation} was withdrawn; use a larger one")


def require_available(owner: str, new: Record, prefix: Prefix, found: Held) -> None:
    """Raise Conflict when somebody else holds the address with an equal or better right.

    Between endpoints the larger generation wins (an address moves); an external record yields to nobody and takes from nobody;
    entries without owner yield, unless they say that a node hosts them and an external record asks.
    """
    value = found.value
    if value is None or found.owner == owner:
        return
    external = owner.startswith(keys.EXTERNALS)
    if not found.owner:
        if external and value.host is not None and value.host.prefix != prefix:
            raise Conflict(f"`addresses`: {prefix} belongs to {value.pod_name or 'a workload'} on node {value.host}")
        return
    if external or found.owner.startswith(keys.EXTERNALS) or new.generation <= found.generation:
        raise Conflict(f"`addresses`: {prefix} belongs to {found.owner} (generation {found.generation})")


def candidate(labels: Sequence[str], taken: Container[int]) -> int:
    """Return a free number, the same for the same labels and the same numbers taken. Raises Exhausted."""
    start = int.from_bytes(hashlib.sha256(label_string(labels).encode()).digest()[:8])
    for step in range(NUMBERS):
        number = FIRST_CLUSTER_IDENTITY + (start + step) % NUMBERS
        if number not in taken:
            return number
    raise Exhausted(f"all {NUMBERS} identity numbers are in use: reduce the labels that make workloads different")


def is_overdue(record: Record, now: datetime) -> bool:
    """Tell whether nothing was heard of a leased workload for longer than its lease."""
    if record.withdrawn or not record.lease_s or record.heard is None:
        return False
    return (now - record.heard).total_seconds() > record.lease_s


def should_note_heard(record: Record, now: datetime) -> bool:
    """Tell whether a repeated message of a leased workload is worth a write: a quarter of the lease has passed."""
    if record.withdrawn or not record.lease_s or record.heard is None:
        return False
    return (now - record.heard).total_seconds() > record.lease_s / 4


def _value(owner: str, name: str, new: Record, prefix: Prefix) -> AddressValue:
    ownership = Ownership(owner=owner, generation=new.generation, trace=new.trace)
    return address_value(prefix, new.identity, host=new.host, name=name, ownership=ownership)


def _equal(old: AddressValue | None, new: AddressValue) -> bool:
    """Compare without the trace: a repetition is no change."""
    return old is not None and _essence(old) == _essence(new)


def _essence(value: AddressValue) -> tuple[object, ...]:
    return (
        value.prefix,
        value.host,
        value.id,
        value.pod_name,
        value.owner,
        value.fairlead and value.fairlead.generation,
    )


def _same(old: Record, new: Record) -> bool:
    return (old.generation, old.addresses, old.identity, old.labels, old.host, old.withdrawn) == (
        new.generation,
        new.addresses,
        new.identity,
        new.labels,
        new.host,
        new.withdrawn,
    )


def _groups(owner: str, changed: Sequence[Prefix], held: Mapping[Prefix, Held]) -> frozenset[str]:
    """Return the groups in which the changed addresses stand before and after."""
    owners = ((prefix, other) for prefix in changed for other in (owner, held[prefix].owner) if other)
    return frozenset(keys.node_of(other) or keys.shard(prefix) for prefix, other in owners)
