"""A program that sends through a node's datapath all the time, and counts what should have passed and did not, and the reverse.

python traffic.py CLIENT SERVER STRANGER SERVER4 SERVER6    three paths of namespaces, the server's addresses; until SIGTERM, then JSON

One thread, one loop: per family a TCP stream and numbered datagrams that run from the first moment on, new connections and new datagram
flows that are allowed, and the same from the stranger, whom the server's policy does not let in.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import select
import signal
import socket
import struct
import sys
import time
from dataclasses import asdict, dataclass, field

STREAM, NEW, DATAGRAMS = 7001, 7002, 7003
_TICK_S, _NEW_EVERY = 0.002, 3
_LATE_S, _GIVE_UP_S, _STRANGER_WAITS_S, _DRAIN_S = 0.9, 3.5, 0.05, 4.0
_TOTAL_RETRANS, _DSACK_DUPS = 100, 216  # offsets in struct tcp_info, linux/tcp.h
_CLONE_NEWNET = 0x40000000


@dataclass
class Seen:
    """What one family's packets met."""

    stream_sent: int = 0
    stream_received: int = 0
    stream_retransmissions: int = 0
    """Of segments that had not arrived."""
    stream_repetitions: int = 0
    """Of segments that had, as the receiver said (DSACK, RFC 2883): a timer ran out while this machine stood still, or an acknowledgement was dropped."""
    datagrams_sent: int = 0
    datagrams_received: int = 0
    flows_sent: int = 0
    flows_received: int = 0
    connections: int = 0
    connected: int = 0
    connections_dropped: int = 0
    connections_late: int = 0
    """Connected, but only after a retransmission, which takes a second."""
    late_began_s: list[float] = field(default_factory=list)
    """When those were begun, by the monotonic clock."""
    stranger_tried: int = 0
    stranger_passed: int = 0
    problems: list[str] = field(default_factory=list)


