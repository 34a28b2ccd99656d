"""The world as policy knows it, and which subjects a change concerns.

Identities, policies and prefixes come and go one at a time; each call notes the subjects whose rows may have changed, and nothing else is
looked at again. What comes out is the same as resolving everything anew.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet

from fairlead.schema.identity import FIRST_CIDR_IDENTITY, HOST, RESERVED_LABELS
from fairlead.schema.policy import Direction, PolicyRow
from services.policy import resolve
from services.policy.amend import Amendment, Ports, amend
from services.policy.assemble import assembled
from services.policy.cohorts import Cohort, Subjects
from services.policy.exchange import exchanged
from services.policy.index import SelectorIndex
from services.policy.labels import Identity, Label, make_identity, parse_label
from services.policy.packed import PackedRow, pack, unpack
from services.policy.resolve import Enforcement
from services.policy.rules import Expected, Policy, Rule
from services.policy.selector import WILDCARD, Selector
from services.policy.subjects import Nodes, host_identity, is_subject

_Naming = Mapping[Cohort, AbstractSet[Rule]]
_NO_RULES: frozenset[Rule] = frozenset()
_MOST_AMENDMENTS = 48
"""Changed peers of a short row from which on it is cheaper to resolve it anew; of a long one: as many as it has entries."""


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
        self._changed: dict[int, _Naming] = {}
        """Peers that have changed, whose entries in which rows are out of date, and the rules there that name them now."""

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
        if identity.number < FIRST_CIDR_IDENTITY:
            self._workloads.move(identity.number)
        self._pending.add(identity.number)
        self._note_peer(identity.number, gone=False)

    def remove_identity(self, number: int) -> None:
        """Forget an identity; one that is not known counts as removed."""
        if self._identities.pop(number, None) is None:
            return
        self._pending.add(number)
        self._note_peer(number, gone=True)
        self._workloads.remove(number)
        self._index.remove_identity(number)

    def put_host(self, node: str, labels: Iterable[Label]) -> None:
        """Take in a node as a subject, or its new labels."""
        identity = host_identity(self._nodes.number(node), node, labels)
        if self._identities.get(identity.number) == identity:
            return
        self._hosts.index.remove_identity(identity.number)
        self._identities[identity.number] = identity
        self._hosts.index.add_identity(identity)
        self._hosts.move(identity.number)
        self._pending.add(identity.number)

    def remove_host(self, node: str) -> None:
        """Forget a node; one that is not known counts as removed."""
        number = self._nodes.number(node)
        if self._identities.pop(number, None) is not None:
            self._hosts.remove(number)
            self._hosts.index.remove_identity(number)
            self._pending.add(number)

    def row_key(self, number: int) -> str:
        """Return the key of a subject's row on the bus."""
        return self._nodes.row_key(number)

    def subject(self, key: str) -> int:
        """Return the number of the subject whose row has this key."""
        return self._nodes.subject(key)

    @property
    def row_keys(self) -> set[str]:
        """Return the keys of the rows of all subjects."""
        return {self.row_key(number) for number in self._identities if is_subject(number)}

    def put_policy(self, key: str, policy: Policy) -> None:
        """Take in a policy in place of the one under this key."""
        old = self._policies.get(key)
        if old is policy:
            return
        pairs = exchanged(old, policy) if old is not None else None
        self._add_rules(policy, expire=pairs is None)
        concerned = [(self._subjects(new), new.subject, self._peers_of(old, new)) for old, new in pairs or ()]
        if old is not None:  # after the new one, so that what both use is not forgotten in between
            self._drop_rules(old, expire=pairs is None)
        self._policies[key] = policy
        for subjects, subject, peers in concerned:
            self._note_peers(peers, set(subjects.cohorts(subject)))

    def remove_policy(self, key: str) -> None:
        """Forget a policy; one that is not known counts as removed."""
        policy = self._policies.pop(key, None)
        if policy is not None:
            self._drop_rules(policy, expire=True)

    def _add_rules(self, policy: Policy, *, expire: bool) -> None:
        self._prefixes.update(policy.prefixes)
        for rule in policy.rules:
            for peer in _indexed_peers(rule):
                self._index.use(peer)
                self._by_peer.setdefault(peer, set()).add(rule)
            self._pending |= self._subjects(rule).add(rule, expire=expire)

    def _drop_rules(self, policy: Policy, *, expire: bool) -> None:
        self._prefixes -= Counter(policy.prefixes)
        for rule in policy.rules:
            self._pending |= self._subjects(rule).drop(rule, expire=expire)
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
        self._settle()
        pending, self._pending = self._pending, set()
        return {number for number in pending if is_subject(number)}

    def row(self, number: int) -> PolicyRow | None:
        """Return the subject's row without revision and trace; None when the identity is not known."""
        packed = self.packed(number)
        return None if packed is None else unpack(packed, HOST if number < 0 else number)

    def packed(self, number: int) -> PackedRow | None:
        """Return the same as `row`, packed: the same object for all subjects of a cohort, until it changes."""
        self._settle()
        cohort = (self._hosts if number < 0 else self._workloads).of.get(number)
        if cohort is None:
            anew = self.row_anew(number)
            return None if anew is None else pack(anew)
        if cohort.packed is None:
            if cohort.row is None:
                cohort.row = assembled(self._identities[number], self._rules_of(number), self._world, self._enforcement)
            cohort.packed = pack(cohort.row.head, cohort.row.entries)
        return cohort.packed

    def row_anew(self, number: int) -> PolicyRow | None:
        """Return the same as `row`, from nothing but identities and policies."""
        identity = self._identities.get(number)
        if identity is None:
            return None
        return resolve.resolve(identity, self._rules_of(number), self._world, self._enforcement)

    def _rules_of(self, number: int) -> list[Rule]:
        subjects = self._hosts if number < 0 else self._workloads
        return subjects.rules_of(subjects.index.selectors_of(number))

    def _subjects(self, rule: Rule) -> Subjects:
        return self._hosts if rule.selects_hosts else self._workloads

    @property
    def _world(self) -> resolve.World:
        return resolve.World(self._index.members, self._identities)

    def _note_peer(self, number: int, *, gone: bool) -> None:
        """Note the rows of every rule that has the identity among its peers."""
        known = self._changed.get(number, {})
        found = self._naming(self._index.selectors_of(number))
        if gone:
            self._changed[number] = dict.fromkeys([*known, *found], _NO_RULES)
        else:
            self._changed[number] = {**known, **found}

    def _naming(self, selectors: Iterable[Selector]) -> dict[Cohort, set[Rule]]:
        """Return the rules that name whom the selectors select, by the cohorts whose rules they are."""
        found: defaultdict[Cohort, set[Rule]] = defaultdict(set)
        for selector in selectors:
            for rule in self._by_peer.get(selector, ()):
                for cohort in self._subjects(rule).cohorts(rule.subject):
                    found[cohort].add(rule)
        return found

    def _peers_of(self, *rules: Rule) -> set[int]:
        """Return everybody whom one of these rules, which are in use, names."""
        return set().union(*(self._index.members(peer) for rule in rules for peer in rule.peers))

    def _note_peers(self, numbers: Iterable[int], cohorts: set[Cohort]) -> None:
        """Note that these rows may say something else of these peers."""
        for cohort in cohorts:
            if cohort.row is not None:
                cohort.row.templates.clear()  # they are kept by rules that are gone
        known: dict[frozenset[Selector], dict[Cohort, AbstractSet[Rule]]] = {}
        for number in numbers:
            selectors = frozenset(self._index.selectors_of(number))
            if selectors not in known:
                found = self._naming(selectors)
                known[selectors] = {cohort: frozenset(found.get(cohort, ())) for cohort in cohorts}
            before = self._changed.get(number)
            self._changed[number] = {**before, **known[selectors]} if before else known[selectors]

    def _settle(self) -> None:
        """Put subjects into their cohorts, and work changed peers into the rows."""
        if self._workloads.moved:
            self._workloads.settle(self._identities)
        if self._hosts.moved:
            self._hosts.settle(self._identities)
        if not self._changed:
            return
        changed, self._changed = self._changed, {}
        by_cohort: dict[Cohort, list[Amendment]] = {}
        for numbers, ports, cohorts in self._alike(changed):
            peer = self._identities.get(numbers[0])
            for cohort, naming in cohorts.items():
                by_cohort.setdefault(cohort, []).append(Amendment(numbers, peer, naming, ports))
        for cohort, amendments in by_cohort.items():
            self._pending |= cohort.members
            self._amend(cohort, amendments)

    def _alike(self, changed: Mapping[int, _Naming]) -> Iterable[tuple[list[int], Ports, _Naming]]:
        """Yield peers of which the same is noted, as the same object, and whose ports are the same; gone ones have none."""
        found: dict[tuple[int, Ports | None], list[int]] = {}
        for number, naming in changed.items():
            peer = self._identities.get(number)
            found.setdefault((id(naming), frozenset(peer.ports.items()) if peer else None), []).append(number)
        for (_, ports), numbers in found.items():
            yield numbers, ports or frozenset(), changed[numbers[0]]

    def _amend(self, cohort: Cohort, amendments: Sequence[Amendment]) -> None:
        if cohort.row is None or not cohort.members:
            return
        subject = self._identities[next(iter(cohort.members))]
        cohort.packed = None
        many = sum(len(one.numbers) for one in amendments) > max(_MOST_AMENDMENTS, cohort.row.entries.count)
        if many or not amend(cohort.row, subject, amendments, self._enforcement):
            cohort.expire()


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
