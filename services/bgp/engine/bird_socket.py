"""One connection to BIRD's control socket: a command goes out, its reply comes back."""

from __future__ import annotations

import asyncio
from pathlib import Path

from fairlead.errors import Unavailable
from services.bgp.engine.bird_replies import Reply, ReplyReader

_CHUNK_BYTES = 65536
_TIMEOUT_S = 5.0


class BirdSocket:
    """Asks BIRD one thing at a time; reconnects when asked again after a failure."""

    def __init__(self, path: Path, timeout_s: float = _TIMEOUT_S) -> None:
        self._path = path
        self._timeout_s = timeout_s
        self._lock = asyncio.Lock()
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._replies = ReplyReader()
        self.version = ""
        """BIRD's version as its greeting had it; empty before the first answer."""

    async def ask(self, command: str) -> Reply:
        """Return the reply to `command`. Raises Unavailable when BIRD is away or does not answer in time."""
        if "\n" in command:
            raise ValueError("one command is one line")
        async with self._lock:
            try:
                async with asyncio.timeout(
                    self._timeout_s
                ):  # not wait_for: before Python 3.12 it can swallow a cancellation
                    return await self._ask(command)
            except (OSError, TimeoutError, Unavailable) as error:
                self.close()
                raise Unavailable(f"bird: no answer on {self._path}: {error or type(error).__name__}") from error
            except asyncio.CancelledError:
                self.close()  # its reply would be taken for the next one's
                raise

    def close(self) -> None:
        """Drop the connection; BIRD does not mind."""
        if self._streams:
            self._streams[1].close()
        self._streams = None
        self._replies = ReplyReader()

    async def _ask(self, command: str) -> Reply:
        """Ask; where BIRD was restarted since the last time, ask the new one. Commands may be repeated."""
        if self._streams:
            try:
                return await self._exchange(self._streams, command)
            except (OSError, Unavailable):
                self.close()
        return await self._exchange(await self._connect(), command)

    async def _exchange(self, streams: tuple[asyncio.StreamReader, asyncio.StreamWriter], command: str) -> Reply:
        reader, writer = streams
        writer.write(f"{command}\n".encode())
        return await self._reply(reader)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        self._streams = await asyncio.open_unix_connection(self._path)
        greeting = await self._reply(self._streams[0])
        self.version = greeting.text.removesuffix(" ready.")
        return self._streams

    async def _reply(self, reader: asyncio.StreamReader) -> Reply:
        while True:
            data = await reader.read(_CHUNK_BYTES)
            if not data:
                raise Unavailable("closed")
            replies = self._replies.feed(data)
            if replies:
                return replies[0]
