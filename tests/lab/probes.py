"""Real packets: small questions from inside a namespace, answered yes or no."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from tests.lab.lab import Lab
from tests.lab.waiting import Seen, until

REDIS = 6379
OTHER = 8080
_PONG = b"+PONG"


async def knock(
    lab: Lab, source: str, address: str, port: int = REDIS, *, timeout_s: float = 0.7, local: str = ""
) -> bool:
    """Tell whether a new connection from `source` gets a PONG."""
    return await lab.resident(source).run(_knocker(address, port, timeout_s, local))


def _knocker(address: str, port: int, timeout_s: float, local: str) -> Callable[[], Awaitable[bool]]:
    async def ask() -> bool:
        bound = (local, 0) if local else None
        reader, writer = await asyncio.open_connection(address, port, local_addr=bound)
        try:
            writer.write(b"PING\r\n")
            return (await reader.readline()).startswith(_PONG)
        finally:
            writer.close()

    async def within() -> bool:
        try:
            return await asyncio.wait_for(ask(), timeout_s)
        except (OSError, TimeoutError):
            return False

    return within


async def opens(lab: Lab, source: str, address: str, *, within_s: float, local: str = "") -> Seen[bool]:
    """Knock until it is answered; each try is a connection of its own."""
    return await until(
        lambda: knock(lab, source, address, timeout_s=0.15, local=local), bool, within_s=within_s, every_s=0.01
    )


async def closes(lab: Lab, source: str, address: str, *, within_s: float, local: str = "") -> Seen[bool]:
    """Knock until it is not answered any more."""
    return await until(
        lambda: knock(lab, source, address, timeout_s=0.3, local=local), lambda open_: not open_, within_s=within_s
    )


async def redis_cli(lab: Lab, source: str, address: str, port: int = REDIS) -> str:
    """Return what `redis-cli PING` says, or `no answer within 1 s`."""
    done = await lab.run(source, "timeout", "1", "redis-cli", "-h", address, "-p", str(port), "PING")
    return "no answer within 1 s" if done.status == 124 else done.said


async def pings(lab: Lab, source: str, address: str) -> bool:
    """Tell whether one ICMP echo is answered within a second."""
    return (await lab.run(source, "ping", "-n", "-c", "1", "-W", "1", address)).ok
