"""A docker engine of one's own: its network and mount namespace, its folders, its socket; nothing of the machine's is touched."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import signal
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from tests.docker import tools
from tests.support.archive import Unobtainable

BUSYBOX = "/bin/busybox"
IMAGE = "fairlead-test/busybox"
_APPLETS = ["sh", "nc", "wget", "httpd", "sleep", "ip", "ping", "nslookup", "cat", "echo", "timeout", "true"]
_START_S = 40.0


def why_not() -> str:
    """Return why there can be no engine here, or nothing."""
    if os.geteuid() != 0:
        return "not root"
    try:
        programs = tools.engine()
    except Unobtainable as error:
        return str(error)
    needed = (BUSYBOX, shutil.which("nft") or "nft", shutil.which("iptables") or "iptables")
    missing = programs.missing() + [path for path in needed if not Path(path).exists()]
    if missing:
        return f"{', '.join(missing)} missing: run scripts/setup.sh"
    return "" if programs.generation() else "; ".join(programs.generations().values())


_ALONE = "mount --make-rprivate / && mkdir -p /run/docker && mount -t tmpfs tmpfs /run/docker"
_LIKE_A_MACHINE = """set -e
mount --make-rprivate / && mount --make-rshared /
mkdir $0/run && mount -t tmpfs -o mode=755 tmpfs $0/run && mkdir $0/run/netns
[ ! -d /run/netns ] || mount --rbind /run/netns $0/run/netns
mount --rbind $0/run /run
mount -t bpf bpf /sys/fs/bpf"""
"""Folders with the names that they have on every machine, seen by nobody else; what is mounted later appears in containers."""


class Dockerd:
    """One engine in a network namespace, or in that of the thread that makes it.

    One that is `like_a_machine` has everything below /run and a bpffs of its own, at the usual places; its containers may be Fairlead's. `generation` is that of compose: the newest that is here, unless said.
    """

    def __init__(
        self,
        stack: ExitStack,
        *options: str,
        like_a_machine: bool = False,
        store: Path | None = None,
        netns: str = "",
        generation: str = "",
        programs: tools.Engine | None = None,
    ) -> None:
        # short, since a path of a unix socket has 107 characters
        self.folder = Path(tempfile.mkdtemp(prefix="fd", dir="/tmp"))
        stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
        self._store = store or self.folder
        self._options = [*options, *(["-H", "unix:///run/docker.sock"] if like_a_machine else [])]
        self._options += [] if like_a_machine else ["--exec-root", str(self.folder / "exec")]
        script = f"{_LIKE_A_MACHINE if like_a_machine else _ALONE}\necho && exec sleep 99999"
        self._place = subprocess.Popen(["unshare", "-m", "sh", "-c", script, str(self.folder)], stdout=subprocess.PIPE)
        stack.callback(self._leave)
        assert self._place.stdout
        assert self._place.stdout.readline() == b"\n", "no mount namespace for the engine"
        places = [f"--mount=/proc/{self._place.pid}/ns/mnt", *([f"--net={netns}"] if netns else [])]
        self.inside = ("nsenter", *places, f"--wd={Path.cwd()}", "--")
        self.socket = self.folder / "d.sock"
        self.programs = programs or tools.engine()
        self.generation = generation or self.programs.generation()
        self._add_compose()
        self._process: subprocess.Popen[bytes] | None = None
        stack.callback(self._clear)
        self._containerd = self._launch_containerd()
        stack.callback(self.stop)

    def _add_compose(self) -> None:
        """Have `docker compose`, for those who use this engine's environment; with the first generation there is none."""
        if not self.programs.generations()[tools.V2]:
            plugins = self.folder / "cli-plugins"
            plugins.mkdir()
            (plugins / "docker-compose").symlink_to(tools.compose_v2())

    def _launch_containerd(self) -> subprocess.Popen[bytes]:
        places = (
            "-a",
            str(self.folder / "c.sock"),
            "--root",
            str(self._store / "c"),
            "--state",
            str(self.folder / "s"),
        )
        return self._launch([str(self.programs.containerd), *places])

    def _launch(self, command: list[str]) -> subprocess.Popen[bytes]:
        with (self.folder / f"{Path(command[0]).name}.log").open("ab") as log:
            environ = {**os.environ, "PATH": self.programs.path}
            return subprocess.Popen(
                [*self.inside, *command], stdout=log, stderr=log, start_new_session=True, env=environ
            )

    def cut_power(self) -> None:
        """End everything at once: engine, containers, what lay below /run. The network and the rest of the kernel is the caller's."""
        self.kill()
        parents = {int(path.name): _parent(path) for path in Path("/proc").glob("[0-9]*")}
        gone = {pid for pid in parents if f"{self.folder}/".encode() in _command(pid) and pid != os.getpid()}
        while more := {pid for pid, parent in parents.items() if parent in gone} - gone:
            gone |= more
        for pid in gone:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._containerd.wait()
        script = f"umount -l /run/docker/netns/* || true; rm -rf /run/docker /run/fairlead /sys/fs/bpf/* {self.folder}/s {self.folder}/d.pid"
        subprocess.run([*self.inside, "sh", "-c", script], check=False, capture_output=True)

    def _clear(self) -> None:
        """End whatever is left of containers."""
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if f"{self.folder}/".encode() in (folder / "cmdline").read_bytes():
                    os.kill(int(folder.name), signal.SIGKILL)
        self._containerd.wait()

    def _leave(self) -> None:
        self._place.kill()
        self._place.wait()

    def start(self) -> Dockerd:
        """Start it, and return when it answers."""
        if self._containerd.poll() is not None:
            self._containerd = self._launch_containerd()
        command = [str(self.programs.dockerd), "-H", f"unix://{self.socket}", "--live-restore"]
        command += ["--data-root", str(self._store / "data")]
        command += ["--containerd", str(self.folder / "c.sock"), *self._options]
        self._process = self._launch([*command, "--pidfile", str(self.folder / "d.pid")])
        deadline = time.monotonic() + _START_S
        while subprocess.run(self._docker("version"), capture_output=True, check=False).returncode:
            assert self._process.poll() is None, self.tail()
            assert time.monotonic() < deadline, self.tail()
            time.sleep(0.1)
        return self

    def tail(self) -> str:
        return (self.folder / "dockerd.log").read_text()[-4000:]

    def _docker(self, *arguments: str) -> list[str]:
        return [str(self.programs.docker), "-H", f"unix://{self.socket}", *arguments]

    def run(self, *arguments: str, check: bool = True, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
        """Run a docker command."""
        done = subprocess.run(
            self._docker(*arguments),
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_s,
            env=self.environment,
        )
        assert not check or done.returncode == 0, f"docker {' '.join(arguments)}: {done.stderr}{done.stdout}"
        return done

    def begin(self, *arguments: str) -> subprocess.Popen[str]:
        """Begin a docker command."""
        return subprocess.Popen(
            self._docker(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=self.environment
        )

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "DOCKER_CONFIG": str(self.folder), "DOCKER_HOST": f"unix://{self.socket}"}

    def said(self, *arguments: str) -> str:
        """Run a docker command; return what it says."""
        return self.run(*arguments).stdout.strip()

    def import_busybox(self) -> None:
        """Have an image made from this machine's static busybox."""
        self.feed(busybox(), "import", "-", IMAGE)

    def feed(self, data: bytes, *arguments: str) -> None:
        """Run a docker command with this on its input."""
        done = subprocess.run(
            self._docker(*arguments), input=data, check=False, capture_output=True, env=self.environment
        )
        assert done.returncode == 0, f"docker {' '.join(arguments)}: {done.stderr.decode()}"

    def member(self, service: str, number: int = 1) -> str:
        """Return what compose calls a container of `PROJECT/SERVICE`."""
        return tools.member(self.generation, service, number)

    def compose(
        self, folder: Path, *arguments: str, environ: Mapping[str, str] | None = None, timeout_s: float = 300
    ) -> str:
        """Run the engine's generation of compose in a folder; return what it says."""
        command = [str(tools.COMPOSE)] if self.generation == tools.V1 else [str(self.programs.docker), "compose"]
        done = subprocess.run(
            [*command, *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_s,
            env={**self.environment, **(environ or {})},
            cwd=folder,
        )
        told = f"{self.generation} {' '.join(arguments)}: {done.stderr[-3000:]}{done.stdout[-2000:]}"
        assert done.returncode == 0, told
        return done.stdout

    def kill(self) -> None:
        """SIGKILL the engine, as a crash would; its containers go on."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """End the engine with all its containers and helpers."""
        if self._process is None:
            return
        names = self.run("ps", "-aq", check=False).stdout.split()
        if names:
            self.run("rm", "-f", *names, check=False, timeout_s=120)
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._process = None


def busybox() -> bytes:
    """Return the tree of an image made from this machine's static busybox, as a tar file."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        tar.add(BUSYBOX, "bin/busybox")
        for name in _APPLETS:
            link = tarfile.TarInfo(f"bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
        for folder in ("etc", "tmp", "proc", "sys", "dev", "www"):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
    return data.getvalue()


def _parent(process: Path) -> int:
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
