"""A machine whose first process is systemd: a container with Debian's systemd and Docker Engine, and the plugin's unit as a person installs it."""

from __future__ import annotations

import subprocess
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path

from tests.docker.dockerd import IMAGE, busybox
from tests.docker.host import NODE, Host
from tests.docker.images import PLUGIN, ROOT, SYSTEMD
from tests.docker.machine import until

UNIT = "fairlead-docker.service"
_PLACES = {
    "config": "/etc/fairlead",
    "state": "/var/lib/fairlead",
    "engine": "/var/lib/docker",
    "plugin": "/usr/lib/fairlead/docker",
}
"""What of the machine's own is kept outside of its image."""
_POWERS = ("SYS_ADMIN", "NET_ADMIN", "SYS_PTRACE", "SYS_BOOT", "SYS_NICE", "DAC_READ_SEARCH")
_UNCONFINED = ("seccomp", "apparmor", "systempaths")


def _end_group(name: str) -> None:
    """Remove the group of processes that systemd has divided as it likes."""
    said = subprocess.run(["findmnt", "-rno", "TARGET", "-t", "cgroup2"], capture_output=True, text=True, check=True)
    top = Path(said.stdout.splitlines()[0]) / name
    for folder in sorted((path for path in top.rglob("*") if path.is_dir()), reverse=True):
        folder.rmdir()
    with suppress(FileNotFoundError):
        top.rmdir()


class Booted:
    """It stands in the network of a host whose services run beside it, with an engine of its own inside."""

    def __init__(self, stack: ExitStack, host: Host, images: Path) -> None:
        self._outer, self._group = host.engine, f"{host.name}s"
        self._outer.run("load", "-i", str(images), timeout_s=300)
        folder = Path(tempfile.mkdtemp(prefix="booted-", dir=self._outer.folder))
        for place in _PLACES:
            (folder / place).mkdir()
        options = {"node": NODE, "nats": host.leaf.url, "docker-resync-s": "2", "docker-orphan-s": "3"}
        for option, value in options.items():
            (folder / "config" / option).write_text(f"{value}\n")
        self._install(folder / "plugin")
        stack.callback(_end_group, self._group)
        stack.callback(self._outer.run, "rm", "-f", "-v", "booted", check=False)
        self._create(folder)
        self.boot()
        self._outer.feed(busybox(), "exec", "-i", "booted", "docker", "import", "-", IMAGE)

    def _install(self, tree: Path) -> None:
        """Unpack the plugin's image, as the unit's file says."""
        container = self._outer.said("create", PLUGIN)
        file = tree.with_suffix(".tar")
        self._outer.run("export", "-o", str(file), container, timeout_s=120)
        self._outer.run("rm", container)
        subprocess.run(["tar", "-xf", str(file), "-C", str(tree)], check=True)
        file.unlink()

    def _create(self, folder: Path) -> None:
        given = [word for name, path in _PLACES.items() for word in ("-v", f"{folder / name}:{path}")]
        given += [word for name in _POWERS for word in ("--cap-add", name)]
        given += [word for name in _UNCONFINED for word in ("--security-opt", f"{name}=unconfined")]
        given += ["--device-cgroup-rule", "a *:* rwm", "--network", "host", "--cgroupns", "private"]
        given += ["--tmpfs", "/run", "--tmpfs", "/run/lock", "-e", f"CGROUP={self._group}"]
        self._outer.run("create", "--name", "booted", *given, SYSTEMD)
        self._outer.run("cp", str(ROOT / "deploy" / UNIT), f"booted:/etc/systemd/system/{UNIT}")

    def boot(self) -> None:
        """Have systemd begin, and return when it has started all that it should."""
        self._outer.run("start", "booted")
        until(
            lambda: self.run("systemctl", "is-system-running").stdout.strip() in ("running", "degraded"),
            90,
            what="the boot",
            tell=self.tell,
        )

    def shut_down(self) -> None:
        """Have systemd end everything."""
        self._outer.run("stop", "-t", "60", "booted", timeout_s=90)

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command on it."""
        return self._outer.run("exec", "booted", *command, check=False)

    def said(self, *command: str) -> str:
        """Run a command that must succeed on it; return what it says."""
        done = self.run(*command)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}{done.stdout}{self.tell()}"
        return done.stdout.strip()

    def show(self, unit: str, name: str) -> str:
        """Return a property that systemd shows of a unit."""
        return self.said("systemctl", "show", "--value", "-p", name, unit)

    def tell(self) -> str:
        """Return what is worth knowing when something fails."""
        return "".join(
            self.run(*command).stdout[-4000:]
            for command in (
                ("systemctl", "--failed", "--no-pager"),
                ("journalctl", "-n", "60", "--no-pager", "-u", UNIT, "-u", "docker"),
            )
        )
