"""Connections between the two pods of a rig while something happens to the datapath: what became of them is counted."""

from __future__ import annotations

import socket
import threading
import time

from services.datapath.reports import Event, EventKind
from tests.kernel.rig import Rig, pod_address

PORT, FORBIDDEN = 8080, 9090
FRESH = {4: 8084, 6: 8086}
"""Of connections that stand before, of those that begin all the time, and of those that must not be."""
IDLE = 20


class Traffic:
    """Idle connections, connections that talk, new ones, and ones that must not be."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.pairs = [self.connect(family) for family in (4, 6) for _ in range(IDLE)]
        self.failures: list[str] = []
        self.spoken = self.passed = self.opened = 0
        self._listeners = {family: rig.listen("2", FORBIDDEN + family, family) for family in (4, 6)}
        self._stop = threading.Event()
        busy = [self.connect(family) for family in (4, 6)]
        self._threads = [threading.Thread(target=self._talk, args=pair) for pair in busy]
        self._threads += [threading.Thread(target=self._open, args=(family,)) for family in (4, 6)]
        self._threads += [threading.Thread(target=self._knock, args=(family,)) for family in (4, 6)]
        for thread in self._threads:
            thread.start()

    def connect(self, family: int) -> tuple[socket.socket, socket.socket]:
        with self.rig.listen("2", PORT, family) as server:
            client = self.rig.socket_in("1", family=family)
            client.connect((pod_address(2, family), PORT))
            accepted, _ = server.accept()
        accepted.settimeout(3)
        return client, accepted

    def _talk(self, client: socket.socket, server: socket.socket) -> None:
        while not self._stop.is_set():
            try:
                server.sendall(b"x" * 64)  # the server speaks first: only the flow lets it
                client.recv(64)
                client.sendall(b"y")
                server.recv(1)
            except OSError as error:
                self.failures.append(str(error))
                return
            self.spoken += 1
            time.sleep(0.001)

    def _open(self, family: int) -> None:
        """Open connections all the time; in each the server speaks when a while has passed."""
        with self.rig.listen("2", FRESH[family], family) as listener:
            while not self._stop.is_set():
                with self.rig.socket_in("1", family=family) as client:
                    client.connect((pod_address(2, family), FRESH[family]))
                    server, _ = listener.accept()
                    with server:
                        time.sleep(0.02)
                        server.sendall(b"welcome")
                        if client.recv(64) != b"welcome":
                            self.failures.append("a new connection broke")
                        self.opened += 1

    def drops(self, *ports: int) -> list[Event]:
        """Return the reports since the last call of packets that were dropped and belonged to connections that may be."""
        dropped = [event for event in self.rig.take_events() if event.kind is EventKind.DROP]
        return [event for event in dropped if {event.sport, event.dport} & {*(ports or (PORT, *FRESH.values()))}]

    def _knock(self, family: int) -> None:
        while not self._stop.is_set():
            self.passed += self.rig.connects("1", pod_address(2, family), FORBIDDEN + family, wait_s=0.02)

    def idle_ones_answer(self) -> None:
        for client, server in self.pairs:
            server.sendall(b"still there?")
            client.settimeout(1)
            assert client.recv(64) == b"still there?"

    def end(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        for one in (*self._listeners.values(), *(end for pair in self.pairs for end in pair)):
            one.close()
