"""Logs as RFC 5424 on real sockets."""

from __future__ import annotations

import logging
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fairlead import telemetry
from fairlead.errors import InvalidInput
from fairlead.syslog import SyslogHandler, Target, parse_target

_RECORD = re.compile(
    r"<(?P<priority>\d{1,3})>1 (?P<at>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z) (?P<host>\S+) (?P<app>\S+) (?P<pid>\d+) -"
    r' (?P<data>(?:\[[^ \]]+(?: [^ =]+="(?:[^"\\\]]|\\.)*")*\])+) (?P<text>.*)',
    re.DOTALL,
)


@contextmanager
def logger(target: str, name: str = "policy.resolve") -> Iterator[logging.Logger]:
    """A logger of its own, whose records go to the target and are sent before the end."""
    made, handler = logging.getLogger(name), SyslogHandler(parse_target(target), "policy", "n1")
    made.addHandler(handler)
    made.setLevel(logging.INFO)
    try:
        yield made
    finally:
        made.removeHandler(handler)
        handler.close()


def read(text: bytes) -> dict[str, str]:
    found = _RECORD.fullmatch(text.decode())
    assert found, text
    return found.groupdict()


def test_a_record_over_udp_has_everything_in_its_place() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(10)
        with logger(f"udp://127.0.0.1:{receiver.getsockname()[1]}") as log:
            log.warning('a "quoted]" word of %s\nand a line', "blå")
            log.error("next")
        record, following = read(receiver.recv(4096)), read(receiver.recv(4096))
    assert (record["priority"], record["host"], record["app"]) == ("28", "n1", "fairlead-policy")
    assert record["text"] == 'a "quoted]" word of blå\nand a line'
    assert '[origin software="fairlead-policy" swVersion="' in record["data"]
    assert '[fairlead@32473 node="n1" logger="policy.resolve"]' in record["data"]
    assert ['sequenceId="1"' in record["data"], 'sequenceId="2"' in following["data"]] == [True, True]
    assert following["priority"] == "27"


def test_values_of_structured_data_are_escaped() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(10)
        with logger(f"udp://127.0.0.1:{receiver.getsockname()[1]}", 'odd"]\\name') as log:
            log.info("x")
        assert 'logger="odd\\"\\]\\\\name"' in read(receiver.recv(4096))["data"]


def test_the_trace_of_a_record_is_in_its_data() -> None:
    provider = telemetry.setup("policy", "n1", {})
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(10)
        with logger(f"udp://127.0.0.1:{receiver.getsockname()[1]}") as log, telemetry.span("work") as span:
            log.info("within")
        assert f'trace="{span.get_span_context().trace_id:032x}"' in read(receiver.recv(4096))["data"]
    provider.shutdown()


def test_tcp_counts_octets_and_comes_back_after_the_receiver_does() -> None:
    receiver = socket.create_server(("127.0.0.1", 0))
    receiver.settimeout(10)
    port = receiver.getsockname()[1]
    with logger(f"tcp://127.0.0.1:{port}") as log:
        log.info("first ü")
        first = _one_counted(receiver)
        receiver.close()
        log.info("perhaps lost: it was under way when the stream broke")
        receiver = socket.create_server(("127.0.0.1", port))
        receiver.settimeout(10)
        for number in range(50):
            log.info("again %d", number)
        later = _one_counted(receiver)
    receiver.close()
    assert read(first)["text"] == "first ü"
    assert read(later)["host"] == "n1"


def _one_counted(receiver: socket.socket) -> bytes:
    """Return the first record of the next connection."""
    talk, _ = receiver.accept()
    with talk, talk.makefile("rb") as stream:
        length = b""
        while (digit := stream.read(1)) != b" ":
            length += digit
        return stream.read(int(length))


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM])
def test_the_machines_own_socket_of_either_kind(kind: socket.SocketKind, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, kind) as receiver:
        receiver.bind(str(tmp_path / "log"))
        receiver.settimeout(10)
        if kind is socket.SOCK_STREAM:
            receiver.listen()
        with logger(f"unix://{tmp_path}/log") as log:
            log.info("local")
        source = receiver.accept()[0] if kind is socket.SOCK_STREAM else receiver
        with source:
            assert read(source.recv(4096).rstrip(b"\n"))["text"] == "local"


def test_a_receiver_that_is_away_holds_nobody_up() -> None:
    handler = SyslogHandler(Target("unix", "/nowhere/log"), "policy", "n1")
    for number in range(20_000):
        handler.emit(logging.LogRecord("x", logging.INFO, __file__, 0, "record %d", (number,), None))
    handler.close()
    assert handler._lost > 0


@pytest.mark.parametrize(
    "text", ["host:514", "udp://", "http://host", "unix://relative", "udp://host:99999", "tcp://host/path", "udp://a@b"]
)
def test_what_is_no_target_is_named_with_what_would_be_one(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"`syslog`: .*unix:///dev/log"):
        parse_target(text)


def test_targets_have_their_usual_ports() -> None:
    assert parse_target("udp://logs.example") == Target("udp", "logs.example", 514)
    assert parse_target("tcp://[2001:db8::1]") == Target("tcp", "2001:db8::1", 601)
    assert parse_target("unix:///dev/log") == Target("unix", "/dev/log")
