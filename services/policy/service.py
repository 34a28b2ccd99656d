"""What policy answers: store a document, remove one, list them; each reply can wait until every node has it in its kernel."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from fairlead import codec
from fairlead.bus import Route, route
from fairlead.errors import InvalidInput
from fairlead.schema.base import Empty
from fairlead.schema.policy import (
    APPLY,
    DELETE,
    FORCE_APPLY,
    FORCE_DELETE,
    HISTORY,
    POLICIES,
    POLICY_PUBLISHED,
    POLICY_WITHDRAWN,
    ROLLBACK,
    ApplyPolicy,
    DeletePolicy,
    PolicyApplied,
    PolicyHistory,
    PolicyHistoryQuery,
    PolicyList,
    PolicyObject,
    PolicyReference,
    RollBackPolicy,
)
from services.policy.editing import Edit, Editor
from services.policy.gate import check_groups, failing_tests
from services.policy.history import to_roll_back_to
from services.policy.parse import normal_reference, parse
from services.policy.projection import Projection
from services.policy.realised import identities_of
from services.policy.rules import Policy, Translation, title
from services.policy.store import PolicyStore, policy_key
from services.policy.view import View
from services.policy.waiting import Waiting

_TOLD_TESTS = 5
_NO_DOCUMENT = PolicyObject(apiVersion="", kind="", metadata={})


class PolicyService:
    """Commits documents; the projection does the rest."""

    def __init__(
        self, store: PolicyStore, editor: Editor, projection: Projection, translation: Translation, waiting: Waiting
    ) -> None:
        self._store = store
        self._editor = editor
        self._projection = projection
        self._translation = translation
        self.waiting = waiting

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

    async def roll_back(self, ask: RollBackPolicy) -> PolicyApplied:
        """Store an earlier version again, as any change is stored. Raises InvalidInput, Conflict, Denied."""
        reference = normal_reference(ask.policy.kind, ask.policy.name, ask.policy.namespace)
        version = to_roll_back_to(await self._store.versions(reference), ask.version)
        again = ApplyPolicy(
            document=version.document or _NO_DOCUMENT,
            wait_s=ask.wait_s,
            author=ask.author,
            owner=ask.owner,
            expected_revision=ask.expected_revision,
        )
        return await self._apply(again, forced=False, action=f"rolled back to {version.version}")

    async def history(self, ask: PolicyHistoryQuery) -> PolicyHistory:
        """Return the versions that are kept, oldest first; documents only of the one that is asked for. Raises InvalidInput."""
        reference = normal_reference(ask.policy.kind, ask.policy.name, ask.policy.namespace)
        versions = await self._store.versions(reference)
        if ask.version:
            found = tuple(version for version in versions if version.version == ask.version)
        else:
            found = tuple(replace(version, document=None) for version in versions)
        return PolicyHistory(policy=reference, versions=found)

    async def _apply(self, ask: ApplyPolicy, *, forced: bool, action: str = "stored") -> PolicyApplied:
        policy = self._understood(ask.document)
        await self._ready()
        failing = self._failing(policy.reference, policy, ask.document, forced=forced)
        before = self.waiting.selected_now(policy.reference)
        selected = self.waiting.selected(policy)
        await self._store.number(policy.prefixes)
        edit = Edit(ask.author, ask.owner, action, ask.expected_revision, forced=forced, failing=bool(failing))
        revision, changed = await self._editor.put(policy.reference, ask.document, edit)
        answer = PolicyApplied(
            policy=policy.reference,
            revision=revision,
            changed=changed,
            identities=identities_of(selected),
            warnings=(*failing, *self._projection.view.remarks(policy)),
        )
        return await self.waiting.realise(answer, before | selected, ask.wait_s)

    async def _delete(self, ask: DeletePolicy, *, forced: bool) -> PolicyApplied:
        reference = normal_reference(ask.policy.kind, ask.policy.name, ask.policy.namespace)
        await self._ready()
        failing = self._failing(reference, None, None, forced=forced)
        before = self.waiting.selected_now(reference)
        edit = Edit(ask.author, ask.owner, "deleted", ask.expected_revision, forced=forced)
        revision, changed = await self._editor.remove(reference, edit)
        missing = () if changed else (f"there is no {title(reference)}",)
        answer = PolicyApplied(
            policy=reference,
            revision=revision or self._projection.revision,
            changed=changed,
            identities=identities_of(before),
            warnings=(*missing, *failing),
        )
        return await self.waiting.realise(answer, before, ask.wait_s)

    async def _ready(self) -> None:
        """Return when what this process has committed is among what decisions are made by. Raises Unavailable."""
        await self._projection.ready()
        await self._projection.caught_up(self._editor.committed)

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

    @property
    def view(self) -> View:
        """Return what the store says, as far as it has been read."""
        return self._projection.view

    def routes(self) -> Sequence[Route]:
        """Return every topic with its handler."""
        return (
            route(APPLY, self.apply),
            route(DELETE, self.delete),
            route(FORCE_APPLY, self.force_apply),
            route(FORCE_DELETE, self.force_delete),
            route(ROLLBACK, self.roll_back),
            route(HISTORY, self.history),
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