def socket_in(netns: str, family: int, kind: int) -> socket.socket:
    """Return a socket that lives in the namespace; this process then stays there."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd = os.open(netns, os.O_RDONLY)
    if libc.setns(fd, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), f"cannot enter {netns}")
    os.close(fd)
    made = socket.socket(family, kind)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return made


class Family:
    """All traffic of one address family."""

    def __init__(self, netns: tuple[str, str, str], address: str) -> None:
        self._client, self._server, self._stranger = netns
        self._kind = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._address = address
        self.seen = Seen()
        self._listener = self._listen(NEW)
        self._inbox = socket_in(self._server, self._kind, socket.SOCK_DGRAM)
        self._inbox.bind((address, DATAGRAMS))
        self._inbox.setblocking(False)
        self._old = self._datagrams(self._client)
        self._sender, self._receiver = self._stream()
        self._pending: list[tuple[socket.socket, float, bool]] = []
        self._rest = b""

    def _listen(self, port: int) -> socket.socket:
        made = socket_in(self._server, self._kind, socket.SOCK_STREAM)
        made.bind((self._address, port))
        made.listen(512)
        made.setblocking(False)
        return made

    def _datagrams(self, netns: str) -> socket.socket:
        made = socket_in(netns, self._kind, socket.SOCK_DGRAM)
        made.connect((self._address, DATAGRAMS))
        return made

    def _stream(self) -> tuple[socket.socket, socket.socket]:
        listener = self._listen(STREAM)
        sender = socket_in(self._client, self._kind, socket.SOCK_STREAM)
        sender.settimeout(5)
        sender.connect((self._address, STREAM))
        receiver, _ = listener.accept()
        sender.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sender.setblocking(False)
        receiver.setblocking(False)
        return sender, receiver

    def send(self, tick: int) -> None:
        """Send a little of everything."""
        try:
            self._sender.send(struct.pack("=Q", self.seen.stream_sent))
            self.seen.stream_sent += 1
        except BlockingIOError:
            self.seen.problems.append(f"the stream stands still after {self.seen.stream_sent}")
        self._old.send(b"old")
        self.seen.datagrams_sent += 1
        if tick % _NEW_EVERY == 0:
            self._begin(self._client, b"new")
            self._begin(self._stranger, b"stranger")

    def _begin(self, netns: str, word: bytes) -> None:
        """Open a connection and a datagram flow that nobody has seen before."""
        stranger = word == b"stranger"
        with self._datagrams(netns) as flow:
            flow.send(word)
        made = socket_in(netns, self._kind, socket.SOCK_STREAM)
        made.setblocking(False)
        made.connect_ex((self._address, NEW))
        self._pending.append((made, time.monotonic(), stranger))
        if stranger:
            self.seen.stranger_tried += 2
        else:
            self.seen.connections += 1
            self.seen.flows_sent += 1

    def look(self) -> None:
        """Take in what has come, and settle what is overdue."""
        self._take_datagrams()
        self._take_stream()
        while True:
            try:
                self._listener.accept()[0].close()
            except BlockingIOError:
                break
        ready = self._ready()
        self._pending = [entry for entry in self._pending if not self._settled(*entry, ready)]

    def _take_datagrams(self) -> None:
        while True:
            try:
                word = self._inbox.recv(64)
            except BlockingIOError:
                return
            self.seen.datagrams_received += word == b"old"
            self.seen.flows_received += word == b"new"
            self.seen.stranger_passed += word == b"stranger"

    def _take_stream(self) -> None:
        try:
            self._rest += self._receiver.recv(1 << 16)
        except BlockingIOError:
            return
        whole = len(self._rest) // 8
        for (number,) in struct.iter_unpack("=Q", self._rest[: whole * 8]):
            if number != self.seen.stream_received:
                self.seen.problems.append(f"the stream says {number} instead of {self.seen.stream_received}")
            self.seen.stream_received += 1
        self._rest = self._rest[whole * 8 :]

    def _ready(self) -> set[int]:
        poll = select.poll()
        for made, _, _ in self._pending:
            poll.register(made, select.POLLOUT)
        return {fd for fd, _ in poll.poll(0)}

    def _settled(self, made: socket.socket, began_s: float, stranger: bool, ready: set[int]) -> bool:
        """Count a connection whose end is known; tell whether it is."""
        age_s = time.monotonic() - began_s
        if made.fileno() in ready:
            error = made.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if stranger:
                # a refusal, too, would be an answer that had passed
                self.seen.stranger_passed += error in {0, errno.ECONNREFUSED, errno.ECONNRESET}
            else:
                self.seen.connected += error == 0
                if error == 0 and age_s > _LATE_S:
                    self.seen.connections_late += 1
                    self.seen.late_began_s.append(began_s)
                self.seen.connections_dropped += error != 0
        elif age_s < (_STRANGER_WAITS_S if stranger else _GIVE_UP_S):
            return False
        elif not stranger:
            self.seen.connections_dropped += 1
        made.close()
        return True

    def finish(self) -> Seen:
        """Return the figures."""
        info = self._sender.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
        total, self.seen.stream_repetitions = (
            struct.unpack_from("=I", info, offset)[0] for offset in (_TOTAL_RETRANS, _DSACK_DUPS)
        )
        self.seen.stream_retransmissions = total - self.seen.stream_repetitions
        return self.seen


def main() -> None:
    """Send until told to end."""
    ended: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: ended.append(number))
    netns = (sys.argv[1], sys.argv[2], sys.argv[3])
    families = {address: Family(netns, address) for address in sys.argv[4:]}
    print("ready", flush=True)
    tick, next_s, stop_s = 0, time.monotonic(), 0.0
    while not stop_s or time.monotonic() < stop_s:
        for family in families.values():
            if not stop_s:
                family.send(tick)
            family.look()
        tick += 1
        next_s = max(next_s + _TICK_S, time.monotonic())
        time.sleep(max(0.0, next_s - time.monotonic()))
        if ended and not stop_s:
            stop_s = time.monotonic() + _DRAIN_S
    print(json.dumps({address: asdict(family.finish()) for address, family in families.items()}), flush=True)


if __name__ == "__main__":
    main()
