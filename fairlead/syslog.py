"""Logs as syslog (RFC 5424) beside stderr: UDP (RFC 5426), TCP with counted octets (RFC 6587), or the machine's own socket.

A service never waits for its log: records go through a bounded queue to a thread of their own, which connects again for as long as it
takes. What did not fit is counted, and the count is logged when the receiver is back. Every record carries structured data: `origin`
and `meta` of the RFC, and `fairlead@32473` with node, logger, and the trace that the record belongs to (32473 is the number for
examples, RFC 5612: Fairlead has none of its own).
"""

from __future__ import annotations

import logging
import os
import queue
import re
import socket
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from opentelemetry import trace

from fairlead import __version__
from fairlead.errors import InvalidInput

_FACILITY_DAEMON = 3
_SEVERITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
_DEBUG = 7
_QUEUED = 10_000
_PATIENCE_S = 3.0
_BACKOFF_MAX_S = 5.0
_DATAGRAM_BYTES = 2048
"""What every receiver should accept in a datagram (RFC 5426, section 3.2); a longer record is cut."""
_LAST_S = 2.0
_ENTERPRISE = "fairlead@32473"
_PORTS = {"udp": 514, "tcp": 601}


@dataclass(frozen=True)
class Target:
    """Where records go: kind `udp` or `tcp` with host and port, or `unix` with the path of a socket."""

    kind: str
    place: str
    port: int = 0


def parse_target(text: str) -> Target:
    """Return what `udp://host[:port]`, `tcp://host[:port]` or `unix:///path` means. Raises InvalidInput."""
    mend = f"`syslog`: {text!r} is no target: write udp://HOST:514, tcp://HOST:601 or unix:///dev/log"
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise InvalidInput(f"{mend} ({error})") from error
    if parts.query or parts.fragment or parts.username is not None:
        raise InvalidInput(mend)
    if parts.scheme == "unix" and not parts.netloc and parts.path.startswith("/"):
        return Target("unix", parts.path)
    if parts.scheme in _PORTS and parts.hostname and parts.path in ("", "/"):
        return Target(parts.scheme, parts.hostname, port or _PORTS[parts.scheme])
    raise InvalidInput(mend)


class Rfc5424(logging.Formatter):
    """Makes records of one service on one node."""

    def __init__(self, service: str, node: str) -> None:
        super().__init__()
        self._service, self._node, self._sequence = service, node, 0

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line of text: header, structured data, message."""
        self._sequence = self._sequence % (2**31 - 1) + 1
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        app = _name(f"fairlead-{self._service}", 48)
        header = (
            f"<{_FACILITY_DAEMON * 8 + _severity(record.levelno)}>1 {at} {_name(self._node, 255)} {app} {os.getpid()} -"
        )
        return f"{header} {self._data(record)} {super().format(record)}"

    def _data(self, record: logging.LogRecord) -> str:
        own = {"node": self._node, "logger": record.name}
        context = trace.get_current_span().get_span_context()
        if context.is_valid:
            own |= {"trace": f"{context.trace_id:032x}", "span": f"{context.span_id:016x}"}
        origin = {"software": f"fairlead-{self._service}", "swVersion": __version__}
        return (
            _element("origin", origin)
            + _element("meta", {"sequenceId": str(self._sequence)})
            + _element(_ENTERPRISE, own)
        )


def _severity(level: int) -> int:
    return next((severity for least, severity in _SEVERITIES if level >= least), _DEBUG)


def _name(text: str, longest: int) -> str:
    """Return printable US-ASCII without spaces, or the nil value."""
    return re.sub(r"[^\x21-\x7e]", "_", text)[:longest] or "-"


def _element(name: str, values: dict[str, str]) -> str:
    return "[" + name + "".join(f' {key}="{_escaped(value)}"' for key, value in values.items()) + "]"


def _escaped(text: str) -> str:
    return re.sub(r'(["\\\]])', r"\\\1", text)


class SyslogHandler(logging.Handler):
    """Sends records to a target from a thread of its own; `close` waits a moment for what is queued."""

    def __init__(self, target: Target, service: str, node: str) -> None:
        super().__init__()
        self.setFormatter(Rfc5424(service, node))
        self._target = target
        self._queue: queue.Queue[bytes | None] = queue.Queue(_QUEUED)
        self._lost = 0
        self._socket: socket.socket | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="syslog", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Queue the record; when the queue is full it is counted as lost."""
        try:
            self._queue.put_nowait(self.format(record).encode(errors="replace"))
        except queue.Full:
            self._lost += 1

    def close(self) -> None:
        """Send what is queued if the receiver takes it within two seconds, and end."""
        if not self._ended.is_set():
            try:
                self._queue.put_nowait(None)
            except queue.Full:
                self._ended.set()
            self._thread.join(_LAST_S)
            self._ended.set()
        super().close()

    def _run(self) -> None:
        while not self._ended.is_set():
            data = self._queue.get()
            if data is None:
                break
            self._deliver(data)
            self._tell_losses()
        if self._socket is not None:
            self._socket.close()

    def _tell_losses(self) -> None:
        lost, self._lost = self._lost, 0
        if lost:
            message = f"{lost} records were lost while the receiver was away"
            self.emit(logging.LogRecord("syslog", logging.WARNING, __file__, 0, message, None, None))

    def _deliver(self, data: bytes) -> None:
        """Send one record, connecting again until it went or the end has come. A stream may lose what was under way when it broke."""
        pause_s = 0.1
        while not self._ended.is_set():
            try:
                self._socket = self._socket or _connected(self._target)
                self._socket.sendall(_framed(self._target, self._socket, data))
            except OSError:
                if self._socket is not None:
                    self._socket.close()
                    self._socket = None
                self._ended.wait(pause_s)
                pause_s = min(pause_s * 2, _BACKOFF_MAX_S)
            else:
                return


def _framed(target: Target, made: socket.socket, data: bytes) -> bytes:
    if made.type == socket.SOCK_STREAM:
        return b"%d %s" % (len(data), data) if target.kind == "tcp" else data + b"\n"
    return data[:_DATAGRAM_BYTES] if target.kind == "udp" else data


def _connected(target: Target) -> socket.socket:
    """Return a connected socket. Raises OSError."""
    if target.kind == "tcp":
        return socket.create_connection((target.place, target.port), _PATIENCE_S)
    if target.kind == "udp":
        family, kind, protocol, _, address = socket.getaddrinfo(target.place, target.port, type=socket.SOCK_DGRAM)[0]
        return _connect(socket.socket(family, kind, protocol), address)
    try:
        return _connect(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM), target.place)
    except OSError:  # some receivers listen on a stream
        return _connect(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM), target.place)


def _connect(made: socket.socket, address: tuple[Any, ...] | str) -> socket.socket:
    made.settimeout(_PATIENCE_S)
    try:
        made.connect(address)
    except OSError:
        made.close()
        raise
    return made


def attach(text: str, service: str, node: str) -> SyslogHandler | None:
    """Have all logs of this process go to the target too; nothing for an empty one. Raises InvalidInput."""
    if not text:
        return None
    handler = SyslogHandler(parse_target(text), service, node)
    logging.getLogger().addHandler(handler)
    return handler
