"""A real etcd on loopback, in a temporary folder, that a test may kill and start again."""

from __future__ import annotations

import contextlib
import http.client
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

START_S = 20.0


def free_port() -> int:
    """Return a TCP port of loopback that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class EtcdServer:
    """One etcd process with a data folder that outlives it."""

    def __init__(self, directory: Path, credentials: Path | None = None) -> None:
        self.directory = directory
        self.credentials = credentials
        """The folder that `fairlead credentials` made: then it asks its clients who they are."""
        self.client_port = free_port()
        self._peer_port = free_port()
        self._health_port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Return what clients connect to."""
        return f"{'https' if self.credentials else 'http'}://127.0.0.1:{self.client_port}"

    def start(self) -> None:
        """Start the process, and return when it answers."""
        peer = f"http://127.0.0.1:{self._peer_port}"
        command = ["etcd", "--name=t", f"--data-dir={self.directory}", f"--initial-cluster=t={peer}"]
        command += [f"--listen-client-urls={self.url}", f"--advertise-client-urls={self.url}"]
        command += [f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}", "--logger=zap"]
        command += [f"--listen-metrics-urls=http://127.0.0.1:{self._health_port}"]
        if self.credentials:
            files = {"cert-file": "etcd.crt", "key-file": "etcd.key", "trusted-ca-file": "authority.crt"}
            command += [f"--{option}={self.credentials / 'etcd' / file}" for option, file in files.items()]
            command += ["--client-cert-auth", "--enable-grpc-gateway=false"]
        log = self.directory.with_suffix(".log").open("ab")
        self._process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + START_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"etcd did not start: {self.directory.with_suffix('.log').read_text()[-2000:]}")
            time.sleep(0.05)

    def _answers(self) -> bool:
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection("127.0.0.1", self._health_port, timeout=1)
            connection.request("GET", "/health")
            return b"true" in connection.getresponse().read()
        return False

    def kill(self) -> None:
        """End the process as a crash would; its data stays."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """Stop the process in mid-flight: connections stand, nobody answers."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen process go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def wipe(self) -> None:
        """Lose all data of a stopped server."""
        shutil.rmtree(self.directory)

    def ctl(self, *arguments: str) -> str:
        """Run etcdctl as an operator would, and return what it prints."""
        command = ["etcdctl", f"--endpoints={self.url}", *arguments]
        if self.credentials:
            root = self.credentials / "etcd-root"
            command += [f"--cacert={self.credentials / 'authority.crt'}", f"--cert={root}.crt", f"--key={root}.key"]
        return subprocess.run(command, env={"ETCDCTL_API": "3", "PATH": "/usr/bin:/bin"}, check=True, capture_output=True, text=True).stdout  # fmt: skip


@contextlib.contextmanager
def running_etcd() -> Iterator[EtcdServer]:
    """Run a server with an empty store; nothing is left behind."""
    with tempfile.TemporaryDirectory(prefix="fairlead-etcd-") as folder:
        server = EtcdServer(Path(folder) / "data")
        try:
            server.start()
            yield server
        finally:
            server.kill()


@pytest.fixture
def etcd() -> Iterator[EtcdServer]:
    """A server of the test's own; it may be killed."""
    with running_etcd() as server:
        yield server


@pytest.fixture(scope="module")
def shared_etcd() -> Iterator[EtcdServer]:
    """One server for a whole module; its tests use prefixes of their own and leave it alive."""
    with running_etcd() as server:
        yield server
