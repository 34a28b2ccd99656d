"""Everything in etcd that rows are made of, read from items and changes; pure.

An item that cannot be read never empties what was known under its key: the last good value stays, and `unreadable` names it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from datetime import datetime

from msgspec.structs import replace

from fairlead import codec
from fairlead.errors import FairleadError, InvalidInput
from fairlead.kv import Change, Item
from fairlead.schema.base import IdentityId
from fairlead.schema.policy import CidrRow, PolicyObject, PolicyReference, StoredPolicy
from services.policy.groups import cidr_identity
from services.policy.labels import implied, make_identity, parse_label_string
from services.policy.model import Model, reserved_identities
from services.policy.others import Sources, node_labels
from services.policy.parse import parse, reference_of
from services.policy.resolve import Enforcement
from services.policy.rules import WORKLOAD_AUDIT, CidrGroup, Policy, Stage, Translation, title
from services.policy.store import CIDRS, DELETION, POLICIES, Deletion, decode_document, decode_number, policy_key

_STAGE_REMARKS: Mapping[Stage, tuple[str, ...]] = {
    Stage.LIVE: (),
    Stage.AUDIT: ("audited: it denies nothing until its time is over, and is enforced from then on",),
    Stage.STAGED: ("staged: it is evaluated and does nothing",),
}


class View:
    """The model, fed from the store."""

    def __init__(self, sources: Sources, translation: Translation, enforcement: Enforcement) -> None:
        self._sources = sources
        self._translation = translation
        self.enforcement = enforcement
        self.model = Model(enforcement)
        self.documents: dict[str, StoredPolicy] = {}
        self.numbers: dict[str, int] = {}
        """The number of each prefix that has one."""
        self.unreadable: dict[str, str] = {}
        """Why a key cannot be used, by key."""
        self._cidr_rows: tuple[CidrRow, ...] | None = None
        self._groups: dict[str, CidrGroup] = {}
        """Groups of prefixes by the key of their document."""
        self._timed: set[str] = set()
        """Keys of the documents that time changes."""
        for identity in reserved_identities():
            self.model.put_identity(identity)

    @property
    def named(self) -> AbstractSet[str]:
        """Return the prefixes that a policy names now."""
        return self.model.prefixes

    @property
    def unnumbered(self) -> set[str]:
        """Return the prefixes that a policy names and that have no number."""
        return set(self.named - self.numbers.keys())

    def cidr_rows(self) -> tuple[CidrRow, ...]:
        """Return the prefixes that policies name, with their identities; the same object until something changes."""
        if self._cidr_rows is None:
            found = sorted(self.named & self.numbers.keys())
            self._cidr_rows = tuple(self._cidr_row(prefix, self.numbers[prefix]) for prefix in found)
        return self._cidr_rows

    def _cidr_row(self, prefix: str, number: int) -> CidrRow:
        labels = self.model.identities[number].labels
        return CidrRow(prefix=prefix, identity=IdentityId(number), labels=tuple(sorted(map(str, labels))))

    def take_items(self, items: Iterable[Item]) -> None:
        """Take in what a listing holds."""
        for item in items:
            self._take(item.key, item)

    def take_changes(self, changes: Iterable[Change]) -> str:
        """Take in what has changed; return the trace of the event that caused it, where the store knows it."""
        trace = ""
        for change in changes:
            self._take(change.key, change.item)
            trace = self._trace(change) or trace
        return trace

    def number_prefixes(self, numbers: dict[str, int]) -> None:
        """Take in numbers that were given just now; the store will tell them again."""
        for prefix, number in numbers.items():
            self._set_number(prefix, number)

    def _take(self, key: str, item: Item | None) -> None:
        try:
            if key.startswith(self._sources.identities):
                self._take_identity(key.removeprefix(self._sources.identities), item)
            elif key.startswith(self._sources.nodes):
                self._take_node(key.removeprefix(self._sources.nodes), item)
            elif key.startswith(CIDRS):
                self._set_number(key.removeprefix(CIDRS), decode_number(item) if item else None)
            elif key.startswith(POLICIES) and key != DELETION:
                self._take_document(key, item)
        except FairleadError as error:
            self.unreadable[key] = error.message
        else:
            self.unreadable.pop(key, None)

    def _take_identity(self, name: str, item: Item | None) -> None:
        if not name.isascii() or not name.isdigit():
            raise InvalidInput(f"{name!r} is no identity number")
        if item is None:
            self.model.remove_identity(int(name))
            return
        labels = parse_label_string(item.value.decode(errors="replace"))
        self.model.put_identity(make_identity(int(name), implied(labels, self._translation.cluster)))

    def _take_node(self, name: str, item: Item | None) -> None:
        if item is None:
            self.model.remove_host(name)
        else:
            self.model.put_host(name, node_labels(name, item.value))

    def _set_number(self, prefix: str, number: int | None) -> None:
        self._cidr_rows = None
        old = self.numbers.pop(prefix, None)
        if old is not None and old != number:
            self.model.remove_identity(old)
        if number is not None:
            self.numbers[prefix] = number
            self.model.put_identity(cidr_identity(number, prefix, self._groups.values()))

    def _take_document(self, key: str, item: Item | None) -> None:
        if item is None:
            self.remove_document(key)
            return
        stored = decode_document(item)
        self.put_document(
            key,
            StoredPolicy(
                policy=reference_of(stored.document),
                document=stored.document,
                revision=item.revision,
                author=stored.author,
                trace=stored.trace,
                forced=stored.forced,
                owner=stored.owner,
                version=stored.version,
                at=stored.at,
            ),
        )

    def put_document(self, key: str, stored: StoredPolicy) -> Policy:
        """Take in a document; return what it means. Raises InvalidInput, and keeps the one before."""
        policy = self.understand(stored.document)
        self._cidr_rows = None
        self.model.put_policy(key, policy)
        self.documents[key] = stored
        self._set_group(key, policy.group)
        if policy.audit_until or policy.expires:
            self._timed.add(key)
        else:
            self._timed.discard(key)
        return policy

    def remove_document(self, key: str) -> None:
        """Forget a document; one that is not known counts as removed."""
        self._cidr_rows = None
        self.model.remove_policy(key)
        self.documents.pop(key, None)
        self._set_group(key, None)
        self._timed.discard(key)

    def pass_time(self, now: datetime) -> bool:
        """Enforce the documents whose audit has ended; tell whether there were any."""
        ended = [key for key in self._timed if (end := self.model.policies[key].audit_until) and end <= now]
        over = [key for key in ended if self.model.policies[key].stage is Stage.AUDIT]
        for key in over:
            self.model.put_policy(key, self.model.policies[key].at(Stage.LIVE))
        return bool(over)

    def expired(self, now: datetime) -> list[StoredPolicy]:
        """Return the documents whose time is over."""
        over = [key for key in sorted(self._timed) if (end := self.model.policies[key].expires) and end <= now]
        return [self.documents[key] for key in over]

    def audited(self) -> list[str]:
        """Return which documents deny nothing now, and until when, sorted."""
        policies = (self.model.policies[key] for key in self._timed)
        return sorted(
            f"{title(policy.reference)} until {policy.audit_until.isoformat()}"
            for policy in policies
            if policy.stage is Stage.AUDIT and policy.audit_until
        )

    def audited_by_kind(self) -> dict[str, int]:
        """Return how many documents and how many audits of workloads deny nothing now."""
        policies = (self.model.policies[key] for key in self._timed)
        whole = [policy.reference.kind == WORKLOAD_AUDIT for policy in policies if policy.stage is Stage.AUDIT]
        return {"document": whole.count(False), "workloads": whole.count(True)}

    def document(self, reference: PolicyReference) -> PolicyObject | None:
        """Return the document that stands under this name."""
        stored = self.documents.get(policy_key(reference))
        return stored.document if stored else None

    def told(self, key: str) -> StoredPolicy:
        """Return a document with what is known of it now."""
        policy = self.model.policies[key]
        return replace(
            self.documents[key],
            warnings=self.remarks(policy),
            stage=policy.stage.value,
            audit_until=policy.audit_until,
            expires=policy.expires,
        )

    def _set_group(self, key: str, group: CidrGroup | None) -> None:
        """Take in a group, and give every prefix the labels of the groups that cover it now."""
        if self._groups.get(key) == group:
            return
        self._groups.pop(key, None)
        if group is not None:
            self._groups[key] = group
        for prefix, number in self.numbers.items():
            self.model.put_identity(cidr_identity(number, prefix, self._groups.values()))

    def remarks(self, policy: Policy) -> tuple[str, ...]:
        """Return what an author should know of a policy: what was noticed in reading it, and what it finds nobody by now."""
        missing = (
            f"`{expected.path}`: there is no {expected.what} now: this {'denies' if expected.deny else 'allows'} nobody"
            for expected in self.model.unmet(policy)
        )
        whole = policy.reference.kind == WORKLOAD_AUDIT
        return (*policy.warnings, *missing, *(() if whole else _STAGE_REMARKS[policy.stage]))

    def understand(self, document: PolicyObject) -> Policy:
        """Return the policy in a document. Raises InvalidInput."""
        return parse(document, self._translation)

    def _trace(self, change: Change) -> str:
        if change.key == DELETION and change.item is not None:
            return codec.decode(change.item.value, Deletion).trace
        document = self.documents.get(change.key)
        return document.trace if document else ""
