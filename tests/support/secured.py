"""A bus on which only holders of credentials speak: a hub with TLS and leaves, from configurations that `fairlead credentials` made."""

from __future__ import annotations

import contextlib
import io
import signal
import socket
import subprocess
import time
from pathlib import Path

from clients.cli.__main__ import main
from fairlead.bus_nats import NatsBus
from tests.support.etcd import free_port
from tests.support.nats import NATS_SERVER


class SecuredBus:
    """The folder of credentials and the servers that run from it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "credentials"
        self._ports = {"4222": free_port(), "7422": free_port()}
        self._leaves: dict[str, int] = {}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.command("init", "--hub", "127.0.0.1", "--place", "", "--hub-store", str(folder / "js"))

    def command(self, *words: str) -> int:
        """Run `fairlead credentials`; return its exit status."""
        with contextlib.redirect_stdout(io.StringIO()):
            return main(["credentials", words[0], "--dir", str(self.folder), *words[1:]])

    def start_hub(self) -> None:
        """Start the hub."""
        self._start("hub", self.folder / "hub" / "nats.conf", self._ports)

    def start_leaf(self, node: str) -> None:
        """Start a node's own server."""
        self._leaves[node] = free_port()
        ports = {"4222": self._leaves[node], "7422": self._ports["7422"]}
        self._start(node, self.folder / "nodes" / node / "nats.conf", ports)

    def reload_hub(self) -> None:
        """Have the hub read its configuration again."""
        _write(self.folder / "hub" / "nats.conf", self._ports)
        self._processes["hub"].send_signal(signal.SIGHUP)

    def restart_hub(self) -> None:
        """Stop the hub and start it."""
        self._processes["hub"].terminate()
        self._processes["hub"].wait()
        self.start_hub()

    def _start(self, name: str, config: Path, ports: dict[str, int]) -> None:
        log = self.folder / f"{name}.log"
        with log.open("wb") as file:
            command = [str(NATS_SERVER), "-c", str(_write(config, ports))]
            self._processes[name] = subprocess.Popen(command, stdout=file, stderr=file)
        deadline = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", ports["4222"]), timeout=1).close()
            except OSError:
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.02)
            else:
                return

    def at_hub(self, name: str) -> NatsBus:
        """Return the connection of a holder to the hub; an empty name is nobody."""
        seed = str(self.folder / f"{name}.nk") if name else ""
        url = f"nats://127.0.0.1:{self._ports['4222']}"
        return NatsBus(url, name=name, domain="hub", seed_file=seed, authority=str(self.folder / "authority.crt"))

    def at_node(self, node: str, who: str) -> NatsBus:
        """Return the connection of one of a node's services to the node's server; an empty name is nobody."""
        seed = str(self.folder / "nodes" / node / f"{node}.{who}.nk") if who else ""
        return NatsBus(f"nats://127.0.0.1:{self._leaves[node]}", name=f"{who}.{node}", domain="hub", seed_file=seed)

    def stop(self) -> None:
        """Kill the servers."""
        for process in self._processes.values():
            process.kill()
            process.wait()


def _write(config: Path, ports: dict[str, int]) -> Path:
    """Write the configuration with this test's ports beside the one that was made."""
    text = config.read_text().replace('http: "127.0.0.1:8222"', "")
    for port, free in ports.items():
        text = text.replace(f':{port}"', f':{free}"')
    made = config.with_suffix(".test")
    made.write_text(text)
    return made
