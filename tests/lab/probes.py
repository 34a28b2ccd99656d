"""Real packets: small questions from inside a namespace, answered yes or no."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from tests.lab.lab import Lab
from tests.lab.waiting import until

REDIS = 6379
OTHER = 8080
_PONG = b"+PONG"
_EVERY_S = 0.01
_PATIENCE_S = 0.3


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


@dataclass(frozen=True)
class Try:
    """One new connection: when it was begun (CLOCK_MONOTONIC) and whether a PONG came."""

    began_s: float
    answered: bool


class Knocking:
    """Knocks every 10 ms without waiting for answers, from before a change until after it, and tells when the answer changed."""

    def __init__(self, lab: Lab, source: str, address: str, *, local: str = "") -> None:
        self._lab, self._source, self._address, self._local = lab, source, address, local
        self._tries: set[asyncio.Task[None]] = set()
        self.done: list[Try] = []

    async def __aenter__(self) -> Knocking:
        self._loop = asyncio.create_task(self._forever())
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in (self._loop, *self._tries):
            task.cancel()
        await asyncio.gather(self._loop, *self._tries, return_exceptions=True)

    async def turned(self, *, answered: bool, after_s: float, within_s: float = 10.0) -> float | None:
        """Return how many ms after `after_s` the first of ten tries in a row with this answer was begun; None: never."""

        async def first() -> float | None:
            await asyncio.sleep(0)
            return _first_of_ten(sorted(self.done, key=lambda one: one.began_s), answered=answered, after_s=after_s)

        seen = await until(first, lambda found: found is not None, within_s=within_s, every_s=0.01)
        return None if seen.value is None else (seen.value - after_s) * 1000

    async def _forever(self) -> None:
        while True:
            task = asyncio.create_task(self._try())
            self._tries.add(task)
            task.add_done_callback(self._tries.discard)
            await asyncio.sleep(_EVERY_S)

    async def _try(self) -> None:
        began_s = time.monotonic()
        answered = await knock(self._lab, self._source, self._address, timeout_s=_PATIENCE_S, local=self._local)
        self.done.append(Try(began_s, answered))


def _first_of_ten(tries: list[Try], *, answered: bool, after_s: float) -> float | None:
    since = [one for one in tries if one.began_s >= after_s]
    for number, one in enumerate(since):
        ten = since[number : number + 10]
        if len(ten) == 10 and all(other.answered is answered for other in ten):
            return one.began_s
    return None


async def redis_cli(lab: Lab, source: str, address: str, port: int = REDIS) -> str:
    """Return what `redis-cli PING` says, or `no answer within 1 s`."""
    done = await lab.run(source, "timeout", "1", "redis-cli", "-h", address, "-p", str(port), "PING")
    return "no answer within 1 s" if done.status == 124 else done.said


async def pings(lab: Lab, source: str, address: str) -> bool:
    """Tell whether one ICMP echo is answered within a second."""
    return (await lab.run(source, "ping", "-n", "-c", "1", "-W", "1", address)).ok
