"""A published UDP port, for what begins on this node itself: datagrams of each client travel by a socket of their own, so answers find back."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import OrderedDict
from typing import Any

IDLE_S = 90.0
"""How long a client that says nothing, and hears nothing, is remembered."""
MAX_CLIENTS = 1024
_MAX_BYTES = 65_535
_LOOK_EVERY_S = 10.0
Client = tuple[Any, ...]
"""A socket's address: host and port, for IPv6 flow label and scope too."""


class DatagramRelay:
    """Serves one socket of the host. It serves nobody but this node, as the relay of connections does."""

    def __init__(self, listening: socket.socket, target: str, port: int) -> None:
        self._listening, self._target = listening, (target, port)
        self._loop = asyncio.get_running_loop()
        self._family = socket.AF_INET6 if ":" in target else socket.AF_INET
        self._ways: OrderedDict[Client, tuple[socket.socket, float]] = OrderedDict()
        """By client, the one that was heard of last at the end: its way to the container, and when that was (the loop's clock)."""
        self._loop.add_reader(listening, self._hear)
        self._looking = self._loop.call_later(_LOOK_EVERY_S, self._look)

    def close(self) -> None:
        """Let others have the port; a second time does nothing."""
        if self._listening.fileno() < 0:
            return
        self._looking.cancel()
        self._loop.remove_reader(self._listening)
        self._listening.close()
        for client in list(self._ways):
            self._forget(client)

    def _hear(self) -> None:
        with contextlib.suppress(OSError):
            data, client = self._listening.recvfrom(_MAX_BYTES)
            if client in self._ways or is_local(client):
                self._way(client).send(data)

    def _way(self, client: Client) -> socket.socket:
        """Return the client's way, made at its first datagram. Raises OSError when the container is not reachable."""
        way = self._ways[client][0] if client in self._ways else self._make(client)
        self._ways[client] = way, self._loop.time()
        self._ways.move_to_end(client)
        return way

    def _make(self, client: Client) -> socket.socket:
        if len(self._ways) >= MAX_CLIENTS:
            self._forget(next(iter(self._ways)))
        way = socket.socket(self._family, socket.SOCK_DGRAM)
        way.setblocking(False)
        try:
            way.connect(self._target)
        except OSError:
            way.close()
            raise
        self._loop.add_reader(way, self._answer, way, client)
        return way

    def _answer(self, way: socket.socket, client: Client) -> None:
        with contextlib.suppress(OSError):  # an error of the container's is the client's silence
            data = way.recv(_MAX_BYTES)
            self._way(client)
            self._listening.sendto(data, client)

    def _look(self) -> None:
        """Forget who has been silent for long."""
        oldest = self._loop.time() - IDLE_S
        for client, (_, heard) in list(self._ways.items()):
            if heard > oldest:
                break
            self._forget(client)
        self._looking = self._loop.call_later(_LOOK_EVERY_S, self._look)

    def _forget(self, client: Client) -> None:
        way, _ = self._ways.pop(client)
        self._loop.remove_reader(way)
        way.close()


def is_local(client: Client) -> bool:
    """Tell whether an address is this node's own: nobody else's can be bound to."""
    with socket.socket(socket.AF_INET6 if ":" in client[0] else socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((client[0], 0, *client[2:]))
        except OSError:
            return False
    return True
