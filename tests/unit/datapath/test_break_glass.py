"""The book of broken glass, what of it counts, and what the service tells of it."""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from clients.cli.__main__ import parser as cli_parser
from clients.cli.break_glass import arguments
from clients.cli.status import banners
from fairlead.address import Address
from fairlead.bus_memory import Hub
from fairlead.errors import Unavailable
from fairlead.schema import datapath as topics
from fairlead.schema.flow import Verdict
from fairlead.schema.health import Condition, Health
from services.datapath import emergency, glassbook
from services.datapath.explain import Circumstances, End, Subject, explain
from services.datapath.glassbook import Deed, Entry, Open
from services.datapath.reports import DropReason, Event, EventKind
from tests.unit.datapath.world import NODE, Control, TestNode, entry, until

NOW = datetime(2026, 1, 1, tzinfo=UTC)
WEB, DB = Address("10.0.0.2"), Address("10.0.0.3")
SUBJECT = "endpoint 2 db"
OPENED = Entry(
    deed=Deed.OPENED,
    time=NOW,
    endpoint=2,
    name="db",
    reason="INC-7",
    by="alice (uid 1000)",
    until=NOW + timedelta(minutes=15),
    until_ns=900,
    boot="a",
)


def write(path: Path, *entries: Entry) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with glassbook.writing(path) as fd:
        for one in entries:
            glassbook.append(fd, path, one)


def test_a_book_is_read_as_written_and_a_torn_line_costs_itself_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / glassbook.FILE
    assert glassbook.read(path) == []
    write(path, OPENED)
    with path.open("a") as file:
        file.write('{"deed": "opened", "ti')
    assert glassbook.read(path) == [OPENED]
    ended = Entry(deed=Deed.ENDED, time=NOW, endpoint=2, by="bob (uid 1)")
    write(path, ended)
    assert glassbook.read(path) == [OPENED, None, ended]
    assert "line 2 makes no sense" in caplog.text
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_book_that_cannot_be_written_says_that_nothing_is_opened(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="nothing is opened"), glassbook.writing(tmp_path):
        pass
    with pytest.raises(Unavailable, match="No space left"), glassbook.writing(Path("/dev/full")) as fd:
        glassbook.append(fd, Path("/dev/full"), OPENED)


def test_the_kernel_says_what_is_open_and_the_book_why() -> None:
    later = msgspec.structs.replace(OPENED, until_ns=1000, reason="longer")
    of_another_boot = msgspec.structs.replace(OPENED, boot="b", reason="old")
    book = [of_another_boot, OPENED, later]

    def now(rows: dict[int, int], now_ns: int) -> tuple[Open, ...]:
        return glassbook.broken_now(rows, book, now_ns, "a")

    assert now({2: 900}, 899) == (Open(endpoint=2, until_ns=900, entry=OPENED),)
    assert now({2: 900}, 900) == ()
    assert now({2: 1000}, 5)[0].words == "endpoint 2 db until 2026-01-01T00:15:00Z by alice (uid 1000): longer"
    assert [one.words for one in now({0: 7, 2: 901}, 5)] == [
        "the whole node (no record explains it)",
        "endpoint 2 (no record explains it)",
    ]


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("15m", 900), ("24h", 86_400)])
def test_times_are_read(text: str, seconds: int) -> None:
    assert emergency.seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "0s", "15", "-1m", "25h", "1d", "1.5h", "999999999m", "\u0661m "])
def test_other_times_are_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="give a time like"):
        emergency.seconds(text)


@pytest.mark.parametrize("text", ["", "  ", "a\nb", "\x1b[2J", "x" * 254])
def test_a_reason_is_one_line(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="say why"):
        emergency.reason(text)


def test_who_became_root_is_named() -> None:
    assert emergency.person({"SUDO_USER": "alice", "SUDO_UID": "1000"}) == "alice (uid 1000)"
    assert emergency.person({"SUDO_UID": "4000000"}) == "somebody (uid 4000000)"
    assert emergency.person({}).endswith(")")


@pytest.mark.parametrize(
    "line",
    [
        ["endpoint", "db", "--for", "15m", "--reason", "--why not"],
        ["node", "--end", "--state-dir", "/s", "--pins", "/p", "-o", "json"],
        ["list"],
    ],
)
def test_the_command_hands_everything_to_the_datapath(line: list[str]) -> None:
    words = [f"--reason={line[line.index('--reason') + 1]}"] if "--reason" in line else []
    line = [word for word in line if word not in ("--reason", "--why not")] + words
    asked = emergency.parser().parse_args(arguments(cli_parser().parse_args(["break-glass", *line])))
    assert asked == emergency.parser().parse_args(line)


