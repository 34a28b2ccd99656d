"""The program as people start it: help, wrong usage, exit statuses, and the same commands over a real NATS server."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from clients.cli.__main__ import main, parser
from clients.cli.output import plain, span, table
from fairlead.bus import Bus
from fairlead.bus_nats import connect
from fairlead.schema.flow import FLOW_SEEN, Verdict
from tests.support.nats import NatsServer
from tests.unit.cli.world import INTERN, N2, World, end, flow


def _commands(
    made: argparse.ArgumentParser, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], argparse.ArgumentParser]]:
    groups = [action for action in made._actions if isinstance(action, argparse._SubParsersAction)]
    for action in groups:
        for name, child in action.choices.items():
            yield from _commands(child, (*path, name))
    if not groups:
        yield path, made


@pytest.mark.parametrize(
    ("path", "made"), list(_commands(parser())), ids=lambda value: " ".join(value) if isinstance(value, tuple) else ""
)
def test_every_command_has_help_with_an_example_that_parses(
    path: tuple[str, ...], made: argparse.ArgumentParser
) -> None:
    text = made.format_help()
    assert "-o {table," in text
    example = text.split("example:\n")[1].strip()
    words = example.split()
    assert words[0] == "fairlead"
    assert tuple(words[1 : 1 + len(path)]) == path
    parser().parse_args(words[1:])


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nothing"],
        ["workload", "add", "web"],
        ["workload", "add", "web", "--node", "n1.x"],
        ["workload", "add", "web", "--node", "n1", "--label", "a,b"],
        ["workload", "add", "web", "--node", "n1", "--address", "10.0.0.300"],
        ["ipcache", "get", "10.0.0.0/8"],
        ["flows", "--last", "0"],
        ["status", "--timeout", "-1"],
        ["policy", "apply"],
    ],
)
def test_wrong_usage_is_status_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert "usage: fairlead" in capsys.readouterr().err


def test_an_absent_bus_is_status_4_and_says_what_to_check(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--nats", "nats://127.0.0.1:1", "--timeout", "0.3"]) == 4
    assert "is it running" in capsys.readouterr().err


def test_options_stand_before_or_after_the_command() -> None:
    for words in (["-o", "json", "--timeout", "2", "status"], ["status", "-o", "json", "--timeout", "2"]):
        options = parser().parse_args(words)
        assert (options.output, options.timeout) == ("json", 2.0)


def test_control_characters_never_reach_the_terminal() -> None:
    assert plain("a\x1b[31mb\n") == "a\\x1b[31mb\\n"
    assert table(("A", "B"), [("x\ty", ()), ("z", (1, 2))]) == "A     B\nx\\ty  -\nz     1, 2"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0ms"), (0.85, "850ms"), (1, "1s"), (119, "119s"), (120, "2m"), (7200, "2h"), (172800, "2d")],
)
def test_durations_take_the_unit_that_fits(seconds: float, text: str) -> None:
    assert span(seconds) == text


def _environment(url: str) -> dict[str, str]:
    return {**os.environ, "FAIRLEAD_NATS": url, "FAIRLEAD_NATS_DOMAIN": ""}


async def _cli(url: str, *arguments: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "clients.cli", *arguments),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=_environment(url),
    )
    out, error = await process.communicate()
    return process.returncode or 0, out.decode(), error.decode()


@pytest.mark.connected
async def test_the_program_over_a_real_bus(tmp_path: Path) -> None:
    server = NatsServer(tmp_path).start()
    try:
        async with connect(server.url, name="world") as bus:
            world = await World(bus).start()
            world.nodes[N2].flows = [flow("2" * 32, Verdict.DROPPED, 20, end("10.0.1.3", INTERN, "intern-1"))]
            assert (await _cli(server.url, "status"))[0] == 0
            code, out, _ = await _cli(
                server.url, "workload", "add", "web", "--node", "n1", "--netns", "/x", "-o", "json"
            )
            assert (code, json.loads(out)["endpoint"]["state"]) == (0, "ready")
            code, out, _ = await _cli(server.url, "endpoint", "list", "-o", "json")
            assert (code, [one["name"] for one in json.loads(out)]) == (0, ["web"])
            code, out, error = await _cli(server.url, "endpoint", "get", "nobody")
            assert (code, out) == (1, "")
            assert "fairlead endpoint list" in error
            assert "POLICY" not in (await _cli(server.url, "why", "intern-1", "protected-db"))[1]
            assert (await _cli(server.url, "ipam", "list", "--node", "n9", "--timeout", "1"))[0] == 3
            await _follows(server.url, bus)
    finally:
        server.kill()


async def _follows(url: str, bus: Bus) -> None:
    """`flows -f` prints what comes, and ends at Ctrl-C."""
    process = await asyncio.create_subprocess_exec(
        # whoever runs the tests in the background has them, and their children, ignore Ctrl-C
        *("env", "--default-signal=INT", sys.executable, "-m", "clients.cli"),
        *("flows", "-f", "-o", "json", "--verdict", "FORWARDED"),
        stdout=subprocess.PIPE,
        env=_environment(url),
    )
    assert process.stdout is not None
    try:
        await _hears(process, process.stdout, bus)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _hears(process: asyncio.subprocess.Process, said: asyncio.StreamReader, bus: Bus) -> None:
    async with asyncio.timeout(30):
        line = b""
        while not line:
            seen = flow("5" * 32, Verdict.FORWARDED, 0, end("10.0.1.3", INTERN, "intern-1"))
            await bus.publish(FLOW_SEEN, seen, node=N2)
            try:
                line = await asyncio.wait_for(said.readline(), 0.2)
            except TimeoutError:
                continue
        assert json.loads(line)["uuid"] == "5" * 32
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 130
