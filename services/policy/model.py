"""The world as policy knows it, and which subjects a change concerns.

Identities, policies and prefixes come and go one at a time; each call notes the subjects whose rows may have changed, and nothing else is
looked at again. What comes out is the same as resolving everything anew.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet

from fairlead.schema.identity import FIRST_CLUSTER_IDENTITY, INIT, LAST_CLUSTER_IDENTITY, RESERVED_LABELS
from fairlead.schema.policy import Direction, PolicyRow
from services.policy import resolve
from services.policy.amend import amended
from services.policy.index import SelectorIndex
from services.policy.labels import Identity, make_identity, parse_label
from services.policy.resolve import Enforcement
from services.policy.rules import Expected, Policy, Rule
from services.policy.selector import WILDCARD, Selector

_MOST_AMENDMENTS = 16
"""Changed peers of one row from which on it is cheaper to resolve it anew."""


class Model:
    """Identities and policies, and the subjects that wait to be resolved again."""

    def __init__(self, enforcement: Enforcement) -> None:
        self._enforcement = enforcement
        self._index = SelectorIndex()
        self._identities: dict[int, Identity] = {}
        self._policies: dict[str, Policy] = {}
        self._by_subject: dict[Selector, set[Rule]] = {}
        self._by_peer: dict[Selector, set[Rule]] = {}
        self._prefixes: Counter[str] = Counter()
        self._pending: set[int] = set()
        self._rows: dict[int, PolicyRow] = {}
        """Rows as they were last, until the subject or a rule of it changes."""
        self._changed_peers: dict[int, set[int]] = {}
        """The peers whose entries in such a row are out of date."""

    @property
    def identities(self) -> Mapping[int, Identity]:
        """Return every identity by number."""
        return self._identities

    @property
    def policies(self) -> Mapping[str, Policy]:
        """Return every policy by key."""
        return self._policies

    def put_identity(self, identity: Identity) -> None:
        """Take in an identity, or its new labels."""
        if self._identities.get(identity.number) == identity:
            return
        self.remove_identity(identity.number)
        self._identities[identity.number] = identity
        self._index.add_identity(identity)
        self._note_subjects((identity.number,))
        self._note_peer(identity.number)

    def remove_identity(self, number: int) -> None:
        """Forget an identity; one that is not known counts as removed."""
        if self._identities.pop(number, None) is None:
            return
        self._note_subjects((number,))
        self._note_peer(number)
        self._index.remove_identity(number)

    def put_policy(self, key: str, policy: Policy) -> None:
        """Take in a policy in place of the one under this key."""
        self.remove_policy(key)
        self._policies[key] = policy
        self._prefixes.update(policy.prefixes)
        for rule in policy.rules:
            self._index.use(rule.subject)
            self._by_subject.setdefault(rule.subject, set()).add(rule)
            for peer in _indexed_peers(rule):
                self._index.use(peer)
                self._by_peer.setdefault(peer, set()).add(rule)
            self._note_subjects(self._index.members(rule.subject))

    def remove_policy(self, key: str) -> None:
        """Forget a policy; one that is not known counts as removed."""
        policy = self._policies.pop(key, None)
        if policy is None:
            return
        self._prefixes -= Counter(policy.prefixes)
        for rule in policy.rules:
            self._note_subjects(self._index.members(rule.subject))
            _unfile(self._by_subject, rule.subject, rule)
            self._index.drop(rule.subject)
            for peer in _indexed_peers(rule):
                _unfile(self._by_peer, peer, rule)
                self._index.drop(peer)

    def selected(self, policy: Policy) -> set[int]:
        """Return the subjects that a policy selects now, whether or not it is among the model's own."""
        subjects = {rule.subject for rule in policy.rules if not rule.selects_hosts}
        for subject in subjects:
            self._index.use(subject)
        found = {number for subject in subjects for number in self._index.members(subject) if is_subject(number)}
        for subject in subjects:
            self._index.drop(subject)
        return found

    def unmet(self, policy: Policy) -> list[Expected]:
        """Return what a policy names and nobody is found by now, whether or not the policy is among the model's own."""
        for expected in policy.expected:
            self._index.use(expected.selector)
        found = [expected for expected in policy.expected if not self._index.members(expected.selector)]
        for expected in policy.expected:
            self._index.drop(expected.selector)
        return found

    @property
    def prefixes(self) -> AbstractSet[str]:
        """Return every prefix that a policy names."""
        return self._prefixes.keys()

    def take_pending(self) -> set[int]:
        """Return the subjects whose rows may have changed since the last call; some may be gone."""
        pending, self._pending = self._pending, set()
        return {number for number in pending if is_subject(number)}

    def row(self, number: int) -> PolicyRow | None:
        """Return the subject's row without revision and trace; None when the identity is not known."""
        identity = self._identities.get(number)
        peers = self._changed_peers.pop(number, ())
        row = self._rows.get(number) if len(peers) <= _MOST_AMENDMENTS else None
        if identity is None:
            return None
        for peer in peers if row else ():
            row = row and amended(row, identity, peer, self._naming(number, peer), self._world, self._enforcement)
        if row is None:
            row = self.row_anew(number)
        if row is not None:
            self._rows[number] = row
        return row

    def row_anew(self, number: int) -> PolicyRow | None:
        """Return the same as `row`, from nothing but identities and policies."""
        identity = self._identities.get(number)
        if identity is None:
            return None
        return resolve.resolve(identity, self._rules_of(number), self._world, self._enforcement)

    @property
    def _world(self) -> resolve.World:
        return resolve.World(self._index.members, self._identities)

    def _note_subjects(self, numbers: Iterable[int]) -> None:
        """Note subjects whose rows are to be resolved anew."""
        self._pending.update(numbers)
        for number in numbers:
            self._rows.pop(number, None)
            self._changed_peers.pop(number, None)

    def _rules_of(self, number: int) -> Iterable[Rule]:
        for selector in self._index.selectors_of(number):
            yield from self._by_subject.get(selector, ())

    def _naming(self, number: int, peer: int) -> list[Rule]:
        """Return the subject's rules that name the peer; none for one that is gone."""
        named = set().union(*(self._by_peer.get(selector, ()) for selector in self._index.selectors_of(peer)))
        return [rule for rule in self._rules_of(number) if rule in named]

    def _note_peer(self, number: int) -> None:
        """Note the subjects of every rule that has the identity among its peers."""
        for selector in self._index.selectors_of(number):
            for rule in self._by_peer.get(selector, ()):
                subjects = self._index.members(rule.subject)
                self._pending |= subjects
                for subject in subjects & self._rows.keys():
                    self._changed_peers.setdefault(subject, set()).add(number)


def is_subject(number: int) -> bool:
    """Tell whether rows are made for the identity: workloads of this cluster, and workloads without labels yet."""
    return number == INIT or FIRST_CLUSTER_IDENTITY <= number <= LAST_CLUSTER_IDENTITY


def reserved_identities() -> list[Identity]:
    """Return the identities that are always there."""
    return [make_identity(number, map(parse_label, labels)) for number, labels in RESERVED_LABELS.items()]


def _indexed_peers(rule: Rule) -> Iterable[Selector]:
    """Return the peers whose members matter; the wildcard's do only where a port's name is looked up at each of them."""
    by_name = rule.direction is Direction.EGRESS and any(traffic.port.name for traffic in rule.traffic)
    return (peer for peer in rule.peers if by_name or peer != WILDCARD)


def _unfile(table: dict[Selector, set[Rule]], selector: Selector, rule: Rule) -> None:
    table[selector].discard(rule)
    if not table[selector]:
        del table[selector]
