"""As much of HTTP/1.1 over unix sockets as the engine speaks with its plugins, and they with it. Bodies are JSON, bounded in size and time."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

from fairlead.errors import InvalidInput, Unavailable

MAX_BODY_BYTES = 4 * 1024 * 1024
_MAX_HEAD_BYTES = 64 * 1024
_REQUEST_S = 10.0
_LOG = logging.getLogger("docker.http")

Answer = Callable[[str, bytes], Awaitable[tuple[int, bytes]]]
"""Turns path and body of a POST into status and body."""

_REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed", 500: "Internal Server Error"}
_ENDS = (ConnectionError, asyncio.IncompleteReadError, TimeoutError, OSError)


@dataclass(frozen=True)
class Head:
    """First line and headers of a message; names of headers in lower case."""

    first: tuple[str, ...]
    headers: dict[str, str]

    @property
    def chunked(self) -> bool:
        """Tell whether the body comes in chunks."""
        return "chunked" in self.headers.get("transfer-encoding", "").lower()

    @property
    def length(self) -> int:
        """Return the announced length of the body. Raises InvalidInput for one that cannot be."""
        text = self.headers.get("content-length", "0")
        if not text.isascii() or not text.isdecimal() or int(text) > MAX_BODY_BYTES:
            raise InvalidInput(f"Content-Length: {text[:40]!r} is no number up to {MAX_BODY_BYTES}")
        return int(text)


async def read_head(reader: asyncio.StreamReader) -> Head:
    """Return the head of the next message. Raises InvalidInput for what is none, IncompleteReadError at the end."""
    try:
        raw = await reader.readuntil(b"\r\n\r\n")
    except asyncio.LimitOverrunError as error:
        raise InvalidInput(f"the request's head is longer than {_MAX_HEAD_BYTES} bytes") from error
    lines = raw.decode("latin-1").split("\r\n")
    first = tuple(lines[0].split(" ", 2))
    if len(first) < 2:
        raise InvalidInput(f"{lines[0][:80]!r} does not begin an HTTP message")
    pairs = (line.partition(":") for line in lines[1:] if line)
    return Head(first, {name.strip().lower(): value.strip() for name, _, value in pairs})


async def chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """Yield the chunks of a body that comes in chunks. Raises InvalidInput."""
    while True:
        size = (await reader.readline()).split(b";")[0].strip()
        try:
            length = int(size, 16)
        except ValueError as error:
            raise InvalidInput(f"{size[:20]!r} is no size of a chunk") from error
        if not 0 <= length <= MAX_BODY_BYTES:
            raise InvalidInput(f"a chunk of {length} bytes is too large")
        data = await reader.readexactly(length + 2)
        if not length:
            return
        yield data[:-2]


async def read_body(reader: asyncio.StreamReader, head: Head) -> bytes:
    """Return the body that belongs to the head. Raises InvalidInput when it is too long."""
    if not head.chunked:
        return await reader.readexactly(head.length)
    body = b""
    async for chunk in chunks(reader):
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise InvalidInput(f"the body is longer than {MAX_BODY_BYTES} bytes")
    return body


async def serve(path: str, answer: Answer) -> asyncio.Server:
    """Answer on a unix socket that only root may open; one that a dead process left is replaced."""
    os.makedirs(os.path.dirname(path), exist_ok=True)  # noqa: PTH103, PTH120 - a path of the engine's, not ours to model

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(*_ENDS):
            try:
                while await _exchange(reader, writer, answer):
                    pass
            except InvalidInput as error:
                _LOG.warning("a request that is none: %s", error.message)
                await _respond(writer, 400, error.message.encode())
            finally:
                writer.close()

    mask = os.umask(0o177)
    try:
        return await asyncio.start_unix_server(talk, path, limit=_MAX_HEAD_BYTES, backlog=256)
    finally:
        os.umask(mask)


async def _exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: Answer) -> bool:
    """Answer one request; whether another may follow."""
    head = await read_head(reader)
    async with asyncio.timeout(_REQUEST_S):  # whoever stops in the middle does not hold us
        body = await read_body(reader, head)
    if head.first[0] != "POST":
        await _respond(writer, 405, b"only POST")
    else:
        await _respond(writer, *await answer(head.first[1], body))
    return head.headers.get("connection", "").lower() != "close"


async def _respond(writer: asyncio.StreamWriter, status: int, body: bytes) -> None:
    head = (
        f"HTTP/1.1 {status} {_REASONS.get(status, 'Error')}\r\n"
        f"Content-Type: application/vnd.docker.plugins.v1.1+json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    writer.write(head.encode() + body)
    await writer.drain()


@contextlib.asynccontextmanager
async def ask(
    socket: str, path: str, method: str = "GET", good: tuple[str, ...] = ("200",)
) -> AsyncIterator[tuple[Head, asyncio.StreamReader]]:
    """Ask a server on a unix socket; give head and reader of its answer. Raises Unavailable unless the status is a good one."""
    try:
        reader, writer = await asyncio.open_unix_connection(socket, limit=MAX_BODY_BYTES)
    except OSError as error:
        raise Unavailable(f"{socket} does not answer: {error.strerror or error}") from error
    try:
        writer.write(
            f"{method} {path} HTTP/1.1\r\nHost: docker\r\nConnection: close\r\nContent-Length: 0\r\n\r\n".encode()
        )
        await writer.drain()
        head = await read_head(reader)
        if head.first[1] not in good:
            raise Unavailable(f"{socket}{path.partition('?')[0]}: status {head.first[1]}")
        yield head, reader
    except (ConnectionError, asyncio.IncompleteReadError) as error:
        raise Unavailable(f"{socket} ended the connection") from error
    finally:
        writer.close()
