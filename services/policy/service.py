"""What policy answers: store a document, remove one, list them; each reply can wait until every node has it in its kernel."""

from __future__ import annotations

from collections.abc import Sequence

from fairlead import codec, telemetry
from fairlead.bus import Bus, Route, route
from fairlead.clock import Clock
from fairlead.errors import Conflict, InvalidInput
from fairlead.schema.base import Empty
from fairlead.schema.policy import (
    APPLY,
    DELETE,
    FORCE_APPLY,
    FORCE_DELETE,
    POLICIES,
    POLICY_PUBLISHED,
    POLICY_WITHDRAWN,
    ApplyPolicy,
    DeletePolicy,
    PolicyApplied,
    PolicyList,
    PolicyObject,
    PolicyReference,
)
from services.policy.gate import check_groups, failing_tests
from services.policy.parse import normal_reference, parse
from services.policy.projection import Projection
from services.policy.rules import Policy, Translation, title
from services.policy.store import Found, PolicyStore, StoredDocument, policy_key
from services.policy.waiting import Waiting

_TRIES = 5
_TOLD_TESTS = 5


class PolicyService:
    """Commits documents; the projection does the rest."""

    def __init__(
        self, store: PolicyStore, projection: Projection, translation: Translation, bus: Bus, clock: Clock
    ) -> None:
        self._store = store
        self._projection = projection
        self._translation = translation
        self.waiting = Waiting(projection, bus, clock)
        self._committed = 0
        """The newest revision that this process has committed itself."""

    async def apply(self, ask: ApplyPolicy) -> PolicyApplied:
        """Store a document. Raises InvalidInput naming the field or the test that fails, Conflict."""
        return await self._apply(ask, forced=False)

    async def force_apply(self, ask: ApplyPolicy) -> PolicyApplied:
        """Store a document although tests fail. Raises InvalidInput naming the field, Conflict."""
        return await self._apply(ask, forced=True)

    async def delete(self, ask: DeletePolicy) -> PolicyApplied:
        """Remove a document; one that is not there counts as removed. Raises InvalidInput, Conflict."""
        return await self._delete(ask, forced=False)

    async def force_delete(self, ask: DeletePolicy) -> PolicyApplied:
        """Remove a document although tests of others fail. Raises InvalidInput, Conflict."""
        return await self._delete(ask, forced=True)

    async def _apply(self, ask: ApplyPolicy, *, forced: bool) -> PolicyApplied:
        policy = self._understood(ask.document)
        await self._ready()
        failing = self._failing(policy.reference, policy, ask.document, forced=forced)
        before = self.waiting.selected_now(policy.reference)
        await self._store.number(policy.prefixes)
        stored = StoredDocument(
            document=ask.document, author=ask.author, trace=telemetry.traceparent(), forced=bool(failing)
        )
        revision, changed = await self._put(policy.reference, stored)
        answer = PolicyApplied(
            policy=policy.reference,
            revision=revision,
            changed=changed,
            identities=tuple(sorted(self._projection.view.model.selected(policy))),
            warnings=(*failing, *self._projection.view.remarks(policy)),
        )
        return await self.waiting.realise(answer, before, ask.wait_s)

    async def _delete(self, ask: DeletePolicy, *, forced: bool) -> PolicyApplied:
        reference = normal_reference(ask.policy.kind, ask.policy.name, ask.policy.namespace)
        await self._ready()
        failing = self._failing(reference, None, None, forced=forced)
        before = self.waiting.selected_now(reference)
        revision, changed = await self._remove(reference)
        missing = () if changed else (f"there is no {title(reference)}",)
        answer = PolicyApplied(
            policy=reference,
            revision=revision,
            changed=changed,
            identities=tuple(sorted(before)),
            warnings=(*missing, *failing),
        )
        return await self.waiting.realise(answer, before, ask.wait_s)

    async def _ready(self) -> None:
        """Return when what this process has committed is among what decisions are made by. Raises Unavailable."""
        await self._projection.ready()
        await self._projection.caught_up(self._committed)

    def _failing(
        self, reference: PolicyReference, policy: Policy | None, document: PolicyObject | None, *, forced: bool
    ) -> tuple[str, ...]:
        """Return the tests that the change fails, where it is forced. Raises InvalidInput where it is not."""
        view = self._projection.view
        check_groups(view, reference, policy)
        stands = view.documents.get(policy_key(reference))
        if (stands.document if stands else None) == document:
            return ()
        failing = failing_tests(view, reference, policy)
        if failing and not forced:
            more = f", and {len(failing) - _TOLD_TESTS} more" if len(failing) > _TOLD_TESTS else ""
            raise InvalidInput(f"{'; '.join(failing[:_TOLD_TESTS])}{more}")
        return tuple(f"forced: {text}" for text in failing)

    async def published(self, document: PolicyObject) -> PolicyApplied:
        """Store a document that another system has published."""
        return await self.apply(ApplyPolicy(document=document, author="event"))

    async def withdrawn(self, reference: PolicyReference) -> PolicyApplied:
        """Remove a document that another system has withdrawn."""
        return await self.delete(DeletePolicy(policy=reference))

    async def list(self, _ask: Empty) -> PolicyList:
        """Return all documents that are in force, as of the newest revision that is resolved."""
        await self._ready()
        view = self._projection.view
        return PolicyList(
            policies=tuple(view.told(key) for key in sorted(view.documents)), revision=self._projection.revision
        )

    def routes(self) -> Sequence[Route]:
        """Return every topic with its handler."""
        return (
            route(APPLY, self.apply),
            route(DELETE, self.delete),
            route(FORCE_APPLY, self.force_apply),
            route(FORCE_DELETE, self.force_delete),
            route(POLICIES, self.list),
            route(POLICY_PUBLISHED, self.published),
            route(POLICY_WITHDRAWN, self.withdrawn),
        )

    def _understood(self, document: PolicyObject) -> Policy:
        try:
            codec.encode(document)
        except (TypeError, ValueError, OverflowError, NotImplementedError, RecursionError) as error:
            raise InvalidInput(f"`document`: it holds values that have no wire form: {error}") from error
        return parse(document, self._translation)

    async def _put(self, reference: PolicyReference, stored: StoredDocument) -> tuple[int, bool]:
        for _ in range(_TRIES):
            found = await self._found(reference)
            if found is not None and found.stored.document == stored.document:
                return found.revision, False
            try:
                self._committed = await self._store.put(reference, stored, found.revision if found else 0)
            except Conflict:
                continue  # somebody else changed it between the two calls: look again
            return self._committed, True
        raise Conflict(f"{policy_key(reference)} is changed by others all the time: try again")

    async def _remove(self, reference: PolicyReference) -> tuple[int, bool]:
        for _ in range(_TRIES):
            revision = await self._store.revision(reference)
            if not revision:
                return self._projection.revision, False
            try:
                self._committed = await self._store.delete(reference, revision, telemetry.traceparent())
            except Conflict:
                continue  # somebody else changed it between the two calls: look again
            return self._committed, True
        raise Conflict(f"{policy_key(reference)} is changed by others all the time: try again")

    async def _found(self, reference: PolicyReference) -> Found | None:
        """Return what is stored; something unreadable is there to be overwritten."""
        try:
            return await self._store.get(reference)
        except InvalidInput:
            revision = await self._store.revision(reference)
            empty = PolicyObject(apiVersion="", kind="", metadata={})
            return Found(StoredDocument(document=empty), revision)
