"""Real nats-servers on loopback, as one test needs them."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from tests.support.etcd import free_port

NATS_SERVER = Path(sys.executable).parent / "nats-server"


class NatsServer:
    """One hub with JetStream, or one leaf of a hub."""

    def __init__(self, folder: Path, name: str = "hub", hub: NatsServer | None = None) -> None:
        self.name = name
        self.port = free_port()
        self.leaf_port: int = hub.leaf_port if hub else free_port()
        self._config = folder / f"{name}.conf"
        self._log = folder / f"{name}.log"
        self._config.write_text(self._hub_config(folder) if hub is None else self._leaf_config())
        self._process: subprocess.Popen[bytes] | None = None

    def _hub_config(self, folder: Path) -> str:
        return (
            f'listen: "0.0.0.0:{self.port}"\nserver_name: {self.name}\nmax_payload: 8MB\n'
            f'jetstream {{ domain: hub, store_dir: "{folder}/js" }}\nleafnodes {{ listen: "127.0.0.1:{self.leaf_port}" }}\n'
        )

    def _leaf_config(self) -> str:
        return (
            f'listen: "127.0.0.1:{self.port}"\nserver_name: {self.name}\nmax_payload: 8MB\n'
            f'leafnodes {{ reconnect: 1, remotes: [{{ url: "nats://127.0.0.1:{self.leaf_port}" }}] }}\n'
        )

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def start(self) -> NatsServer:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen([str(NATS_SERVER), "-c", str(self._config)], stdout=log, stderr=log)
        deadline = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                assert time.monotonic() < deadline, self._log.read_text()
                time.sleep(0.02)
            else:
                return self

    def freeze(self) -> None:
        """Let it hear and say nothing any more, as a machine that hangs; only `kill` ends that."""
        assert self._process
        self._process.send_signal(signal.SIGSTOP)

    def kill(self) -> None:
        """SIGKILL; the data stays."""
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None
