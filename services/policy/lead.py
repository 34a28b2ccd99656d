"""Which of several replicas announces: the one that holds a lease in the store.

The others read along, and are ready; they make and write nothing. A leader that is gone is replaced when its lease has run out. One that cannot
reach the store keeps on: what it announces cannot have changed. One that cannot reach the bus lets its lease run out.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Awaitable, Callable

from fairlead.clock import Clock
from fairlead.errors import Conflict, NotFound, Unavailable
from fairlead.kv import Check, Delete, Kv, Put
from fairlead.tasks import stop

LEADER = "fairlead/policy-leader"
LEASE_S = 4
_RENEW_S = 1.0
_LOOK_S = 0.5
_RELEASE_S = 1.0


class Lead:
    """Runs the leader's work while this process leads."""

    def __init__(
        self, kv: Kv, work: Callable[[], Awaitable[None]], *, connected: Callable[[], bool], clock: Clock
    ) -> None:
        self._kv = kv
        self._work = work
        self._connected = connected
        self._clock = clock
        self._token = secrets.token_hex(8).encode()

    async def run(self) -> None:
        """Wait for the lead, and lead; for ever."""
        while True:
            lease, revision = await self._acquire()
            try:
                await self._lead(lease, revision)
            finally:
                await self._release(revision)

    async def _acquire(self) -> tuple[int, int]:
        """Return lease and revision of the key, once it is ours."""
        while True:
            with contextlib.suppress(Conflict, NotFound, Unavailable):
                if self._connected() and await self._kv.get(LEADER) is None:
                    lease = await self._kv.grant(LEASE_S)
                    return lease, await self._kv.commit([Check(LEADER, 0)], [Put(LEADER, self._token, lease)])
            await self._clock.sleep(_LOOK_S)

    async def _lead(self, lease: int, revision: int) -> None:
        """Work until the lease is lost; raises what the work raises."""
        work = asyncio.ensure_future(self._work())
        hold = asyncio.create_task(self._hold(lease, revision))
        try:
            await asyncio.wait({work, hold}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
        finally:
            await stop(work, hold)

    async def _hold(self, lease: int, revision: int) -> None:
        """Return when the store says that the lease has ended, or that the lead is another's; nothing less counts."""
        while True:
            await self._clock.sleep(_RENEW_S)
            with contextlib.suppress(Unavailable):
                if not self._connected():
                    continue
                item = await self._kv.get(LEADER)
                if item is None or item.revision != revision or not await self._kv.keep_alive(lease):
                    return

    async def _release(self, revision: int) -> None:
        """Let another one lead at once, if the lead is still ours."""
        with contextlib.suppress(Conflict, Unavailable, TimeoutError):
            async with asyncio.timeout(_RELEASE_S):
                await self._kv.commit([Check(LEADER, revision)], [Delete(LEADER)])
