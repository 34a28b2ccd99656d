"""What policy answers: store a document, remove one, list them; each reply can wait until every node has it in its kernel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from msgspec.structs import replace

from fairlead import codec
from fairlead.bus import Route, route
from fairlead.errors import Denied, InvalidInput
from fairlead.schema.base import Empty
from fairlead.schema.owned import speaker
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
from services.policy.gate import Changes, check_groups, failing_tests
from services.policy.history import to_roll_back_to
from services.policy.parse import normal_reference, parse
from services.policy.projection import Projection
from services.policy.realised import identities_of
from services.policy.rules import Policy, Translation, title
from services.policy.store import PolicyStore
from services.policy.view import View
from services.policy.waiting import Waiting

_TOLD_TESTS = 5
_NO_DOCUMENT = PolicyObject(apiVersion="", kind="", metadata={})


class Done(NamedTuple):
    """What became of one document, and the rows that it concerns or did before."""

    answer: PolicyApplied
    concerned: set[str]


class PolicyService:
    """Commits documents; the projection does the rest."""

    def __init__(
        self,
        store: PolicyStore,
        editor: Editor,
        projection: Projection,
        translation: Translation,
        waiting: Waiting,
        *,
        trusting: bool = True,
    ) -> None:
        self._store = store
        self._editor = editor
        self._projection = projection
        self._translation = translation
        self._trusting = trusting
        """Whether an owner that a message claims counts; not where a subject can prove it."""
        self.waiting = waiting

    async def apply(self, ask: ApplyPolicy) -> PolicyApplied:
        """Store a document. Raises InvalidInput naming the field or the test that fails, Conflict, Denied."""
        self._check_claim(ask.owner)
        return await self.apply_owned(ask)

    async def apply_owned(self, ask: ApplyPolicy) -> PolicyApplied:
        """The same by whoever has the right to speak in the owner's name."""
        return await self._apply(ask, forced=False)

    async def force_apply(self, ask: ApplyPolicy) -> PolicyApplied:
        """Store a document although tests fail. Raises InvalidInput naming the field, Conflict."""
        return await self._apply(ask, forced=True)

    async def delete(self, ask: DeletePolicy) -> PolicyApplied:
        """Remove a document; one that is not there counts as removed. Raises InvalidInput, Conflict, Denied."""
        self._check_claim(ask.owner)
        return await self.delete_owned(ask)

    async def delete_owned(self, ask: DeletePolicy) -> PolicyApplied:
        """The same by whoever has the right to speak in the owner's name."""
        return await self._delete(ask, forced=False)

    async def force_delete(self, ask: DeletePolicy) -> PolicyApplied:
        """Remove a document although tests of others fail. Raises InvalidInput, Conflict."""
        return await self._delete(ask, forced=True)

    async def roll_back(self, ask: RollBackPolicy) -> PolicyApplied:
        """Store an earlier version again, as any change is stored. Raises InvalidInput, Conflict, Denied."""
        self._check_claim(ask.owner)
        return await self.roll_back_owned(ask)

    async def roll_back_owned(self, ask: RollBackPolicy) -> PolicyApplied:
        """The same by whoever has the right to speak in the owner's name."""
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

    def _check_claim(self, owner: str) -> None:
        """Raise Denied where nothing vouches for the owner that a message claims."""
        if owner and not self._trusting:
            raise Denied(
                f"`owner`: {owner} is claimed, not proved: ask on the owner's own subject (`owned.apply` and the like), "
                f"with a credential that may: `fairlead credentials issue ... --may policies={speaker(owner)}`"
            )

    async def _apply(self, ask: ApplyPolicy, *, forced: bool, action: str = "stored") -> PolicyApplied:
        policy = self.understood(ask.document)
        await self.ready()
        failing = self.objections({policy.reference: policy}, {policy.reference: ask.document}, forced=forced)
        edit = Edit(ask.author, ask.owner, action, ask.expected_revision, forced=forced, failing=bool(failing))
        answer, concerned = await self.commit(ask.document, policy, edit)
        answer = replace(answer, warnings=(*failing, *answer.warnings))
        return await self.waiting.realise(answer, concerned, ask.wait_s)

    async def commit(self, document: PolicyObject, policy: Policy, edit: Edit) -> Done:
        """Store a document that was found good. Raises Conflict, Denied."""
        before = self.waiting.selected_now(policy.reference)
        selected = self.waiting.selected(policy)
        await self._store.number(policy.prefixes)
        revision, changed = await self._editor.put(policy.reference, document, edit)
        answer = PolicyApplied(
            policy=policy.reference,
            revision=revision,
            changed=changed,
            identities=identities_of(selected),
            warnings=self._projection.view.remarks(policy),
        )
        return Done(answer, before | selected)

    async def _delete(self, ask: DeletePolicy, *, forced: bool) -> PolicyApplied:
        reference = normal_reference(ask.policy.kind, ask.policy.name, ask.policy.namespace)
        await self.ready()
        failing = self.objections({reference: None}, {}, forced=forced)
        edit = Edit(ask.author, ask.owner, "deleted", ask.expected_revision, forced=forced)
        answer, concerned = await self.remove(reference, edit)
        answer = replace(answer, warnings=(*answer.warnings, *failing))
        return await self.waiting.realise(answer, concerned, ask.wait_s)

    async def remove(self, reference: PolicyReference, edit: Edit) -> Done:
        """Remove a document; one that is not there counts as removed. Raises Conflict, Denied."""
        before = self.waiting.selected_now(reference)
        revision, changed = await self._editor.remove(reference, edit)
        answer = PolicyApplied(
            policy=reference,
            revision=revision or self._projection.revision,
            changed=changed,
            identities=identities_of(before),
            warnings=() if changed else (f"there is no {title(reference)}",),
        )
        return Done(answer, before)

    async def owned(self, owner: str) -> list[PolicyObject]:
        """Return the documents that stand in this owner's name in the store, read by this replica or not yet."""
        return await self._store.owned(owner)

    async def ready(self) -> None:
        """Return when what this process has committed is among what decisions are made by. Raises Unavailable."""
        await self._projection.ready()
        await self._projection.caught_up(self._editor.committed)

    def objections(
        self, changes: Changes, documents: Mapping[PolicyReference, PolicyObject], *, forced: bool = False
    ) -> tuple[str, ...]:
        """Return the tests that the changes fail, where they are forced. Raises InvalidInput where they are not."""
        view = self._projection.view
        check_groups(view, changes)
        real = {
            reference: policy
            for reference, policy in changes.items()
            if view.document(reference) != documents.get(reference)
        }
        failing = failing_tests(view, real) if real else []
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
        await self.ready()
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

    def understood(self, document: PolicyObject) -> Policy:
        """Return the policy in a document. Raises InvalidInput naming the field."""
        try:
            codec.encode(document)
        except (TypeError, ValueError, OverflowError, NotImplementedError, RecursionError) as error:
            raise InvalidInput(f"`document`: it holds values that have no wire form: {error}") from error
        return parse(document, self._translation)
