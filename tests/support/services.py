"""Live services as processes, for tests that need the real thing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

START_S = 20.0


class ServiceProcess:
    """One `python -m services.X` with its own state folder; `netns` is the path of a network namespace to run in.

    `package` is where its code is, `inside` a command that runs it somewhere else.
    """

    def __init__(
        self,
        service: str,
        node: str,
        folder: Path,
        options: Mapping[str, str],
        *,
        netns: str = "",
        package: str = "services",
        inside: Sequence[str] = (),
    ) -> None:
        self._module = f"{package}.{service}"
        self.service = service
        self.state_dir = folder / node
        self.log = folder / f"{service}-{node}.log"
        settings = {"NODE": node, "STATE_DIR": str(self.state_dir), **options}
        self._inside = [*inside, *(["nsenter", f"--net={netns}", "--"] if netns else [])]
        self._env = {**os.environ, **{f"FAIRLEAD_{name}": value for name, value in settings.items()}}
        self._process: subprocess.Popen[bytes] | None = None

    def launch(self) -> ServiceProcess:
        """Start it, and return at once."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._inside, sys.executable, "-m", self._module], env=self._env, stdout=log, stderr=log
            )
        return self

    def start(self) -> ServiceProcess:
        """Start it, and return when its health file is there."""
        self.launch()
        deadline = time.monotonic() + START_S
        while not self.health():
            assert self.alive, f"{self.service} ended:\n{self.log.read_text()[-3000:]}"
            assert time.monotonic() < deadline, f"{self.service} never became healthy:\n{self.log.read_text()[-3000:]}"
            time.sleep(0.05)
        return self

    def again(self, **options: str) -> ServiceProcess:
        """End it, and start it with other options."""
        self.terminate()
        self._env.update({f"FAIRLEAD_{name}": value for name, value in options.items()})
        return self.start()

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def health(self) -> dict[str, object]:
        """Return what the process last wrote about itself; empty when nothing (or another process) did."""
        try:
            value: dict[str, object] = json.loads((self.state_dir / self.service / "health.json").read_text())
        except (OSError, ValueError):
            return {}
        return value if self._process and value.get("pid") == self._process.pid else {}

    @property
    def pid(self) -> int:
        assert self._process
        return self._process.pid

    def kill(self) -> None:
        """SIGKILL; the state folder stays."""
        if self._process:
            self._process.kill()
            self._process.wait()

    def terminate(self) -> int:
        """SIGTERM; return the exit status."""
        assert self._process
        self._process.terminate()
        return self._process.wait(15)
