"""Entrypoints that wait for their turn, as processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from fairlead.bus_nats import NatsBus
from fairlead.schema.admission import START_NOW, StartNow, WaitingStart

_SAY = "print('started')"


class Start:
    """One entrypoint that waits its turn in a large fleet."""

    def __init__(self, folder: Path, url: str, service: str = "ipam", **options: str) -> None:
        environment = {"FAIRLEAD_NODE": "n1", "FAIRLEAD_STATE_DIR": str(folder), "FAIRLEAD_FLEET_SIZE": "100000"}
        environment |= {"FAIRLEAD_NATS": url} | options
        self.process = subprocess.Popen(
            [sys.executable, "-m", "services.entrypoint", service, sys.executable, "-c", _SAY],
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def end(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.communicate()

    def ended(self) -> tuple[int, str, str]:
        """Return exit status and output, once it has ended."""
        out, error = self.process.communicate(timeout=20)
        return self.process.returncode, out, error


async def heard(bus: NatsBus, ask: StartNow, count: int) -> list[WaitingStart]:
    """Ask until that many starts have answered."""
    found: list[WaitingStart] = []
    for _ in range(50):
        found = await bus.gather(START_NOW, ask, wait_s=0.3)
        if len(found) >= count:
            break
    return found
