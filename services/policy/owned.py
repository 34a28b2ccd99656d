"""What policy answers to those who speak in an owner's name: the same as to everybody, and all documents of the owner at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import msgspec

from fairlead.bus import ANY_NODE, Route, route
from fairlead.errors import FairleadError, InvalidInput
from fairlead.schema.owned import (
    FORCE_REPLACE,
    OWNED_APPLY,
    OWNED_DELETE,
    OWNED_REPLACE,
    OWNED_ROLLBACK,
    PoliciesReplaced,
    ReplacePolicies,
)
from fairlead.schema.policy import PolicyObject, PolicyReference
from services.policy.editing import Edit
from services.policy.gate import Changes
from services.policy.parse import reference_of
from services.policy.rules import CIDR_GROUP, Policy, title
from services.policy.service import Done, PolicyService

Wanted = dict[PolicyReference, tuple[PolicyObject, Policy]]


@dataclass(frozen=True)
class Replacement:
    """What one owner's documents are to become."""

    wanted: Wanted
    gone: tuple[PolicyReference, ...]

    def changes(self) -> Changes:
        """Return what is to stand under each name."""
        return {reference: policy for reference, (_, policy) in self.wanted.items()} | dict.fromkeys(self.gone)

    def documents(self) -> Mapping[PolicyReference, PolicyObject]:
        """Return the documents as they were given."""
        return {reference: document for reference, (document, _) in self.wanted.items()}


class OwnedPolicies:
    """Speaks with one owner at a time."""

    def __init__(self, service: PolicyService) -> None:
        self._service = service

    async def replace(self, ask: ReplacePolicies) -> PoliciesReplaced:
        """Make the owner's documents these. Raises InvalidInput naming the document or the test that fails, Conflict, Denied."""
        return await self._replace(ask, forced=False)

    async def force_replace(self, ask: ReplacePolicies) -> PoliciesReplaced:
        """The same although tests fail or a document is somebody else's. Raises InvalidInput naming the document, Conflict."""
        return await self._replace(ask, forced=True)

    async def _replace(self, ask: ReplacePolicies, *, forced: bool) -> PoliciesReplaced:
        wanted = self._understood(ask.documents)
        await self._service.ready()
        standing = {reference_of(document) for document in await self._service.owned(ask.owner)}
        gone = tuple(sorted(standing - wanted.keys(), key=_last_groups))
        replacement = Replacement(wanted, gone)
        failing = self._service.objections(replacement.changes(), replacement.documents(), forced=forced)
        edit = Edit(ask.author, ask.owner, forced=forced, failing=bool(failing))
        stored, removed = await self._commit(edit, replacement)
        if failing:
            _warn(stored or removed, failing)
        told = await asyncio.gather(*(self._service.waiting.realise(*one, ask.wait_s) for one in (*stored, *removed)))
        return PoliciesReplaced(owner=ask.owner, stored=tuple(told[: len(stored)]), removed=tuple(told[len(stored) :]))

    async def _commit(self, edit: Edit, replacement: Replacement) -> tuple[list[Done], list[Done]]:
        """Store first, and remove afterwards what is no longer wanted: a document that was renamed opens nothing meanwhile."""
        done: list[Done] = []
        try:
            async for one in self._changes(edit, replacement):
                done.append(one)  # noqa: PERF401 - what was done before an error counts
        except FairleadError as error:
            total = len(replacement.wanted) + len(replacement.gone)
            error.message += f" ({len(done)} of {total} changes were made before it: state all again)" if done else ""
            raise
        return done[: len(replacement.wanted)], done[len(replacement.wanted) :]

    async def _changes(self, edit: Edit, replacement: Replacement) -> AsyncIterator[Done]:
        for reference in sorted(replacement.wanted, key=_first_groups):
            document, policy = replacement.wanted[reference]
            yield await self._service.commit(document, policy, edit)
        for reference in replacement.gone:
            yield await self._service.remove(reference, replace(edit, action="deleted"))

    def _understood(self, documents: Sequence[PolicyObject]) -> Wanted:
        found: Wanted = {}
        for number, document in enumerate(documents):
            try:
                policy = self._service.understood(document)
            except InvalidInput as error:
                raise InvalidInput(f"`documents[{number}]`: {error.message}") from error
            if policy.reference in found:
                raise InvalidInput(f"`documents[{number}]`: {title(policy.reference)} stands twice: keep one")
            found[policy.reference] = document, policy
        return found

    def routes(self) -> Iterator[Route]:
        """Yield every topic with its handler."""
        yield route(OWNED_APPLY, self._service.apply_owned, ANY_NODE)
        yield route(OWNED_DELETE, self._service.delete_owned, ANY_NODE)
        yield route(OWNED_ROLLBACK, self._service.roll_back_owned, ANY_NODE)
        yield route(OWNED_REPLACE, self.replace, ANY_NODE)
        yield route(FORCE_REPLACE, self.force_replace)


def _warn(done: list[Done], failing: tuple[str, ...]) -> None:
    """Have the first answer say which tests fail now."""
    answer = done[0].answer
    done[0] = done[0]._replace(answer=msgspec.structs.replace(answer, warnings=(*failing, *answer.warnings)))


def _first_groups(reference: PolicyReference) -> tuple[bool, str, str, str]:
    return reference.kind != CIDR_GROUP, reference.kind, reference.namespace, reference.name


def _last_groups(reference: PolicyReference) -> tuple[bool, str, str, str]:
    return reference.kind == CIDR_GROUP, reference.kind, reference.namespace, reference.name
