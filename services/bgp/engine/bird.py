"""BIRD 2 as the engine: files on disk say what should be, `configure` on the control socket makes it so.

A commit checks a candidate set, renames it into place and reconfigures; a refused set is replaced by the last good one and not tried
again. When BIRD is away the files are written all the same: its next start reads them.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from fairlead.address import Family, Prefix
from fairlead.clock import Clock
from fairlead.errors import FairleadError, Unavailable
from services.bgp.engine import Applied, Session, Status, bird_config
from services.bgp.engine.bird_files import BirdFiles
from services.bgp.engine.bird_replies import parse_prefixes, parse_sessions
from services.bgp.engine.bird_socket import BirdSocket
from services.bgp.model import Routes, Speaker, flapping

_LOG = logging.getLogger(__name__)
_SHUTTING_DOWN = 6
_UNDO_AFTER_S = 30
_SETTLE_S = 20.0


class Rejected(FairleadError):
    """BIRD refused the configuration; what ran before keeps running."""

    code = "rejected"


class Bird:
    """Drives one BIRD through its files in `folder` and its control socket."""

    def __init__(self, folder: Path, control: Path, speaker: Speaker, clock: Clock) -> None:
        self._files = BirdFiles(folder)
        self._socket = BirdSocket(control)
        self._speaker = speaker
        self._clock = clock
        self._routes: Routes | None = None
        self._lock = asyncio.Lock()
        self._loaded: dict[str, str] = {}
        self._refused: dict[str, str] = {}

    async def apply(self, routes: Routes) -> Applied:
        """Announce exactly `routes`. Calls that come while one is at work are done together, the newest wins. Raises Rejected."""
        self._routes = dict(routes)
        return await self._commit()

    async def configure(self, speaker: Speaker) -> tuple[str, ...]:
        """Set neighbours, timers and drain; return the sessions that flap for it. Raises Rejected."""
        before = self._files.speaker()
        flaps = flapping(before, speaker) if before else ()
        if flaps:
            _LOG.warning("new settings restart the sessions %s", ", ".join(flaps))
        self._speaker = speaker
        await self._commit()
        return flaps

    async def status(self) -> Status:
        """Return sessions and announced prefixes. Raises Unavailable."""
        sessions = parse_sessions(await self._socket.ask("show protocols all"))
        carried = {s.name: await self._prefixes(f" export {s.name}") for s in sessions if s.established}
        announced = {
            prefix: tuple(name for name, prefixes in carried.items() if prefix in prefixes)
            for prefix in sorted(await self._prefixes())
        }
        return Status(self._socket.version, sessions, announced)

    async def in_step(self) -> bool:
        """Compare BIRD's routes with those wanted, all of them. Raises Unavailable."""
        wanted = set(self._routes) if self._routes is not None else None
        same = wanted is None or wanted == await self._prefixes()
        if not same:
            self._loaded = {}  # whatever BIRD was told before, it has to be told again
        return same

    async def shutdown(self, *, graceful: bool) -> None:
        """End BIRD: `graceful` leaves the routes with the neighbours, otherwise they are withdrawn at once."""
        await self._socket.ask("graceful restart" if graceful else "down")

    def close(self) -> None:
        """Let go of the control socket; BIRD goes on."""
        self._socket.close()

    async def _prefixes(self, condition: str = "") -> set[Prefix]:
        found: set[Prefix] = set()
        for family in Family:
            reply = await self._socket.ask(f"show route table {bird_config.TABLE[family]}{condition}")
            found |= parse_prefixes(reply) if reply.ok else set()
        return found

    async def _commit(self) -> Applied:
        async with self._lock:
            wanted = self._render()
            if wanted == self._refused:
                raise Rejected("bird: this configuration was refused before; the last good one is in use")
            changed = wanted != self._files.current()
            if not changed and wanted == self._loaded:
                return Applied(changed=False, running=True)
            return Applied(changed=changed, running=await self._bring(wanted))

    def _render(self) -> dict[str, str]:
        """Return the wanted set. While the routes are not known, those on disk stay."""
        files = bird_config.render(self._speaker, self._routes or {})
        if self._routes is None:
            files |= {name: text for name, text in self._files.current().items() if name in bird_config.ROUTES.values()}
        return files

    async def _bring(self, wanted: dict[str, str]) -> bool:
        """Check, write and load the set; return whether BIRD runs it."""
        await self._check(wanted)
        before = self._files.current()
        self._files.write(wanted)
        self._files.keep_speaker(self._speaker)
        try:
            await self._load(wanted, before)
        except Unavailable:
            self._loaded = {}
            return False
        except Rejected:
            self._refuse(wanted)
            raise
        self._loaded = wanted
        self._files.keep_as_good()
        return True

    async def _check(self, wanted: dict[str, str]) -> None:
        """Let BIRD read the set as a candidate: a bad file in place would keep it from starting."""
        self._files.write_candidate(wanted)
        try:
            reply = await self._socket.ask(f'configure check "{self._files.candidate}"')
        except Unavailable:
            return  # its entrypoint checks before it starts
        if not reply.ok:
            self._refused = wanted
            raise Rejected(f"bird: {reply.text}")

    async def _load(self, wanted: dict[str, str], before: dict[str, str]) -> None:
        """Reconfigure. Routes alone are reloaded softly; anything else is undone by BIRD itself unless the sessions stand it."""
        settings = (bird_config.MAIN, bird_config.DRAIN)
        first = bird_config.MAIN not in before
        if first or all(wanted[name] == before.get(name) for name in settings):
            await self._reconfigure("configure soft")
            return
        standing = {session.name for session in await self._sessions() if session.established}
        await self._reconfigure(f"configure timeout {_UNDO_AFTER_S}")
        kept = standing & {neighbour.name for neighbour in self._speaker.neighbours}
        if not await self._settled(kept):
            await self._socket.ask("configure undo")
            raise Rejected(
                f"bird: the sessions {', '.join(sorted(kept))} did not survive the new settings; they were undone"
            )
        await self._reconfigure("configure confirm")

    async def _reconfigure(self, command: str) -> None:
        reply = await self._socket.ask(command)
        if reply.code == _SHUTTING_DOWN:
            raise Unavailable("bird: shutting down")
        if not reply.ok:
            raise Rejected(f"bird: {reply.text}")

    async def _sessions(self) -> tuple[Session, ...]:
        return parse_sessions(await self._socket.ask("show protocols all"))

    async def _settled(self, names: set[str]) -> bool:
        """Wait until the sessions stand again, and tell whether they do."""
        until = self._clock.monotonic_s() + _SETTLE_S
        while True:
            if names <= {session.name for session in await self._sessions() if session.established}:
                return True
            if self._clock.monotonic_s() > until:
                return False
            await self._clock.sleep(0.2)

    def _refuse(self, wanted: dict[str, str]) -> None:
        self._refused = wanted
        good = self._files.last_good()
        if good:
            self._files.write(good)
