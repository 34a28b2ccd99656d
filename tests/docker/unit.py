"""Runs deploy/fairlead-docker.service as far as it matters without systemd: its root, binds, environment, capabilities, command."""

from __future__ import annotations

import subprocess
from collections import defaultdict
from pathlib import Path

from tests.docker.composed import Composed
from tests.docker.images import ROOT
from tests.docker.machine import until

_UNIT = ROOT / "deploy/fairlead-docker.service"


def _settings() -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for line in _UNIT.read_text().splitlines():
        if not line.startswith(("#", "[")) and "=" in line:
            key, _, value = line.partition("=")
            found[key] += value.split()
    return found


class PluginUnit:
    """The plugin from its image's tree, beside one machine's engine."""

    def __init__(self, machine: Composed) -> None:
        self._machine = machine
        self._tree = machine.folder / "plugin"
        self._process: subprocess.Popen[bytes] | None = None

    def install(self) -> None:
        """Unpack the image, as the unit's file says."""
        self._tree.mkdir()
        engine = self._machine.engine
        container = engine.said("create", "fairlead/docker:0.1.0")
        file = self._machine.folder / "plugin.tar"
        engine.run("export", "-o", str(file), container, timeout_s=120)
        engine.run("rm", container)
        subprocess.run(["tar", "-xf", str(file), "-C", str(self._tree)], check=True)
        file.unlink()

    def start(self) -> None:
        """Start it in the mount and network namespace of the machine; return when it is there."""
        unit = _settings()
        places = {"/var/lib/fairlead": self._machine.folder / "state", "/etc/fairlead": self._machine.folder / "config"}
        binds = [(str(places.get(path, path)), path) for path in unit["BindPaths"] + unit["BindReadOnlyPaths"]]
        lines = [
            "set -e",
            *(f"mkdir -p {self._tree}{to}; mount --rbind {source} {self._tree}{to}" for source, to in binds),
        ]
        lines += [f"mount -t proc proc {self._tree}/proc", f"mount --rbind /dev {self._tree}/dev"]
        allowed = ",".join(
            ["-all", *("+" + name.removeprefix("CAP_").lower() for name in unit["CapabilityBoundingSet"])]
        )
        command = [
            "env",
            "-i",
            *unit["Environment"],
            "setpriv",
            "--no-new-privs",
            "--bounding-set",
            allowed,
            *unit["ExecStart"],
        ]
        lines.append(f"exec chroot {self._tree} {' '.join(command)}")
        with self.log.open("ab") as log:
            inside = [
                *self._machine.engine.inside,
                "unshare",
                "-m",
                "--propagation",
                "slave",
                "sh",
                "-c",
                "\n".join(lines),
            ]
            self._process = process = subprocess.Popen(inside, stdout=log, stderr=log)
        machine = self._machine
        until(lambda: machine.health("docker").get("pid") == process.pid, what="the plugin", tell=self.log.read_text)

    @property
    def log(self) -> Path:
        """Return where it logs."""
        return self._machine.folder / "plugin.log"

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
