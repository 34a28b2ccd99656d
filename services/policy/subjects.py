"""Who can be a subject: the workloads, and the nodes themselves. Rules for the one never select the other, whatever the labels.

Inside the engine a node has a number below 0, given in the order in which nodes come to be known and kept while the process lives; outside
it is known by name alone. For packets every node calls itself identity 1.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from fairlead.schema.identity import FIRST_CLUSTER_IDENTITY, INIT, LAST_CLUSTER_IDENTITY
from fairlead.schema.policy import HOST_ROWS
from services.policy.labels import Identity, Label, make_identity

HOSTNAME_KEY = "kubernetes.io/hostname"


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

    def subject(self, key: str) -> int:
        """Return the number of the subject whose row has this key."""
        return self.number(key.removeprefix(HOST_ROWS)) if key.startswith(HOST_ROWS) else int(key)


def host_identity(number: int, node: str, labels: Iterable[Label]) -> Identity:
    """Return a node as a subject: its labels, its name under `kubernetes.io/hostname`, and the label of all hosts."""
    own = set(labels)
    if not any(label.key == HOSTNAME_KEY for label in own):
        own.add(Label("k8s", HOSTNAME_KEY, node))
    return make_identity(number, own | {Label("reserved", "host", "")})


def is_subject(number: int) -> bool:
    """Tell whether rows are made for the number: nodes, workloads of this cluster, and workloads without labels yet."""
    return number < 0 or number == INIT or FIRST_CLUSTER_IDENTITY <= number <= LAST_CLUSTER_IDENTITY
