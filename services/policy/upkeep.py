"""What the leader does by the clock: remove documents whose time is over, and take back the numbers of prefixes that nobody names."""

from __future__ import annotations

from fairlead.clock import Clock
from fairlead.errors import Conflict, Unavailable
from fairlead.schema.policy import StoredPolicy
from services.policy.projection import Projection
from services.policy.store import PolicyStore, StoredDocument

_FORGET_EVERY_S = 5.0
_TIME_EVERY_S = 1.0


class Upkeep:
    """Changes in the store that nobody asked for."""

    def __init__(self, projection: Projection, store: PolicyStore, clock: Clock) -> None:
        self._projection = projection
        self._store = store
        self._clock = clock

    async def keep_time(self) -> None:
        """Let time change what it changes: end audits, and remove documents whose time is over; for ever."""
        while True:
            await self._clock.sleep(_TIME_EVERY_S)
            await self._projection.pass_time()
            if self._projection.leading:
                for stored in self._projection.view.expired(self._clock.now()):
                    await self._expire(stored)

    async def _expire(self, stored: StoredPolicy) -> None:
        try:
            cause = StoredDocument(document=stored.document, author="expiry", at=self._clock.now())
            await self._store.delete(stored.policy, stored.revision, cause, "expired")
        except (Conflict, Unavailable):
            return  # it has changed, or the store is away: the next round looks again

    async def forget_prefixes(self, grace_s: float) -> None:
        """Take back the numbers of prefixes that no policy has named for `grace_s`, for ever."""
        unnamed_since: dict[str, float] = {}
        while True:
            await self._clock.sleep(min(_FORGET_EVERY_S, grace_s or _FORGET_EVERY_S))
            now, view = self._clock.monotonic_s(), self._projection.view
            unnamed = view.numbers.keys() - view.named if self._projection.leading else set()
            unnamed_since = {prefix: unnamed_since.get(prefix, now) for prefix in unnamed}
            for prefix, since in unnamed_since.items():
                if now - since >= grace_s:
                    await self._forget(prefix)

    async def _forget(self, prefix: str) -> None:
        try:
            await self._store.forget(prefix, self._projection.view.numbers[prefix])
        except (Conflict, Unavailable, KeyError):
            return  # it is gone already, or the store is away: the next round looks again
