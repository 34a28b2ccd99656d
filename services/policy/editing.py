"""Commits of documents: compare-and-swap, who may, and a record of each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from fairlead import telemetry
from fairlead.clock import Clock
from fairlead.errors import Conflict, Denied, InvalidInput
from fairlead.schema.policy import PolicyObject, PolicyReference
from services.policy.rules import title
from services.policy.store import POLICIES, Found, PolicyStore, StoredDocument, policy_key

_TRIES = 5
_FIXED_OWNERS = {"CiliumClusterwideNetworkPolicy/_/docker-": "docker"}
"""What the network plugin states of containers' shorthand is its own everywhere, and all that it may state."""


@dataclass(frozen=True)
class Edit:
    """Who changes a document, and on what condition."""

    author: str = ""
    owner: str = ""
    action: str = "stored"
    expected: int | None = None
    """The revision that the editor has seen; 0: there must be none; None: whatever stands."""
    forced: bool = False
    """Whether the change passes although it belongs to somebody else."""
    failing: bool = False
    """Whether it passes although tests fail."""


class Editor:
    """Changes documents in the store, one at a time."""

    def __init__(self, store: PolicyStore, clock: Clock, owners: Iterable[str] = ()) -> None:
        self._store = store
        self._clock = clock
        self._owners = _FIXED_OWNERS | dict(_owner_of_prefix(text) for text in owners)
        self.committed = 0
        """The newest revision that this process has committed itself."""

    async def put(self, reference: PolicyReference, document: PolicyObject, edit: Edit) -> tuple[int, bool]:
        """Store the document; return its revision and whether anything changed. Raises Conflict, Denied."""
        for _ in range(_TRIES):
            found = await self._found(reference)
            if found is not None and found.stored.document == document and edit.owner in ("", found.stored.owner):
                return found.revision, False
            owned = self._admit(reference, found, edit)
            stored = StoredDocument(
                document=document,
                author=edit.author,
                owner=edit.owner or owned,
                trace=telemetry.traceparent(),
                forced=edit.failing or (edit.forced and edit.owner != owned),
                at=self._clock.now(),
            )
            try:
                self.committed = await self._store.put(reference, stored, found.revision if found else 0, edit.action)
            except Conflict:
                continue  # somebody else changed it between the two calls: look again
            return self.committed, True
        raise Conflict(f"{title(reference)} is changed by others all the time: try again")

    async def remove(self, reference: PolicyReference, edit: Edit) -> tuple[int, bool]:
        """Remove the document; return the revision of that, and whether it was there. Raises Conflict, Denied."""
        for _ in range(_TRIES):
            found = await self._found(reference)
            if found is None:
                return 0, False
            self._admit(reference, found, edit)
            try:
                self.committed = await self._store.delete(reference, found.revision, self._tombstone(edit))
            except Conflict:
                continue  # somebody else changed it between the two calls: look again
            return self.committed, True
        raise Conflict(f"{title(reference)} is changed by others all the time: try again")

    def _tombstone(self, edit: Edit) -> StoredDocument:
        return StoredDocument(
            document=_NONE,
            author=edit.author,
            owner=edit.owner,
            trace=telemetry.traceparent(),
            forced=edit.forced,
            at=self._clock.now(),
        )

    def _admit(self, reference: PolicyReference, found: Found | None, edit: Edit) -> str:
        """Return whose the document is. Raises Conflict if it is not what the editor has seen, Denied if it is another's."""
        revision = found.revision if found else 0
        if edit.expected is not None and edit.expected != revision:
            by = f" by {found.stored.author or 'somebody'}" if found else ""
            stands = f"is at revision {revision}{by}" if revision else "does not exist"
            raise Conflict(f"{title(reference)} {stands}, not at {edit.expected}: read it again")
        owner = self._owner(reference) or (found.stored.owner if found else "")
        if owner and owner != edit.owner and not edit.forced:
            raise Denied(f"{title(reference)} belongs to {owner}: ask there, or force it where you may")
        own = [prefix for prefix, whose in self._owners.items() if whose == edit.owner]
        if own and owner != edit.owner and not edit.forced:
            raise Denied(f"{title(reference)}: documents of {edit.owner} are called {' or '.join(own)}...: call it so")
        return owner

    def _owner(self, reference: PolicyReference) -> str:
        """Return whose documents of this name are; the longest prefix counts."""
        name = policy_key(reference).removeprefix(POLICIES)
        prefix = max((prefix for prefix in self._owners if name.startswith(prefix)), key=len, default=None)
        return self._owners[prefix] if prefix is not None else ""

    async def _found(self, reference: PolicyReference) -> Found | None:
        """Return what is stored; something unreadable is there to be overwritten."""
        try:
            return await self._store.get(reference)
        except InvalidInput:
            revision = await self._store.revision(reference)
            return Found(StoredDocument(document=_NONE), revision) if revision else None


_NONE = PolicyObject(apiVersion="", kind="", metadata={})


def _owner_of_prefix(text: str) -> tuple[str, str]:
    prefix, equals, owner = text.partition("=")
    if not equals or not owner:
        raise InvalidInput(f"`owners`: {text!r} is not PREFIX=OWNER, for instance CiliumNetworkPolicy/shop/=shop-ci")
    return prefix, owner
