"""The engine in memory: documents and workloads in, rows and answers out. What is asked here is decided by the service's own code.

Nothing here touches a store, a bus or a clock. `docs` of the calls: README.md, "Offline".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from fairlead.address import Address
from fairlead.schema.identity import FIRST_CIDR_IDENTITY, WORLD
from fairlead.schema.policy import PolicyObject, PolicyReference, PolicyRow, StoredPolicy
from services.policy.labels import NamedPort, implied, make_identity, network, parse_label
from services.policy.others import Sources
from services.policy.parse import reference_of
from services.policy.resolve import Enforcement
from services.policy.rules import Policy, Translation
from services.policy.simulate import Simulation, simulate
from services.policy.store import policy_key
from services.policy.subjects import is_subject
from services.policy.view import View

_NO_SOURCES = Sources("identities/", "nodes/")


class World:
    """Workloads, prefixes and documents; rows are kept as changes come, one subject at a time."""

    def __init__(self, translation: Translation | None = None, enforcement: Enforcement | None = None) -> None:
        self._translation = translation or Translation()
        self._view = View(_NO_SOURCES, self._translation, enforcement or Enforcement())
        self._rows: dict[int, PolicyRow] = {}

    def put_workload(self, number: int, labels: Iterable[str], ports: Mapping[str, NamedPort] | None = None) -> None:
        """Take in a workload by its labels (`source:key=value`); namespace and cluster are implied. Raises InvalidInput."""
        found = implied(map(parse_label, labels), self._translation.cluster)
        self._view.model.put_identity(make_identity(number, found, ports))

    def remove_workload(self, number: int) -> None:
        """Forget a workload; one that is not known counts as removed."""
        self._view.model.remove_identity(number)

    def put_document(self, document: PolicyObject) -> Policy:
        """Take in a document in place of the one of the same name; return what it means. Raises InvalidInput naming the field."""
        reference = reference_of(document)
        stored = StoredPolicy(policy=reference, document=document, revision=0)
        policy = self._view.put_document(policy_key(reference), stored)
        first = max(self._view.numbers.values(), default=FIRST_CIDR_IDENTITY - 1) + 1
        self._view.number_prefixes({prefix: first + n for n, prefix in enumerate(sorted(self._view.unnumbered))})
        return policy

    def remove_document(self, reference: PolicyReference) -> None:
        """Forget a document; one that is not known counts as removed."""
        self._view.remove_document(policy_key(reference))

    def rows(self) -> Mapping[int, PolicyRow]:
        """Return the row of every subject, without revision and trace."""
        for number in self._view.model.take_pending():
            row = self._view.model.row(number)
            if row is None:
                self._rows.pop(number, None)
            else:
                self._rows[number] = row
        return self._rows

    def labels(self, number: int) -> tuple[str, ...]:
        """Return the labels of an identity, implied ones included, sorted; empty for one that is not known."""
        identity = self._view.model.identities.get(number)
        return tuple(sorted(map(str, identity.labels))) if identity else ()

    def subjects(self) -> list[int]:
        """Return the workloads, sorted; the reserved `init` is among them."""
        return sorted(number for number in self._view.model.identities if number > 0 and is_subject(number))

    def prefixes(self) -> Mapping[str, int]:
        """Return the prefixes that documents name now, each with the identity that stands for it."""
        return {prefix: self._view.numbers[prefix] for prefix in self._view.named}

    def identity_of(self, address: Address) -> int:
        """Return who stands behind an address of no workload: the longest prefix that a document names, else the world."""
        host = network(address)
        covering = [prefix for prefix in self._view.named if network(prefix).covers(host)]
        longest = max(covering, key=lambda prefix: network(prefix).length, default=None)
        return int(WORLD) if longest is None else self._view.numbers[longest]

    def simulate(self, source: int, destination: int, protocol: int, port: int) -> Simulation:
        """Return what both ends say of one connection; for ICMP the port is the type."""
        return simulate(self.rows(), source, destination, protocol, port)
