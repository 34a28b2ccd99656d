"""What policy answers: store a document, remove one, list them; each reply can wait until every node has it in its kernel."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from msgspec.structs import replace

from fairlead import codec, telemetry
from fairlead.bus import Bus, Route, route
from fairlead.clock import Clock
from fairlead.errors import Conflict, InvalidInput
from fairlead.mirror import Mirror
from fairlead.schema.base import Empty
from fairlead.schema.datapath import REALISED, RealisedRow
from fairlead.schema.identity import ADDRESSES, AddressGroup
from fairlead.schema.policy import (
    APPLY,
    DELETE,
    POLICIES,
    POLICY_PUBLISHED,
    POLICY_WITHDRAWN,
    ApplyPolicy,
    DeletePolicy,
    NodeRealised,
    PolicyApplied,
    PolicyList,
    PolicyObject,
    PolicyReference,
)
from services.policy.parse import normal_reference, parse
from services.policy.projection import Projection
from services.policy.realised import Hosting, confirmations
from services.policy.rules import Policy, Translation
from services.policy.store import Found, PolicyStore, StoredDocument, policy_key

_TRIES = 5


class PolicyService:
    """Commits documents; the projection does the rest."""

    def __init__(
        self, store: PolicyStore, projection: Projection, translation: Translation, bus: Bus, clock: Clock
    ) -> None:
        self._store = store
        self._projection = projection
        self._translation = translation
        self._hosting = Hosting()
        self._heard = asyncio.Event()
        self.realised = Mirror(bus.bucket(REALISED), on_change=self._on_realised, clock=clock)
        self.addresses = Mirror(bus.bucket(ADDRESSES), on_change=self._on_addresses, clock=clock)

    async def _on_addresses(self, group: str, row: AddressGroup | None) -> None:
        self._hosting.take(group, row)
        self._heard.set()

    async def _on_realised(self, _node: str, _row: RealisedRow | None) -> None:
        self._heard.set()

    async def apply(self, ask: ApplyPolicy) -> PolicyApplied:
        """Store a document. Raises InvalidInput naming the field, Conflict when others change it all the time."""
        policy = self._understood(ask.document)
        await self._projection.ready()
        self._projection.view.check_groups(policy)
        before = self._selected_now(policy.reference)
        await self._store.number(policy.prefixes)
        stored = StoredDocument(document=ask.document, author=ask.author, trace=telemetry.traceparent())
        revision, changed = await self._put(policy.reference, stored)
        answer = PolicyApplied(
            policy=policy.reference,
            revision=revision,
            changed=changed,
            identities=tuple(sorted(self._projection.view.model.selected(policy))),
            warnings=self._projection.view.remarks(policy),
        )
        return await self._realise(answer, before, ask.wait_s)

    async def delete(self, ask: DeletePolicy) -> PolicyApplied:
        """Remove a document; one that is not there counts as removed. Raises InvalidInput, Conflict."""
        reference = normal_reference(ask.policy.kind, ask.policy.name, ask.policy.namespace)
        await self._projection.ready()
        users = self._projection.view.denied_by(reference)
        if users:
            raise InvalidInput(f"`policy`: {', '.join(users)} would no longer deny anything: change them first")
        before = self._selected_now(reference)
        revision, changed = await self._remove(reference)
        warnings = () if changed else (f"there is no {reference.kind} {policy_key(reference).rpartition('/')[2]}",)
        answer = PolicyApplied(
            policy=reference,
            revision=revision,
            changed=changed,
            identities=tuple(sorted(before)),
            warnings=warnings,
        )
        return await self._realise(answer, before, ask.wait_s)

    async def published(self, document: PolicyObject) -> PolicyApplied:
        """Store a document that another system has published."""
        return await self.apply(ApplyPolicy(document=document, author="event"))

    async def withdrawn(self, reference: PolicyReference) -> PolicyApplied:
        """Remove a document that another system has withdrawn."""
        return await self.delete(DeletePolicy(policy=reference))

    async def list(self, _ask: Empty) -> PolicyList:
        """Return all documents that are in force, as of the newest revision that is resolved."""
        await self._projection.ready()
        view = self._projection.view
        found = (
            replace(stored, warnings=view.remarks(view.model.policies[key]))
            for key, stored in sorted(view.documents.items())
        )
        return PolicyList(policies=tuple(found), revision=self._projection.revision)

    def routes(self) -> Sequence[Route]:
        """Return every topic with its handler."""
        return (
            route(APPLY, self.apply),
            route(DELETE, self.delete),
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

    def _selected_now(self, reference: PolicyReference) -> set[int]:
        """Return the subjects of the policy as it is in force now."""
        model = self._projection.view.model
        policy = model.policies.get(policy_key(reference))
        return model.selected(policy) if policy else set()

    async def _put(self, reference: PolicyReference, stored: StoredDocument) -> tuple[int, bool]:
        for _ in range(_TRIES):
            found = await self._found(reference)
            if found is not None and found.stored.document == stored.document:
                return found.revision, False
            try:
                return await self._store.put(reference, stored, found.revision if found else 0), True
            except Conflict:
                continue  # somebody else changed it between the two calls: look again
        raise Conflict(f"{policy_key(reference)} is changed by others all the time: try again")

    async def _remove(self, reference: PolicyReference) -> tuple[int, bool]:
        for _ in range(_TRIES):
            revision = await self._store.revision(reference)
            if not revision:
                return self._projection.revision, False
            try:
                return await self._store.delete(reference, revision, telemetry.traceparent()), True
            except Conflict:
                continue  # somebody else changed it between the two calls: look again
        raise Conflict(f"{policy_key(reference)} is changed by others all the time: try again")

    async def _found(self, reference: PolicyReference) -> Found | None:
        """Return what is stored; something unreadable is there to be overwritten."""
        try:
            return await self._store.get(reference)
        except InvalidInput:
            revision = await self._store.revision(reference)
            empty = PolicyObject(apiVersion="", kind="", metadata={})
            return Found(StoredDocument(document=empty), revision)

    async def _realise(self, answer: PolicyApplied, before: set[int], wait_s: float) -> PolicyApplied:
        """Return the answer with what has been reached after at most `wait_s`."""
        if not wait_s:
            return answer
        nodes: tuple[NodeRealised, ...] = ()
        resolved = False
        try:
            async with asyncio.timeout(wait_s):
                await self._projection.settled(answer.revision)
                resolved = True
                wanted = self._revisions(before | set(answer.identities) | self._selected_now(answer.policy))
                while True:
                    nodes = self._confirmations(wanted)
                    if self.addresses.complete and all(node.realised for node in nodes):
                        break
                    self._heard.clear()
                    await self._heard.wait()
        except TimeoutError:
            pass  # the answer names what is missing
        identities = tuple(sorted({*answer.identities, *self._selected_now(answer.policy)}))
        return replace(answer, resolved=resolved, nodes=nodes, identities=identities)

    def _revisions(self, identities: set[int]) -> dict[int, int]:
        rows = self._projection.rows.rows
        return {number: rows[str(number)].revision for number in identities if str(number) in rows}

    def _confirmations(self, wanted: dict[int, int]) -> tuple[NodeRealised, ...]:
        return confirmations(wanted, self._hosting, self.realised.rows)
