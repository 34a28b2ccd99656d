"""Who is who, as this node knows it: label sets and their numbers, prefixes and the identities behind them. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import IntEnum
from functools import lru_cache
from typing import NamedTuple, cast

from fairlead.address import Address, Prefix
from fairlead.errors import InvalidInput
from fairlead.schema.identity import (
    HOST,
    INIT,
    REMOTE_NODE,
    RESERVED_LABELS,
    UNKNOWN,
    AddressGroup,
    IdentityRow,
    NodeRow,
)
from fairlead.schema.policy import CidrRows
from services.datapath.model import EndpointRecord

_CIDR = "cidr"
Ages = Mapping[tuple[int, datetime], Iterable[str]]
"""Prefixes (their text is enough) by their identity and since when it is known."""


class IdentityBook:
    """Label sets and their numbers, both ways."""

    def __init__(self) -> None:
        self._labels_by_number: dict[int, tuple[str, ...]] = {int(n): labels for n, labels in RESERVED_LABELS.items()}
        self._numbers_by_labels: dict[tuple[str, ...], set[int]] = defaultdict(set)

    def put(self, row: IdentityRow) -> None:
        """Learn a label set."""
        self.remove(row.identity)
        self._labels_by_number[row.identity] = row.labels
        self._numbers_by_labels[row.labels].add(row.identity)

    def remove(self, number: int) -> None:
        """Forget a number."""
        labels = self._labels_by_number.pop(number, None)
        if labels is not None:
            self._numbers_by_labels[labels].discard(number)

    def put_cidrs(self, rows: CidrRows) -> None:
        """Learn what the identities of prefixes stand for."""
        for row in rows.rows:
            self._labels_by_number[row.identity] = row.labels or (f"cidr:{row.prefix}",)

    def labels(self, number: int) -> tuple[str, ...]:
        """Return the label set of the number; empty when it is not known."""
        return self._labels_by_number.get(number, ())

    def number(self, labels: tuple[str, ...], acknowledged: int = UNKNOWN) -> int:
        """Return the number of the label set, 0 when unknown. What identity has acknowledged to us wins over what we overhear."""
        if acknowledged:
            return acknowledged
        return min(self._numbers_by_labels.get(labels, ()), default=UNKNOWN)


class Rank(IntEnum):
    """Whose word counts about a prefix; the higher wins."""

    CIDR = 1
    GROUP = 2
    NODE = 3
    LOCAL = 4
    HOST = 5


class Owner(NamedTuple):
    """Who stands behind a prefix, as one source says it."""

    identity: int
    name: str = ""


class _Owners(dict[tuple[int, str], Owner]):
    """Owners by identity and name, each made once."""

    def __missing__(self, key: tuple[int, str]) -> Owner:
        return self.setdefault(key, Owner(*key))


@dataclass(frozen=True)
class Source:
    """One source's whole word: its prefixes and their owners, as of a revision."""

    key: str
    rank: Rank
    owners: Mapping[Prefix, Owner] = field(compare=False, default_factory=dict)
    revision: int = 0

    @property
    def weight(self) -> tuple[int, int, str]:
        """Return what decides between sources that claim the same prefix; the key makes it the same on every node."""
        return self.rank, self.revision, self.key


def host_source(addresses: tuple[Address, ...]) -> Source:
    """Return this node's own addresses."""
    return Source("host", Rank.HOST, {address.prefix: Owner(HOST, "host") for address in addresses})


def local_source(record: EndpointRecord, identity: int = UNKNOWN, *, gone: bool = False) -> Source:
    """Return a local endpoint's addresses; before its identity is known they stand for `init`, never for an earlier owner."""
    owner = Owner(identity or INIT, record.name)
    addresses = () if gone else record.addresses
    return Source(f"local/{record.endpoint}", Rank.LOCAL, {address.prefix: owner for address in addresses})


def node_source(key: str, row: NodeRow | None) -> Source:
    """Return another node's own addresses."""
    addresses = row.addresses if row else ()
    revision = row.revision if row else 0
    return Source(f"node/{key}", Rank.NODE, {a.prefix: Owner(REMOTE_NODE, key) for a in addresses}, revision)


def group_source(key: str, row: AddressGroup | None) -> Source:
    """Return one group of workload addresses."""
    entries, alike = row.entries if row else (), _Owners()
    owners = {entry.prefix: alike[entry.identity, entry.name] for entry in entries}
    return Source(f"group/{key}", Rank.GROUP, owners, row.revision if row else 0)


def cidr_source(row: CidrRows | None) -> Source:
    """Return the prefixes that policies name; text that is no prefix is left out."""
    rows = row.rows if row else ()
    parsed = ((_prefix(entry.prefix), entry) for entry in rows)
    owners = {prefix: Owner(entry.identity, entry.prefix) for prefix, entry in parsed if prefix is not None}
    return Source(_CIDR, Rank.CIDR, owners, row.revision if row else 0)


@lru_cache(maxsize=65536)
def _prefix(text: str) -> Prefix | None:
    """Return the prefix, or None for text that is none; the row comes whole each time, so parsing is remembered."""
    try:
        return Prefix(text)
    except InvalidInput:
        return None


