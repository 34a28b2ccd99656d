"""Which identities each selector selects, kept up to date one identity or one selector at a time.

Every selector is filed under one of its requirements, the most telling one, and every identity under its labels; a new identity is
compared with the selectors filed under its own labels only, and a new selector with the identities filed under its requirement.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterable
from typing import TypeVar

from services.policy.labels import CLUSTER_KEY, NAMESPACE_KEY, Identity, Network, network
from services.policy.selector import Operator, Requirement, Selector

_K = TypeVar("_K")
_V = TypeVar("_V")
_Anchor = tuple[str, str | None] | Network | None
"""Where a selector is filed: key and value, key alone, prefix, or nowhere (then it is compared with every identity)."""


class SelectorIndex:
    """Members of every selector in use; selectors are counted, and forgotten with their last use."""

    def __init__(self) -> None:
        self._identities: dict[int, Identity] = {}
        self._by_label: dict[tuple[str, str | None], set[int]] = {}
        self._networks: list[tuple[Network, int]] = []
        self._uses: Counter[Selector] = Counter()
        self._members: dict[Selector, set[int]] = {}
        self._filed: dict[_Anchor, set[Selector]] = {}
        self._selectors_of: dict[int, set[Selector]] = {}

    def members(self, selector: Selector) -> set[int]:
        """Return the numbers of the identities that a selector in use selects."""
        return self._members.get(selector, set())

    def selectors_of(self, number: int) -> set[Selector]:
        """Return the selectors in use that select the identity."""
        return self._selectors_of.get(number, set())

    def add_identity(self, identity: Identity) -> None:
        """Take the identity in; one with the same number must have been removed before."""
        self._identities[identity.number] = identity
        for entry in _entries(identity):
            self._by_label.setdefault(entry, set()).add(identity.number)
        if identity.network is not None:
            insort(self._networks, (identity.network, identity.number))
        mine = {selector for selector in self._filed_for(identity) if selector.matches(identity)}
        self._selectors_of[identity.number] = mine
        for selector in mine:
            self._members[selector].add(identity.number)

    def remove_identity(self, number: int) -> None:
        """Forget the identity; one that is not known counts as removed."""
        identity = self._identities.pop(number, None)
        if identity is None:
            return
        for entry in _entries(identity):
            _discard(self._by_label, entry, number)
        if identity.network is not None:
            self._networks.remove((identity.network, number))
        for selector in self._selectors_of.pop(number):
            self._members[selector].discard(number)

    def use(self, selector: Selector) -> None:
        """Count one more use of the selector; the first one finds its members."""
        self._uses[selector] += 1
        if self._uses[selector] > 1:
            return
        members = {number for number in self._candidates(selector) if selector.matches(self._identities[number])}
        self._members[selector] = members
        for anchor in _anchors(selector):
            self._filed.setdefault(anchor, set()).add(selector)
        for number in members:
            self._selectors_of[number].add(selector)

    def drop(self, selector: Selector) -> None:
        """Count one use less of a selector in use; the last one forgets it."""
        self._uses[selector] -= 1
        if self._uses[selector] > 0:
            return
        del self._uses[selector]
        for anchor in _anchors(selector):
            _discard(self._filed, anchor, selector)
        for number in self._members.pop(selector):
            self._selectors_of[number].discard(selector)

    def _filed_for(self, identity: Identity) -> set[Selector]:
        found = set(self._filed.get(None, ()))
        for entry in _entries(identity):
            found |= self._filed.get(entry, set())
        if identity.network is not None:
            for length in range(identity.network.length + 1):
                found |= self._filed.get(_shortened(identity.network, length), set())
        return found

    def _candidates(self, selector: Selector) -> Iterable[int]:
        found: set[int] = set()
        for anchor in _anchors(selector):
            if anchor is None:
                return list(self._identities)
            if isinstance(anchor, Network):
                found.update(self._inside(anchor))
            else:
                found |= self._by_label.get(anchor, set())
        return found

    def _inside(self, outer: Network) -> Iterable[int]:
        """Return the identities whose prefix lies in `outer`: they stand together in the sorted list."""
        start = bisect_left(self._networks, ((outer.version, outer.first, 0), 0))
        for position in range(start, len(self._networks)):
            inner, number = self._networks[position]
            if inner.version != outer.version or inner.first > outer.last:
                return
            if outer.covers(inner):
                yield number


def _entries(identity: Identity) -> Iterable[tuple[str, str | None]]:
    """Return what an identity is filed under: each key with its value, and each key alone."""
    for label in identity.labels:
        yield label.key, label.value
        yield label.key, None


def _anchors(selector: Selector) -> list[_Anchor]:
    """Return where to file the selector: one entry, or one for each value of the chosen requirement."""
    best = max(selector, key=_telling, default=None)
    if best is None or _telling(best) == 0:
        return [None]
    if best.source == "cidr":
        return [network(best.key)]
    if best.operator is Operator.IN:
        return [(best.key, value) for value in best.values]
    return [(best.key, None)]


def _telling(requirement: Requirement) -> int:
    """Rank requirements by how few identities they usually leave; 0: useless for finding any."""
    if requirement.operator in (Operator.NOT_IN, Operator.DOES_NOT_EXIST):
        return 0
    if requirement.source == "cidr":
        return 5
    if requirement.key in (NAMESPACE_KEY, CLUSTER_KEY):
        return 2 if requirement.operator is Operator.IN and requirement.key == NAMESPACE_KEY else 1
    return 4 if requirement.operator is Operator.IN else 3


def _shortened(inner: Network, length: int) -> Network:
    bits = 32 if inner.version == 4 else 128
    return Network(inner.version, inner.first >> (bits - length) << (bits - length), length)


def _discard(table: dict[_K, set[_V]], key: _K, value: _V) -> None:
    table[key].discard(value)
    if not table[key]:
        del table[key]