def test_a_flow_that_passes_by_break_glass_says_so() -> None:
    event = Event(EventKind.AUDIT, DropReason.POLICY, 0, 6, WEB, DB, 1, 80, 5, 6, 2, 0, 60, 0)
    around = Circumstances(NODE, "u", NOW, End(), End(), Subject("db"))
    assert "break-glass" not in explain(event, around).explanation
    told = explain(replace(event, audited=True, by_glass=True), around)
    assert (told.verdict, told.break_glass) == (Verdict.AUDIT, True)
    assert told.explanation.endswith("; passes by break-glass")
    assert told.drop_reason_desc.endswith("; passes by break-glass")


async def test_the_service_tells_and_shows_it_and_changes_nothing(node: TestNode, control: Control, hub: Hub) -> None:
    told: list[topics.BreakGlassUsed] = []

    async def hear(report: topics.BreakGlassUsed) -> None:
        told.append(report)

    await control.bus.follow(topics.BREAK_GLASS_USED, hear)
    await node.attach("web", "10.0.0.2")
    await node.attach("db", "10.0.0.3", ("app=db",))
    await control.policy(control.numbers[("container:app=db",)], [entry(1)])
    await until(lambda: not node.kernel.verdict(WEB, DB, 6, 80).passes)
    hub.up = False
    await node.stop()
    end_ns = time.monotonic_ns() + 3_600_000_000_000
    write(node.folder / glassbook.FILE, msgspec.structs.replace(OPENED, until_ns=end_ns, boot=glassbook.boot()))
    node.world.glass = {2: end_ns}
    await node.start()
    await until(lambda: not node.conditions.get("break-glass open", (True, ""))[0])
    assert node.conditions["break-glass open"][1] == SUBJECT + " until 2026-01-01T00:15:00Z by alice (uid 1000): INC-7"
    assert node.datapath.glass.seconds_left()[SUBJECT] > 3000
    assert told == []
    hub.up = True
    await until(lambda: told)
    assert (told[0].node, told[0].endpoint, told[0].reason, told[0].until) == (NODE, 2, "INC-7", OPENED.until)
    await control.policy(control.numbers[("container:app=db",)], [])
    await node.restart()
    ended = Entry(deed=Deed.ENDED, time=NOW, endpoint=2, by="bob (uid 1)")
    write(node.folder / glassbook.FILE, ended)
    await until(lambda: len(told) == 2)
    assert told[1].deed == "ended"
    assert node.world.glass == {2: end_ns}
    assert [one.problem for one in (await node.datapath._verification.verify()).differences] == []
    node.world.glass = {2: 1}
    await until(lambda: node.conditions["break-glass open"][0])
    assert await node.detach("db")
    await until(lambda: node.world.glass == {})


async def test_what_was_opened_without_a_record_gets_one_and_is_told_when_the_bus_returns(
    node: TestNode, control: Control, hub: Hub
) -> None:
    told: list[topics.BreakGlassUsed] = []

    async def hear(report: topics.BreakGlassUsed) -> None:
        told.append(report)

    await control.bus.follow(topics.BREAK_GLASS_USED, hear)
    await node.attach("db", "10.0.0.3", ("app=db",))
    hub.up = False
    node.world.glass = {0: 2**64 - 1, 1: time.monotonic_ns() + 3_600_000_000_000}
    await until(lambda: "by somebody unknown" in node.conditions.get("break-glass open", (True, ""))[1])
    assert "the whole node without end by somebody unknown" in node.conditions["break-glass open"][1]
    assert told == []
    hub.up = True
    await until(lambda: len(told) == 2)
    assert [(one.endpoint, one.deed, one.until is None) for one in told] == [(0, "found", True), (1, "found", False)]
    await node.restart()
    await until(lambda: not node.conditions.get("break-glass open", (True, ""))[0])
    assert len(glassbook.read(node.folder / glassbook.FILE)) == 2


def test_status_shows_it_above_everything() -> None:
    open_now = Condition(name="break-glass open", ok=False, detail="endpoint 2 db until then")
    health = Health(service="datapath", node="n2", version="", since=NOW, pid=1, rss_bytes=1, conditions=(open_now,))
    assert banners([health]) == ["!!! BREAK-GLASS IS OPEN on n2: endpoint 2 db until then"]
