"""The world as policy knows it, and which subjects a change concerns.

Identities, policies and prefixes come and go one at a time; each call notes the subjects whose rows may have changed, and nothing else is
looked at again. What comes out is the same as resolving everything anew.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet

from fairlead.schema.identity import RESERVED_LABELS
from fairlead.schema.policy import Direction, PolicyRow
from services.policy import resolve
from services.policy.amend import amended
from services.policy.index import SelectorIndex
from services.policy.labels import Identity, Label, make_identity, parse_label
from services.policy.resolve import Enforcement
from services.policy.rules import Expected, Policy, Rule
from services.policy.selector import WILDCARD, Selector
from services.policy.subjects import Nodes, Subjects, host_identity, is_subject

_MOST_AMENDMENTS = 16
"""Changed peers of one row from which on it is cheaper to resolve it anew."""


class Model:
    """Identities and policies, and the subjects that wait to be resolved again."""

    def __init__(self, enforcement: Enforcement) -> None:
        self._enforcement = enforcement
        self._index = SelectorIndex()
        self._identities: dict[int, Identity] = {}
        self._policies: dict[str, Policy] = {}
        self._workloads = Subjects(self._index)
        self._hosts = Subjects(SelectorIndex())
        self._nodes = Nodes()
        self._by_peer: dict[Selector, set[Rule]] = {}
        self._prefixes: Counter[str] = Counter()
        self._pending: set[int] = set()
        self._rows: dict[int, PolicyRow] = {}
        """Rows as they were last, until the subject or a rule of it changes."""
        self._changed_peers: dict[int, set[int]] = {}
        """The peers whose entries in such a row are out of date."""

    @property
    def identities(self) -> Mapping[int, Identity]:
        """Return every identity by number; nodes as subjects have numbers below 0."""
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

    def put_host(self, node: str, labels: Iterable[Label]) -> None:
        """Take in a node as a subject, or its new labels."""
        identity = host_identity(self._nodes.number(node), node, labels)
        if self._identities.get(identity.number) == identity:
            return
        self._hosts.index.remove_identity(identity.number)
        self._identities[identity.number] = identity
        self._hosts.index.add_identity(identity)
        self._note_subjects((identity.number,))

    def remove_host(self, node: str) -> None:
        """Forget a node; one that is not known counts as removed."""
        number = self._nodes.number(node)
        if self._identities.pop(number, None) is not None:
            self._hosts.index.remove_identity(number)
            self._note_subjects((number,))

    def row_key(self, number: int) -> str:
        """Return the key of a subject's row on the bus."""
        return self._nodes.row_key(number)

    @property
    def row_keys(self) -> set[str]:
        """Return the keys of the rows of all subjects."""
        return {self.row_key(number) for number in self._identities if is_subject(number)}

    def put_policy(self, key: str, policy: Policy) -> None:
        """Take in a policy in place of the one under this key."""
        self.remove_policy(key)
        self._policies[key] = policy
        self._prefixes.update(policy.prefixes)
        for rule in policy.rules:
            for peer in _indexed_peers(rule):
                self._index.use(peer)
                self._by_peer.setdefault(peer, set()).add(rule)
            self._note_subjects(self._subjects(rule).add(rule))

    def remove_policy(self, key: str) -> None:
        """Forget a policy; one that is not known counts as removed."""
        policy = self._policies.pop(key, None)
        if policy is None:
            return
        self._prefixes -= Counter(policy.prefixes)
        for rule in policy.rules:
            self._note_subjects(self._subjects(rule).drop(rule))
            for peer in _indexed_peers(rule):
                _unfile(self._by_peer, peer, rule)
                self._index.drop(peer)

    def selected(self, policy: Policy) -> set[int]:
        """Return the subjects that a policy selects now, whether or not it is among the model's own."""
        workloads = self._workloads.selected(rule.subject for rule in policy.workload_rules)
        hosts = self._hosts.selected(rule.subject for rule in policy.rules if rule.selects_hosts)
        return {number for number in workloads | hosts if is_subject(number)}

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

    def _subjects(self, rule: Rule) -> Subjects:
        return self._hosts if rule.selects_hosts else self._workloads

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
        return (self._hosts if number < 0 else self._workloads).rules_of(number)

    def _naming(self, number: int, peer: int) -> list[Rule]:
        """Return the subject's rules that name the peer; none for one that is gone."""
        named = set().union(*(self._by_peer.get(selector, ()) for selector in self._index.selectors_of(peer)))
        return [rule for rule in self._rules_of(number) if rule in named]

    def _note_peer(self, number: int) -> None:
        """Note the subjects of every rule that has the identity among its peers."""
        for selector in self._index.selectors_of(number):
            for rule in self._by_peer.get(selector, ()):
                subjects = self._subjects(rule).index.members(rule.subject)
                self._pending |= subjects
                for subject in subjects & self._rows.keys():
                    self._changed_peers.setdefault(subject, set()).add(number)


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
