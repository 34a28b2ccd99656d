"""Route netlink by its bytes: a socket, messages that travel together, and namespaces to open sockets in.

Plugging an endpoint takes a dozen requests; sent as two batches over sockets that stay open they cost well under a
millisecond, where a general library takes longer than the kernel does.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from services.datapath.operations import KernelError

NEWLINK, DELLINK, GETLINK, SETLINK = 16, 17, 18, 19
NEWADDR, DELADDR, GETADDR = 20, 21, 22
NEWROUTE, DELROUTE, GETROUTE = 24, 25, 26
NEWNEIGH = 28
NEWRULE, DELRULE, GETRULE = 32, 33, 34
NEWQDISC, DELQDISC = 36, 37
NEWTFILTER, DELTFILTER, GETTFILTER = 44, 45, 46

REPLACE, EXCLUSIVE, CREATE = 0x100, 0x200, 0x400
_REQUEST, _ACK, _DUMP = 1, 4, 0x300
_ERROR, _DONE = 2, 3
_HEADER = struct.Struct("=IHHII")
_CLONE_NEWNET = 0x40000000
_ABSENT = frozenset({errno.ENODEV, errno.ENOENT, errno.ESRCH, errno.EADDRNOTAVAIL})

ALREADY = frozenset({errno.EEXIST})
ABSENT = _ABSENT


@dataclass(frozen=True)
class Message:
    """One request: what it is, its payload, what it is about (for people), and the refusals that mean success."""

    kind: int
    payload: bytes
    about: str
    flags: int = 0
    fine: frozenset[int] = field(default_factory=frozenset)


def attribute(kind: int, value: bytes) -> bytes:
    """Return one netlink attribute, padded."""
    return struct.pack("=HH", len(value) + 4, kind) + value + b"\0" * (-len(value) % 4)


def number(kind: int, value: int) -> bytes:
    """Return an attribute that holds a u32."""
    return attribute(kind, struct.pack("=I", value))


def text(kind: int, value: str) -> bytes:
    """Return an attribute that holds a string."""
    return attribute(kind, value.encode() + b"\0")


def attributes(payload: bytes, start: int) -> dict[int, bytes]:
    """Return the attributes behind the first `start` bytes, by kind."""
    found: dict[int, bytes] = {}
    while start + 4 <= len(payload):
        length, kind = struct.unpack_from("=HH", payload, start)
        if length < 4:
            break
        found[kind & 0x3FFF] = payload[start + 4 : start + length]
        start += (length + 3) & ~3
    return found


class Netlink:
    """A route netlink socket; it belongs for ever to the namespace in which it was made."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self._socket.settimeout(10)
        self._sequence = 0

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def send(self, messages: Sequence[Message]) -> None:
        """Make the requests in this order, in one go. Raises KernelError for the first refusal; the rest still ran."""
        if not messages:
            return
        first = self._sequence + 1
        self._socket.send(b"".join(self._pack(message, _ACK) for message in messages))
        waiting = dict(enumerate(messages, first))
        refusals: list[str] = []
        while waiting:
            for kind, sequence, payload in self._receive():
                if kind == _ERROR and sequence in waiting:
                    refusals += _refusal(waiting.pop(sequence), -struct.unpack_from("=i", payload)[0])
        if refusals:
            raise KernelError(refusals[0])

    def ask(self, message: Message) -> bytes | None:
        """Return the one answer, or None when the kernel says there is none."""
        self._socket.send(self._pack(message, 0))
        for kind, sequence, payload in self._receive():
            if sequence != self._sequence:
                continue
            if kind != _ERROR:
                return payload
            code = -struct.unpack_from("=i", payload)[0]
            if code in _ABSENT:
                return None
            raise KernelError(f"{message.about}: {os.strerror(code)}")
        return None

    def dump(self, message: Message) -> list[bytes]:
        """Return the payloads of all objects of a kind."""
        self._socket.send(self._pack(message, _DUMP))
        found: list[bytes] = []
        while True:
            for kind, sequence, payload in self._receive():
                if sequence != self._sequence:
                    continue
                if kind == _DONE:
                    return found
                if kind == _ERROR:
                    raise KernelError(f"{message.about}: {os.strerror(-struct.unpack_from('=i', payload)[0])}")
                found.append(payload)

    def _pack(self, message: Message, flags: int) -> bytes:
        self._sequence += 1
        length = _HEADER.size + len(message.payload)
        header = _HEADER.pack(length, message.kind, _REQUEST | flags | message.flags, self._sequence, 0)
        return header + message.payload + b"\0" * (-length % 4)

    def _receive(self) -> Iterator[tuple[int, int, bytes]]:
        try:
            data = self._socket.recv(1 << 18)
        except OSError as error:
            raise KernelError(f"netlink does not answer: {error}") from error
        start = 0
        while start + _HEADER.size <= len(data):
            length, kind, _, sequence, _ = _HEADER.unpack_from(data, start)
            yield kind, sequence, data[start + _HEADER.size : start + length]
            start += (length + 3) & ~3


def _refusal(message: Message, code: int) -> list[str]:
    if code == 0 or code in message.fine:
        return []
    return [f"{message.about}: {os.strerror(code)}"]


@contextmanager
def namespace(path: str) -> Iterator[int]:
    """Open a network namespace by path. Raises KernelError if it is not there."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise KernelError(f"network namespace {path} cannot be opened: {error.strerror}") from error
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def inside(netns: str) -> Iterator[None]:
    """Run the block with this thread, and no other, in the namespace at the path. Sockets made there stay there."""
    libc = ctypes.CDLL(None, use_errno=True)
    with namespace("/proc/thread-self/ns/net") as home, namespace(netns) as target:
        if libc.setns(target, _CLONE_NEWNET) != 0:
            raise KernelError(f"cannot enter the network namespace {netns}: {os.strerror(ctypes.get_errno())}")
        try:
            yield
        finally:
            if libc.setns(home, _CLONE_NEWNET) != 0:
                os.abort()  # nothing this thread does from here on would happen where it should