class Known(NamedTuple):
    """What this node holds of one prefix: whose word counts, who it is, and since when this node has known that."""

    source: str
    owner: Owner
    since: datetime


class AddressBook:
    """What every source says of every prefix, and who therefore stands behind it.

    There are hundreds of thousands of prefixes: what many have in common is one object, and each prefix is one, wherever it is a key.
    """

    def __init__(self) -> None:
        self._sources: dict[str, Source] = {}
        self._known: dict[Prefix, Known] = {}
        self._rivals: dict[Prefix, frozenset[str]] = {}
        """The sources that claim a prefix, where they are more than one."""
        self.version = 0
        """Grows when an owner changes."""

    def put(self, source: Source, now: datetime) -> dict[Prefix, Owner | None]:
        """Replace the source's whole word; return the prefixes whose owner changed, None where nobody is left."""
        old = self._sources.pop(source.key, None)
        before = old.owners if old else {}
        ours = {prefix: prefix for prefix in before}
        after = {ours.get(prefix, prefix): owner for prefix, owner in source.owners.items()}
        if after:
            self._sources[source.key] = replace(source, owners=after)
        fresh = {prefix: owner for prefix, owner in after.items() if prefix not in self._known}
        moved = {prefix for prefix in before.keys() | after.keys() if before.get(prefix) != after.get(prefix)}
        disputed = moved.union(after.keys() & self._rivals.keys()).difference(fresh)
        winners = {prefix: self._winner(prefix, source.key, claims=prefix in after) for prefix in disputed}
        return self._discover(source.key, fresh, now) | self._settle(winners, now)

    def owner(self, prefix: Prefix) -> Owner | None:
        """Return who stands behind exactly this prefix."""
        known = self._known.get(prefix)
        return known.owner if known else None

    def owners(self) -> dict[Prefix, Owner]:
        """Return every prefix with its owner."""
        return {prefix: known.owner for prefix, known in self._known.items()}

    def ranges_of(self, identity: int) -> list[Prefix]:
        """Return the prefixes of policies that stand for the identity; it usually has one."""
        source = self._sources.get(_CIDR)
        return [prefix for prefix, owner in source.owners.items() if owner.identity == identity] if source else []

    def age_s(self, prefix: Prefix, now: datetime) -> float:
        """Return for how long this node has known who stands behind the prefix; -1 when it does not."""
        known = self._known.get(prefix)
        return max(0.0, (now - known.since).total_seconds()) if known else -1.0

    def since(self) -> Ages:
        """Return since when identities are known, to be kept over a restart."""
        ages: dict[tuple[int, datetime], list[Prefix]] = defaultdict(list)
        for prefix, known in self._known.items():
            ages[known.owner.identity, known.since].append(prefix)
        return ages

    def recall(self, ages: Ages) -> None:
        """Take over the ages of an earlier process, where the identity is still the same."""
        for (identity, since), prefixes in ages.items():
            alike: dict[Known, Known] = {}
            for prefix in cast("Iterable[Prefix]", prefixes):
                known = self._known.get(prefix)
                if known is not None and known.owner.identity == identity and since < known.since:
                    older = known._replace(since=since)
                    self._known[prefix] = alike.setdefault(older, older)

    def _winner(self, prefix: Prefix, key: str, *, claims: bool) -> Source | None:
        """Return the source whose word counts, now that the source `key` claims the prefix or does not."""
        known, rivals = self._known.get(prefix), self._rivals.get(prefix)
        if rivals is None and (known is None or known.source == key):
            return self._sources[key] if claims else None
        claimants = set(rivals or ({known.source} if known else ()))
        claimants.discard(key)
        claimants.update({key} if claims else ())
        if len(claimants) > 1:
            self._rivals[prefix] = frozenset(claimants)
        elif rivals:
            del self._rivals[prefix]
        return max((self._sources[claimant] for claimant in claimants), key=lambda source: source.weight, default=None)

    def _discover(self, key: str, fresh: Mapping[Prefix, Owner], now: datetime) -> dict[Prefix, Owner | None]:
        """Take the source's word for prefixes that nobody has claimed: at a start that is all of them, and this is the quick way."""
        alike = {owner: Known(key, owner, now) for owner in set(fresh.values())}
        self._known.update({prefix: alike[owner] for prefix, owner in fresh.items()})
        self.version += bool(fresh)
        return dict(fresh)

    def _settle(self, winners: Mapping[Prefix, Source | None], now: datetime) -> dict[Prefix, Owner | None]:
        changed: dict[Prefix, Owner | None] = {}
        alike: dict[Known, Known] = {}
        for prefix, source in winners.items():
            known = self._known.get(prefix)
            if source is None:
                if self._known.pop(prefix, None) is not None:
                    changed[prefix] = None
                continue
            owner = source.owners[prefix]
            is_new = known is None or known.owner.identity != owner.identity
            if is_new:
                changed[prefix] = owner
            new = Known(source.key, owner, now if known is None or is_new else known.since)
            self._known[prefix] = alike.setdefault(new, new)
        self.version += bool(changed)
        return changed
