"""Takes Fairlead's part of the kernel off this machine: devices, filters, routes, pins. Every endpoint loses its network.

Stopping or removing the service does not do this, since what runs must go on. With the service running it would come back at once.

    docker-compose run --rm --entrypoint "python -m services.datapath.remove" datapath
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path

from fairlead.app import is_serving
from fairlead.clock import SYSTEM
from fairlead.config import load
from fairlead.errors import InvalidInput
from services.datapath import host
from services.datapath.settings import DatapathSettings


def refusal(settings: DatapathSettings, now: datetime) -> str:
    """Return why it may not be done now, or nothing."""
    if is_serving(Path(settings.state_dir) / "datapath" / "health.json", now.astimezone(UTC)):
        return "the datapath service runs here and would make everything anew: stop it first, and wait ten seconds"
    return ""


def main() -> int:
    """Remove everything; return the exit status."""
    from services.datapath.kernel.linux import LinuxKernel  # noqa: PLC0415 - bcc is needed on nodes only

    try:
        settings = load(DatapathSettings)
    except InvalidInput as error:
        reason = error.message
    else:
        reason = refusal(settings, SYSTEM.now())
    if reason:
        print(f"datapath: {reason}", file=sys.stderr)  # noqa: T201 - a command's answer
        return 2
    LinuxKernel(Path(settings.pin_directory), settings.uplinks or host.uplinks()).destroy()
    return 0


if __name__ == "__main__":
    sys.exit(main())
