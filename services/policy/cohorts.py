"""Subjects that the same rules select say the same of everybody: they share one row, but for their number.

What differs between subjects besides the rules are the ports that a rule may name, whether a subject has labels yet, and whether it is the local
host; all three are part of a cohort's key. A cohort without a row waits to be resolved anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from fairlead.schema.identity import HOST
from services.policy.amend import Standing
from services.policy.index import SelectorIndex
from services.policy.labels import Identity, NamedPort
from services.policy.packed import PackedRow
from services.policy.rules import Rule
from services.policy.selector import Selector

_NOBODY: frozenset[Cohort] = frozenset()


class Key(NamedTuple):
    """What the subjects of a cohort have in common."""

    selectors: frozenset[Selector]
    ports: frozenset[tuple[str, NamedPort]]
    unlabelled: bool
    local_host: bool


class Cohort:
    """Some subjects and what policy says of each."""

    __slots__ = ("key", "members", "packed", "row")

    def __init__(self, key: Key) -> None:
        self.key = key
        self.members: set[int] = set()
        self.row: Standing | None = None
        self.packed: PackedRow | None = None
        """The row as it stands; None: to be packed again."""

    def expire(self) -> None:
        """Have the row made anew."""
        self.row = self.packed = None


class Subjects:
    """Subjects of one kind, the rules that select them, and their cohorts."""

    def __init__(self, index: SelectorIndex) -> None:
        self.index = index
        self._rules: dict[Selector, set[Rule]] = {}
        self.of: dict[int, Cohort] = {}
        """The cohort of each subject that has been settled."""
        self._by_key: dict[Key, Cohort] = {}
        self._by_selector: dict[Selector, set[Cohort]] = {}
        self.moved: set[int] = set()
        """Subjects whose cohort may be another one now."""

    def add(self, rule: Rule, *, expire: bool = True) -> set[int]:
        """Take in a rule; return whom it selects. Unless rows `expire`, the caller brings them up to date."""
        self.index.use(rule.subject)
        selected = self.index.members(rule.subject)
        if rule.subject not in self._rules:
            self._rules[rule.subject] = set()
            self.moved |= selected
        self._rules[rule.subject].add(rule)
        if expire:
            self._expire(rule.subject)
        return selected

    def drop(self, rule: Rule, *, expire: bool = True) -> set[int]:
        """Forget a rule; return whom it has selected. `expire` as in `add`."""
        selected = set(self.index.members(rule.subject))
        rules = self._rules[rule.subject]
        rules.discard(rule)
        if expire:
            self._expire(rule.subject)
        if not rules:
            del self._rules[rule.subject]
            self.moved |= selected
        self.index.drop(rule.subject)
        return selected

    def _expire(self, selector: Selector) -> None:
        for cohort in self._by_selector.get(selector, ()):
            cohort.expire()

    def move(self, number: int) -> None:
        """Note that a subject is new, or has new labels."""
        self.moved.add(number)

    def remove(self, number: int) -> None:
        """Forget a subject."""
        self.moved.discard(number)
        self._leave(number)

    def settle(self, identities: Mapping[int, Identity]) -> None:
        """Put every subject that has moved where it belongs."""
        for number in self.moved:
            identity = identities.get(number)
            if identity is not None:
                self._join(number, self._key(identity))
        self.moved.clear()

    def _key(self, identity: Identity) -> Key:
        mine = self.index.selectors_of(identity.number)
        selectors = frozenset(selector for selector in mine if selector in self._rules)
        ports = frozenset(identity.ports.items())
        return Key(selectors, ports, identity.reserved("init"), identity.number == HOST)

    def _join(self, number: int, key: Key) -> None:
        cohort = self._by_key.get(key)
        if cohort is not None and self.of.get(number) is cohort:
            return
        self._leave(number)
        if cohort is None:
            cohort = self._by_key[key] = Cohort(key)
            for selector in key.selectors:
                self._by_selector.setdefault(selector, set()).add(cohort)
        cohort.members.add(number)
        self.of[number] = cohort

    def _leave(self, number: int) -> None:
        cohort = self.of.pop(number, None)
        if cohort is None:
            return
        cohort.members.discard(number)
        if not cohort.members:
            del self._by_key[cohort.key]
            for selector in cohort.key.selectors:
                self._by_selector[selector].discard(cohort)
                if not self._by_selector[selector]:
                    del self._by_selector[selector]

    def cohorts(self, selector: Selector) -> Iterable[Cohort]:
        """Return the cohorts of which the selector selects every subject."""
        return self._by_selector.get(selector, _NOBODY)

    def rules_of(self, selectors: Iterable[Selector]) -> list[Rule]:
        """Return the rules of these selectors."""
        return [rule for selector in selectors for rule in self._rules.get(selector, ())]

    def selected(self, selectors: Iterable[Selector]) -> set[int]:
        """Return whom any of the selectors selects now, in use or not."""
        wanted = set(selectors)
        for selector in wanted:
            self.index.use(selector)
        found = set().union(*(self.index.members(selector) for selector in wanted))
        for selector in wanted:
            self.index.drop(selector)
        return found
