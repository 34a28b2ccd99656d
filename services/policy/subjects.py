"""Whom rules select: the workloads, and the nodes themselves. The two never mix, whatever their labels.

Inside the engine a node has a number below 0, given in the order in which nodes come to be known and kept while the process lives; outside
it is known by name alone. For packets every node calls itself identity 1.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from fairlead.schema.identity import FIRST_CLUSTER_IDENTITY, INIT, LAST_CLUSTER_IDENTITY
from fairlead.schema.policy import HOST_ROWS
from services.policy.index import SelectorIndex
from services.policy.labels import Identity, Label, make_identity
from services.policy.rules import Rule
from services.policy.selector import Selector

HOSTNAME_KEY = "kubernetes.io/hostname"


class Subjects:
    """Subjects of one kind, and the rules that select them."""

    def __init__(self, index: SelectorIndex) -> None:
        self.index = index
        self._rules: dict[Selector, set[Rule]] = {}

    def add(self, rule: Rule) -> set[int]:
        """Take in a rule; return whom it selects."""
        self.index.use(rule.subject)
        self._rules.setdefault(rule.subject, set()).add(rule)
        return self.index.members(rule.subject)

    def drop(self, rule: Rule) -> set[int]:
        """Forget a rule; return whom it has selected."""
        selected = set(self.index.members(rule.subject))
        rules = self._rules[rule.subject]
        rules.discard(rule)
        if not rules:
            del self._rules[rule.subject]
        self.index.drop(rule.subject)
        return selected

    def rules_of(self, number: int) -> Iterable[Rule]:
        """Return the rules that select the subject."""
        for selector in self.index.selectors_of(number):
            yield from self._rules.get(selector, ())

    def selected(self, selectors: Iterable[Selector]) -> set[int]:
        """Return whom any of the selectors selects now, in use or not."""
        wanted = set(selectors)
        for selector in wanted:
            self.index.use(selector)
        found = set().union(*(self.index.members(selector) for selector in wanted))
        for selector in wanted:
            self.index.drop(selector)
        return found


class Nodes:
    """The number of each node that was ever known, both ways."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._names: dict[int, str] = {}
        self._next = itertools.count(-1, -1)

    def number(self, node: str) -> int:
        """Return the node's number."""
        if node not in self._numbers:
            number = next(self._next)
            self._numbers[node], self._names[number] = number, node
        return self._numbers[node]

    def row_key(self, number: int) -> str:
        """Return the key of a subject's row."""
        return f"{HOST_ROWS}{self._names[number]}" if number < 0 else str(number)


def host_identity(number: int, node: str, labels: Iterable[Label]) -> Identity:
    """Return a node as a subject: its labels, its name under `kubernetes.io/hostname`, and the label of all hosts."""
    own = set(labels)
    if not any(label.key == HOSTNAME_KEY for label in own):
        own.add(Label("k8s", HOSTNAME_KEY, node))
    return make_identity(number, own | {Label("reserved", "host", "")})


def is_subject(number: int) -> bool:
    """Tell whether rows are made for the number: nodes, workloads of this cluster, and workloads without labels yet."""
    return number < 0 or number == INIT or FIRST_CLUSTER_IDENTITY <= number <= LAST_CLUSTER_IDENTITY
