"""A router on a machine's network: a real BIRD that listens to what the machine announces."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_CONFIG = """
router id 192.0.2.2;
protocol device {}
protocol bgp n1 {
  local 192.0.2.2 as 65101;
  neighbor 192.0.2.1 as 65001;
  graceful restart on;
  ipv4 { import all; export none; };
  ipv6 { import all; export none; };
}
"""


class Router:
    """Speaks BGP as 192.0.2.2, autonomous system 65101, with 192.0.2.1."""

    def __init__(self, folder: Path) -> None:
        self._socket = folder / "bird.ctl"

    def routes(self) -> dict[str, str]:
        """Return the machine's prefixes, and how BIRD writes that it learned them."""
        done = subprocess.run(
            ["birdc", "-s", str(self._socket), "show", "route"], capture_output=True, text=True, check=False
        )
        lines = [line.split() for line in done.stdout.splitlines() if "[n1 " in line]
        return {line[0]: " ".join(line[1:]) for line in lines}


@contextmanager
def router(netns: str) -> Iterator[Router]:
    """Run the router in that network namespace; nothing of it is left."""
    folder = Path(tempfile.mkdtemp(prefix="fairlead-router-"))
    (folder / "bird.conf").write_text(_CONFIG)
    files = ("-c", "bird.conf", "-s", "bird.ctl", "-P", "bird.pid")
    process = subprocess.Popen(["nsenter", f"--net={netns}", "bird", "-f", *files], cwd=folder)
    try:
        yield Router(folder)
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(folder)
