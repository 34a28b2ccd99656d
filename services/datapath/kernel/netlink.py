"""Route netlink by pyroute2: requests that travel together, and namespaces to open sockets in.

Messages are written and read by pyroute2's classes, and the socket is its `IPRSocket`: the one of its sockets without an
event loop behind it, which is opened once for every endpoint that is plugged and costs a tenth of a millisecond there (docs/adr/0007).
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import socket
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property

from pyroute2.netlink import (
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    NLM_F_REQUEST,
    NLMSG_DONE,
    NLMSG_ERROR,
    nla,
    nlmsg,
)
from pyroute2.netlink.rtnl import RTM_NEWTFILTER
from pyroute2.netlink.rtnl.iprsocket import IPRSocket
from pyroute2.netlink.rtnl.tcmsg import tcmsg

from services.datapath.operations import KernelError

MAKE = NLM_F_CREATE | NLM_F_EXCL
SET = NLM_F_CREATE | NLM_F_REPLACE
ALREADY = frozenset({errno.EEXIST})
ABSENT = frozenset({errno.ENODEV, errno.ENOENT, errno.ESRCH, errno.EADDRNOTAVAIL})

_LIBC = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNET = 0x40000000
_TIMEOUT = struct.pack("@ll", 10, 0)
"""Seconds, and microseconds."""
_GET_INDEX, _INDEX = 0x8933, struct.Struct("=16si20x")
"""SIOCGIFINDEX and its struct ifreq."""
_READ_BYTES = 1 << 18
_NUMBERED_AT, _NUMBERED = 6, struct.Struct("=HI")
"""Flags and number in the header of a message."""
_TOGETHER = 64
"""Requests in one go: the answers to all of them must fit into the socket's buffer."""


@dataclass(frozen=True)
class Message:
    """One request, to be made once: what it is, what it is about (for people), and the refusals that mean success."""

    kind: int
    body: nlmsg
    about: str
    flags: int = 0
    fine: frozenset[int] = field(default_factory=frozenset)

    @cached_property
    def packed(self) -> bytes:
        """Return the bytes, but for flags and number; worked out once, since many endpoints are sent the same."""
        self.body["header"] = {"type": self.kind}
        self.body.encode()
        return bytes(self.body.data)


def body(form: type[nlmsg], fields: Mapping[str, int], **attributes: object) -> nlmsg:
    """Return a message of pyroute2's class `form` with these header fields and attributes."""
    made = form()
    made.update(fields)
    made["attrs"] = list(attributes.items())
    return made


def nested(**attributes: object) -> dict[str, object]:
    """Return the value of an attribute that itself holds attributes."""
    return {"attrs": list(attributes.items())}


class _Filter(nlmsg):
    """A tc filter as we read it. pyroute2's own class does not name the id of a BPF filter's program."""

    prefix = tcmsg.prefix
    fields = tcmsg.fields
    nla_map = (("TCA_UNSPEC", "none"), ("TCA_KIND", "asciiz"), ("TCA_OPTIONS", "bpf_options"))

    class bpf_options(nla):  # noqa: N801 - pyroute2 finds it by this name
        """The options of a filter of kind `bpf`; those of others are not to be read."""

        nla_map = ((7, "TCA_BPF_NAME", "asciiz"), (11, "TCA_BPF_ID", "uint32"))


