"""A program that runs inside a namespace and measures what its packets met.

python traffic.py serve PORT            answers PING with +PONG, on both families
python traffic.py measure ADDRESS PORT  one stream with a sequence check, and a new connection every 10 ms, against Redis,
                                        until SIGTERM; then prints what it saw as JSON
"""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import struct
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

_CONNECT_EVERY_S = 0.01
_SAY_EVERY_S = 0.005
_GIVE_UP_S = 5.0
_TOTAL_RETRANS = 100  # offset of tcpi_total_retrans in struct tcp_info, linux/tcp.h


@dataclass
class Seen:
    """What the packets met."""

    connections: int = 0
    failed: int = 0
    slowest_ms: float = 0.0
    stream_messages: int = 0
    stream_errors: int = 0
    stream_longest_gap_ms: float = 0.0
    stream_retransmissions: int = 0
    retransmissions: int = 0
    segments: int = 0
    problem: str = ""


async def serve(port: int) -> None:
    """Answer PING for ever."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readline():
            writer.write(b"+PONG\r\n")
        writer.close()

    server = await asyncio.start_server(answer, None, port, backlog=1024)
    await server.serve_forever()


async def measure(address: str, port: int) -> Seen:
    """Talk until SIGTERM, and return what was seen."""
    seen, ended = Seen(), asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    before = counters()
    stream = asyncio.create_task(_stream(address, port, seen, ended))
    calls: set[asyncio.Task[None]] = set()
    while not ended.is_set():
        call = asyncio.create_task(_call(address, port, seen))
        calls.add(call)
        call.add_done_callback(calls.discard)
        await asyncio.sleep(_CONNECT_EVERY_S)
    await asyncio.gather(stream, *calls)
    after = counters()
    seen.retransmissions = after["RetransSegs"] - before["RetransSegs"]
    seen.segments = after["OutSegs"] - before["OutSegs"]
    return seen


def counters() -> dict[str, int]:
    """Return the TCP counters of this network namespace."""
    names, values = (
        line.split() for line in Path("/proc/net/snmp").read_text().splitlines() if line.startswith("Tcp:")
    )
    return dict(zip(names[1:], map(int, values[1:]), strict=True))


async def _call(address: str, port: int, seen: Seen) -> None:
    began = time.monotonic()
    seen.connections += 1
    try:
        await asyncio.wait_for(_one_ping(address, port), _GIVE_UP_S)
    except (OSError, TimeoutError, EOFError) as error:
        seen.failed += 1
        seen.problem = seen.problem or f"connection: {error!r}"
    seen.slowest_ms = max(seen.slowest_ms, (time.monotonic() - began) * 1000)


async def _one_ping(address: str, port: int) -> None:
    reader, writer = await asyncio.open_connection(address, port)
    try:
        writer.write(b"PING\r\n")
        if await reader.readline() != b"+PONG\r\n":
            raise EOFError("no PONG")
    finally:
        writer.close()


async def _stream(address: str, port: int, seen: Seen, ended: asyncio.Event) -> None:
    try:
        reader, writer = await asyncio.wait_for(asyncio.open_connection(address, port), _GIVE_UP_S)
        last = time.monotonic()
        while not ended.is_set():
            seen.stream_messages += 1
            seen.stream_errors += not await _echoed(reader, writer, seen.stream_messages)
            now = time.monotonic()
            seen.stream_longest_gap_ms = max(seen.stream_longest_gap_ms, (now - last) * 1000)
            last = now
            await asyncio.sleep(_SAY_EVERY_S)
        seen.stream_retransmissions = _retransmissions(writer.get_extra_info("socket"))
        writer.close()
    except (OSError, TimeoutError, EOFError) as error:
        seen.stream_errors += 1
        seen.problem = seen.problem or f"stream: {error!r}"


async def _echoed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> bool:
    writer.write(b"ECHO %d\r\n" % number)
    await asyncio.wait_for(reader.readline(), _GIVE_UP_S)  # $<length>
    said = await asyncio.wait_for(reader.readline(), _GIVE_UP_S)
    if not said:
        raise EOFError("the stream was closed")
    return said == b"%d\r\n" % number


def _retransmissions(sock: socket.socket) -> int:
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    return int(struct.unpack_from("=I", info, _TOTAL_RETRANS)[0])


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        asyncio.run(serve(int(sys.argv[2])))
    else:
        print(json.dumps(asdict(asyncio.run(measure(sys.argv[2], int(sys.argv[3]))))))
