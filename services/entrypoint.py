"""The container's entrypoint: wait for this start's turn in the fleet, then become the service.

When many machines start at once, or a bad message makes every agent crash at once, everything that agents need together (etcd, the
hub) would meet them all in the same second. So starts are spread over a window that grows with the fleet, and an agent that was
started in this window already is held back until the next. It stands here and not in the orchestrator, since compose's `pre_start`
is not run again when a container restarts. What the kernel holds goes on working meanwhile.

    python -m services.entrypoint SERVICE [COMMAND...]       default command: python -m services.SERVICE

A person overrides it by making the file `<state_dir>/admission/start-now`; it holds for all services until it is removed. Or by
`fairlead admission start-now`, which is heard by those that wait at that moment and can reach their bus (`waiting.py`).
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import signal
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from fairlead import syslog
from fairlead.admission import FOLDER, Record, recall
from fairlead.clock import SYSTEM, Clock
from fairlead.config import CommonSettings, load
from fairlead.errors import InvalidInput
from services.waiting import Waiting, on_bus

SMALLEST_FLEET = 20
"""Fewer nodes cannot hurt anybody: they start at once."""
_MAX_FACTOR = 4
_SERVICES = ("ipam", "identity", "policy", "datapath", "bgp")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_LOOK_EVERY_S = 1.0
_LOG = logging.getLogger("admission")


class AdmissionSettings(CommonSettings, frozen=True, kw_only=True):
    """What decides over the start."""

    fleet_size: Annotated[int, Meta(ge=0, le=10_000_000)] = 0
    """How many nodes run Fairlead; 0: unknown, then nobody waits."""


@dataclass(frozen=True)
class Decision:
    """How long to wait and why; `waiting` is to be remembered at once, `started` when the wait is over."""

    wait_s: float
    reason: str
    waiting: Record
    started: Record


Meanwhile = Callable[[CommonSettings, Waiting], AbstractAsyncContextManager[None]]


def _alone(_settings: CommonSettings, _waiting: Waiting) -> AbstractAsyncContextManager[None]:
    return nullcontext()


def window_s(fleet_size: int) -> float:
    """Return the window over which a fleet's starts are spread: 20 minutes for 1 000 nodes, an hour for 5 000."""
    return 0.0 if fleet_size < SMALLEST_FLEET else 60 * 20 * (fleet_size / 1000) ** 0.68


def jitter(agent: str, boot: str) -> float:
    """Return the agent's place in the window, from 0 to below 1: the same all through one boot, another in the next."""
    digest = hashlib.sha256(f"{agent}\n{boot}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def decide(now_s: float, agent: str, boot: str, window: float, record: Record) -> Decision:
    """Return when the agent may start. At most one start per window is admitted; an interrupted wait goes on where it was."""
    # a clock that was set back would put the last start into the future
    started_s = min(record.started_s, now_s)
    pause = window * min(2**record.held, _MAX_FACTOR)
    due, held, reason = now_s, 0, "nobody waits in a fleet of this size"
    if window and record.boot == boot and now_s - window < record.due_s <= now_s + _MAX_FACTOR * window:
        due, held, reason = record.due_s, record.due_held, "goes on with the wait that was interrupted"
    elif started_s and now_s - started_s < pause:
        held = min(record.held + 1, 1000)
        due, reason = (
            started_s + pause,
            f"held back for the {held}. time: its last start was {now_s - started_s:.0f} s ago",
        )
    elif window:
        due, reason = now_s + jitter(agent, boot) * window, "its place in the window"
    wait_s = max(0.0, due - now_s)
    waiting = Record(boot=boot, started_s=started_s, held=record.held, due_s=due if wait_s else 0, due_held=held)
    return Decision(wait_s, reason, waiting, Record(boot=boot, started_s=now_s + wait_s, held=held))


def remember(path: Path, record: Record) -> None:
    """Write what is to be remembered; a start must not fail because it cannot be."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(".new")
        fresh.write_bytes(msgspec.json.encode(record))
        fresh.replace(path)
    except OSError as error:
        _LOG.warning("%s: cannot be written (%s): the next start will not know of this one", path, error)


async def admit(
    settings: AdmissionSettings, service: str, boot: str, clock: Clock = SYSTEM, meanwhile: Meanwhile = _alone
) -> None:
    """Return when the service may start; `meanwhile` has others hear of the wait, and end it."""
    folder = Path(settings.state_dir) / FOLDER
    path, override = folder / f"{service}.json", folder / "start-now"
    window = window_s(settings.fleet_size)
    decision = decide(clock.now().timestamp(), f"{settings.node}/{service}", boot, window, recall(path))
    due = clock.monotonic_s() + decision.wait_s
    if decision.wait_s:
        told = msgspec.structs.replace(decision.waiting, node=settings.node, reason=decision.reason)
        remember(path, told)
        facts = (service, decision.wait_s, settings.fleet_size, window / 60, decision.reason, override)
        _LOG.info("%s starts in %.0f s (fleet of %d, window %.1f min, %s); to start now: touch %s", *facts)
        moment = clock.now() + timedelta(seconds=decision.wait_s)
        waiting = Waiting(settings.node, service, moment, decision.reason, clock)
        async with meanwhile(settings, waiting):
            await _wait(due, override, waiting, clock)
    remember(path, msgspec.structs.replace(decision.started, started_s=clock.now().timestamp()))


def _is_there(override: Path) -> bool:
    return override.exists()


async def _wait(due: float, override: Path, waiting: Waiting, clock: Clock) -> None:
    while clock.monotonic_s() < due and not (waiting.wanted or _is_there(override)):
        await clock.sleep(min(_LOOK_EVERY_S, due - clock.monotonic_s()))
    early = max(0.0, due - clock.monotonic_s())
    if early:
        why = f"{override} is there; remove it when the emergency is over"
        if waiting.wanted:
            why = "a person wants it now (`fairlead admission start-now`)"
        _LOG.warning("%s starts %.0f s early: %s", waiting.name, early, why)


async def _wait_for_turn(settings: AdmissionSettings, service: str) -> bool:
    """Return whether the turn came; False when the container was told to stop first."""
    loop, waiting = asyncio.get_running_loop(), asyncio.create_task(admit(settings, service, _boot(), meanwhile=on_bus))
    # as process 1 of a container, TERM would be ignored unless handled
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, waiting.cancel)
    await asyncio.wait([waiting])
    return not waiting.cancelled()


def _boot() -> str:
    return _BOOT_ID.read_text().strip() if _BOOT_ID.exists() else "unknown"


def main(arguments: list[str]) -> int:
    """Wait, then become the service; returns only when that is not to be."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    if not arguments or arguments[0] not in _SERVICES:
        _LOG.error("usage: python -m services.entrypoint %s [COMMAND...]", "|".join(_SERVICES))
        return 2
    service, *command = arguments
    command = command or [sys.executable, "-m", f"services.{service}"]
    try:
        settings = load(AdmissionSettings)
        attached = syslog.attach(settings.syslog, service, settings.node)
    except InvalidInput as error:
        _LOG.error("%s: %s", service, error.message)
        return 2
    admitted = asyncio.run(_wait_for_turn(settings, service))
    if attached is not None:
        attached.close()
    if not admitted:
        return 0
    try:
        os.execvp(command[0], command)  # noqa: S606 - an argument list, no shell
    except OSError as error:
        _LOG.error("%s: cannot be started: %s", command[0], error)
        return 127


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