class Netlink:
    """A route netlink socket; it belongs for ever to the namespace in which it was made, and to one thread."""

    def __init__(self) -> None:
        # strict: dumps are filtered by the kernel, so that a node's other routes and addresses are never read
        self._wire = IPRSocket(groups=0, strict_check=True)
        self._wire.register_policy(RTM_NEWTFILTER, _Filter)
        # to name the socket is to open it: here, in this namespace
        wire = self._wire.socket
        for limit in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):
            # by the kernel's own clock: Python's would ask poll(2) before each call
            wire.setsockopt(socket.SOL_SOCKET, limit, _TIMEOUT)
        self._sequence = 0

    def close(self) -> None:
        """Close the socket."""
        self._wire.close()

    def index_of(self, name: str) -> int:
        """Return the number of a device in the socket's namespace, where it is sure to be: for others the kernel looks for a module.

        A tenth of what `ask` costs. Raises KernelError.
        """
        try:
            answer = fcntl.ioctl(self._wire.socket.fileno(), _GET_INDEX, _INDEX.pack(name.encode(), 0))
        except OSError as error:
            raise KernelError(f"look for device {name}: {error.strerror}: is somebody else managing it?") from error
        return int(_INDEX.unpack(answer)[1])

    def send(self, messages: Sequence[Message]) -> None:
        """Make the requests in this order, in one go. Raises KernelError for the first refusal; the rest still ran."""
        refusals: list[str] = []
        for start in range(0, len(messages), _TOGETHER):
            refusals += self._send_together(messages[start : start + _TOGETHER])
        if refusals:
            raise KernelError(refusals[0])

    def _send_together(self, messages: Sequence[Message]) -> list[str]:
        """Return the refusals. The kernel tells each without being asked, so that only the last success need be told."""
        first = self._sequence + 1
        quiet = [self._encode(message, 0) for message in messages[:-1]]
        self._write(b"".join([*quiet, self._encode(messages[-1], NLM_F_ACK)]))
        refusals: list[str] = []
        while True:
            for answer in self._read():
                sequence, code = answer["header"]["sequence_number"], _code(answer)
                if sequence < first:
                    continue  # an answer that a call before this one did not wait for
                message = messages[sequence - first]
                if code and code not in message.fine:
                    refusals.append(_refusal(message, code))
                if sequence == self._sequence:
                    return refusals

    def ask(self, message: Message) -> nlmsg | None:
        """Return the one answer, or None when the kernel says there is none."""
        self._write(self._encode(message, 0))
        while True:
            for answer in self._read():
                if answer["header"]["sequence_number"] != self._sequence:
                    continue
                code = _code(answer)
                if code and code not in ABSENT:
                    raise KernelError(_refusal(message, code))
                return None if code else answer

    def dump(self, message: Message) -> list[nlmsg]:
        """Return all objects of a kind that match the message."""
        self._write(self._encode(message, NLM_F_DUMP))
        found: list[nlmsg] = []
        while True:
            for answer in self._read():
                if answer["header"]["sequence_number"] != self._sequence:
                    continue
                if answer["header"]["type"] == NLMSG_DONE:
                    return found
                if code := _code(answer):
                    raise KernelError(_refusal(message, code))
                found.append(answer)

    def _encode(self, message: Message, flags: int) -> bytes:
        self._sequence += 1
        packed = message.packed
        numbered = _NUMBERED.pack(NLM_F_REQUEST | flags | message.flags, self._sequence)
        return packed[:_NUMBERED_AT] + numbered + packed[_NUMBERED_AT + _NUMBERED.size :]

    def _write(self, data: bytes) -> None:
        try:
            self._wire.send(data)
        except OSError as error:
            raise KernelError(f"netlink takes no request: {error}") from error

    def _read(self) -> Iterator[nlmsg]:
        try:
            data = self._wire.recv(_READ_BYTES)
        except OSError as error:
            raise KernelError(f"netlink does not answer: {error}") from error
        return self._wire.marshal.parse(data)


def _code(answer: nlmsg) -> int:
    return -answer["error"] if answer["header"]["type"] == NLMSG_ERROR else 0


def _refusal(message: Message, code: int) -> str:
    return f"{message.about}: {os.strerror(code)}"


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
    with namespace("/proc/thread-self/ns/net") as home, namespace(netns) as target:
        if _LIBC.setns(target, _CLONE_NEWNET) != 0:
            raise KernelError(f"cannot enter the network namespace {netns}: {os.strerror(ctypes.get_errno())}")
        try:
            yield
        finally:
            if _LIBC.setns(home, _CLONE_NEWNET) != 0:
                os.abort()  # nothing this thread does from here on would happen where it should
