"""Lab network namespaces `fl-<workload>`, made and removed with iproute2 on the machine where the command runs."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from fairlead.errors import FairleadError, InvalidInput

PREFIX = "fl-"
_FOLDER = Path("/run/netns")
_USABLE = re.compile(r"^[a-z0-9]([a-z0-9._-]{0,60}[a-z0-9])?$")


class NamespaceError(FairleadError):
    """The namespace could not be made or removed; the message says what the kernel or iproute2 said."""

    code = "namespace"


def usable(workload: str) -> bool:
    """Tell whether the workload's name can name a namespace."""
    return bool(_USABLE.match(workload))


def path(workload: str) -> Path:
    """Return where the namespace of a workload is. Raises InvalidInput for a name that makes no file name."""
    if not usable(workload):
        raise InvalidInput(f"{workload!r} makes no namespace name (a-z, 0-9, . _ -): rename it, or give --netns")
    return _FOLDER / f"{PREFIX}{workload}"


def make(workload: str) -> bool:
    """Make the namespace with its loopback up; False when it was there already. Raises NamespaceError."""
    target = path(workload)
    if target.exists():
        return False
    _run("ip", "netns", "add", target.name)
    # nsenter and not `ip netns exec`, which remounts /sys and hides bpffs
    _run("nsenter", f"--net={target}", "ip", "link", "set", "lo", "up")
    return True


def remove(workload: str) -> bool:
    """Remove the namespace if it is there; whether it was."""
    target = path(workload)
    if not target.exists():
        return False
    _run("ip", "netns", "delete", target.name)
    return True


def _run(*command: str) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=30)
    except FileNotFoundError as error:
        raise NamespaceError(
            f"{command[0]} is not installed: install iproute2 and util-linux, or give --netns"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise NamespaceError(f"`{' '.join(command)}` did not end within 30 s") from error
    except subprocess.CalledProcessError as error:
        said = error.stderr.strip() or f"exit status {error.returncode}"
        raise NamespaceError(f"`{' '.join(command)}`: {said} (needs root, or give --netns)") from error
