"""One service process: starts in any order, waits for what it lacks, says how it is, ends cleanly.

Health is local: the question is whether this process serves, never whether the world is there. It is answered on the bus (every
process for itself), in `<state_dir>/<service>/health.json` once a second, and by `python -m fairlead.app FILE`, which container
health checks run.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import NoReturn, TypeVar

from fairlead import __version__, codec, syslog, telemetry
from fairlead.bus import Route, route
from fairlead.bus_nats import NatsBus
from fairlead.clock import SYSTEM, Clock
from fairlead.config import CommonSettings, load
from fairlead.credential import credential, store_credential
from fairlead.errors import InvalidInput
from fairlead.kv import Kv
from fairlead.schema.base import Empty
from fairlead.schema.health import HEALTH, Condition, Health
from fairlead.tasks import stop

S = TypeVar("S", bound=CommonSettings)

_BACKOFF_MAX_S = 5.0
_WELL_AFTER_S = 10.0
_HEALTH_EVERY_S = 1.0
_HEALTH_OLD_S = 10.0
_STOP_S = 3.0


class App:
    """What every service needs: bus, store, clock, background work, health."""

    def __init__(self, service: str, settings: CommonSettings, *, clock: Clock = SYSTEM) -> None:
        self.service = service
        self.settings = settings
        self.clock = clock
        self.log = logging.getLogger(service)
        self.since = clock.now()
        self.state_dir = Path(settings.state_dir) / service
        """Where the service keeps what must survive a restart."""
        self.bus = NatsBus(
            settings.nats,
            name=f"{service}.{settings.node}",
            domain=settings.nats_domain,
            **credential(settings, service)._asdict(),
        )
        self._kv: Kv | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._conditions: dict[str, Condition] = {}
        self._stopping = asyncio.Event()

    @property
    def kv(self) -> Kv:
        """Return the store, made on first use; it connects by itself."""
        if self._kv is None:
            from fairlead.etcd_link import Tls  # noqa: PLC0415 - node services never pay for gRPC
            from fairlead.kv_etcd import EtcdKv  # noqa: PLC0415

            files = store_credential(self.settings, self.service)
            tls = Tls(*(Path(file) if file else None for file in files)) if any(files) else None
            self._kv = EtcdKv(self.settings.etcd, timeout_s=self.settings.etcd_timeout_s, tls=tls)
        return self._kv

    async def __aenter__(self) -> App:
        logging.basicConfig(
            level=self.settings.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr
        )
        self._syslog = syslog.attach(self.settings.syslog, self.service, self.settings.node)
        self._provider = telemetry.setup(self.service, self.settings.node)
        self.state_dir.mkdir(parents=True, exist_ok=True)
        self.bus.start()
        self.spawn("health", self._serve_health)
        self.spawn("health-file", self._write_health)
        self.log.info("%s %s starts for %s", self.service, __version__, self.settings.node)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.log.info("%s stops", self.service)
        await stop(*self._tasks)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_STOP_S):
                await self.bus.close()
        if self._kv is not None:
            await self._kv.close()
        await asyncio.to_thread(self._provider.shutdown)
        if self._syslog is not None:
            logging.getLogger().removeHandler(self._syslog)
            await asyncio.to_thread(self._syslog.close)

    def spawn(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        """Run `work` in the background for ever: again after it fails, with a pause that grows to five seconds."""
        task = asyncio.create_task(self._keep(name, work), name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _keep(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        pause_s = 0.1
        while True:
            recovery = asyncio.create_task(self._recover(name), name=f"{name}-recovery")
            try:
                await work()
            except Exception as error:
                self.log.exception("%s failed, again in %.1f s", name, pause_s)
                self.condition(f"task {name}", ok=False, detail=repr(error))
            else:
                self.condition(f"task {name}", ok=True)
                return
            finally:
                recovery.cancel()
            await self.clock.sleep(pause_s)
            pause_s = min(pause_s * 2, _BACKOFF_MAX_S)

    async def _recover(self, name: str) -> None:
        """Call background work well again once it has run for a while since it last failed."""
        await self.clock.sleep(_WELL_AFTER_S)
        if f"task {name}" in self._conditions:
            self.condition(f"task {name}", ok=True)

    def condition(self, name: str, ok: bool, detail: str = "") -> None:
        """State one aspect of this service's health; a change is logged."""
        new = Condition(name=name, ok=ok, detail=detail)
        old = self._conditions.get(name)
        self._conditions[name] = new
        if old is None and ok:
            return
        if old is None or (old.ok, old.detail) != (ok, detail):
            self.log.log(logging.INFO if ok else logging.WARNING, "%s: %s %s", name, "ok" if ok else "degraded", detail)

    async def serve(self, routes: Sequence[Route], *, shared: bool = True) -> None:
        """Answer these topics; waits in the background until the bus is there."""

        async def begin() -> None:
            await self.bus.serve(self.service, routes, shared=shared)

        self.spawn(f"serve-{len(self._tasks)}", begin)

    async def run(self) -> None:
        """Block until SIGTERM or SIGINT."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        await self._stopping.wait()

    def health(self) -> Health:
        """Return how this process is now."""
        bus = Condition(name="bus", ok=self.bus.connected, detail="" if self.bus.connected else "not connected")
        return Health(
            service=self.service,
            node=self.settings.node,
            version=__version__,
            since=self.since,
            pid=os.getpid(),
            rss_bytes=resident_bytes(),
            conditions=(bus, *self._conditions.values()),
        )

    async def _serve_health(self) -> None:
        async def show(_ask: Empty) -> Health:
            return self.health()

        await self.bus.serve(self.service, [route(HEALTH, show)], shared=False)

    async def _write_health(self) -> None:
        path = self.state_dir / "health.json"
        while True:
            partial = path.with_suffix(".tmp")
            partial.write_bytes(
                codec.encode_json({"at": self.clock.now().isoformat(), **codec.to_builtins(self.health())})
            )
            partial.replace(path)
            await self.clock.sleep(_HEALTH_EVERY_S)


def launch(service: str, kind: type[S], serve: Callable[[S], Coroutine[object, object, None]]) -> NoReturn:
    """Read the options and run `serve` to its end; exit with 2, and one line that says why, for options that cannot be."""
    try:
        asyncio.run(serve(load(kind)))
    except InvalidInput as error:
        print(f"{service}: {error.message}", file=sys.stderr)  # noqa: T201 - there is no log yet
        sys.exit(2)
    sys.exit(0)


def resident_bytes() -> int:
    """Return the resident memory of this process in bytes (proc(5), statm)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def is_serving(path: Path, now: datetime) -> bool:
    """Tell whether the process that writes this health file is alive: the file is younger than ten seconds."""
    try:
        at = datetime.fromisoformat(json.loads(path.read_text())["at"])
    except (OSError, ValueError, KeyError):
        return False
    return (now - at).total_seconds() < _HEALTH_OLD_S


if __name__ == "__main__":
    sys.exit(0 if is_serving(Path(sys.argv[1]), SYSTEM.now()) else 1)
