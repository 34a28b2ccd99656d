"""Which containers the plugin has started again after a boot, and which it leaves alone."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from clients.docker.engine import Engine, HostConfig, RestartPolicy, RunState, Standstill
from fairlead.errors import Unavailable

_MISSED = "failed to create endpoint web on network shop_default: NetworkDriver.CreateEndpoint: fairlead: datapath did not make it"
_ABSENT = 'failed to create endpoint web on network n: Post "http://%2Frun%2Fdocker%2Fplugins%2Ffairlead.sock/x": EOF'


@pytest.mark.parametrize(
    ("restart", "status", "error", "expected"),
    [
        ("unless-stopped", "exited", _MISSED, True),
        ("always", "exited", _ABSENT, True),
        ("always", "exited", 'legacy plugin: plugin "fairlead" not found', True),
        ("no", "exited", _MISSED, False),
        ("on-failure", "exited", _MISSED, False),
        ("always", "created", _MISSED, False),  # it never ran: `docker run` has told its person
        ("always", "running", _MISSED, False),
        ("always", "exited", "", False),  # somebody stopped it
        ("always", "exited", "OCI runtime create failed: exec: no such file", False),
        ("always", "exited", "driver other: fairleads are full", False),
    ],
)
def test_only_what_ran_and_failed_for_want_of_us(restart: str, status: str, error: str, expected: bool) -> None:
    shown = Standstill(
        id="x", state=RunState(status=status, error=error), host=HostConfig(restart=RestartPolicy(name=restart))
    )
    assert shown.missed_us("fairlead") is expected


async def test_the_engine_is_asked_in_its_own_words(tmp_path: Path) -> None:
    asked: list[str] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")[0].decode()
        asked.append(line)
        answers = {
            "GET /containers/json": [{"Id": "a" * 64}],
            f"GET /containers/{'a' * 64}/json": {
                "Id": "a" * 64,
                "State": {"Status": "exited", "Error": _MISSED},
                "HostConfig": {"RestartPolicy": {"Name": "always"}},
            },
        }
        body = json.dumps(
            answers.get(line.partition("?")[0].rpartition(" HTTP")[0] or line.partition("?")[0], {})
        ).encode()
        status = "204 No Content" if line.startswith("POST") and "a" * 64 in line else "200 OK"
        status = "404 Not Found" if "b" * 64 in line else status
        length = 0 if status.startswith("204") else len(body)
        writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n".encode() + body[:length])
        await writer.drain()
        writer.close()

    server = await asyncio.start_unix_server(talk, tmp_path / "engine.sock")
    engine = Engine(str(tmp_path / "engine.sock"), "fairlead")
    (found,) = await engine.stranded(["n" * 64])
    await engine.start(found.id)
    assert asked[-1] == f"POST /containers/{'a' * 64}/start HTTP/1.1"
    with pytest.raises(Unavailable, match="404"):
        await engine.start("b" * 64)
    server.close()
