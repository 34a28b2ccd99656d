"""Break-glass with the command itself: opens with no service alive, is told, and ends by itself with the very next packet."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from services.datapath import glassbook
from services.datapath.emergency import Emergency
from services.datapath.failsafe import HOST_ENDPOINT
from services.datapath.glassbook import Deed, Entry
from services.datapath.kernel import abi, glass
from services.datapath.kernel.testrun import REDIRECT, SHOT, TestRun
from services.datapath.operations import KernelError, PolicyKey, PolicyValue
from services.datapath.reports import DropReason as Drop
from services.datapath.reports import EventKind
from tests.kernel.packets import ACK, SYN, TCP, frame, tcp
from tests.kernel.rig import ALLOW_IN, ALLOW_OUT, Rig, new_rig, pod_address
from tests.kernel.sending import families, send

pytestmark = pytest.mark.kernel
DENIED = PolicyKey(0, 80, TCP, 0)
FOREVER_NS, PAST_NS = 1 << 62, 1


@pytest.fixture
def pod(rig: Rig) -> Iterator[TestRun]:
    """Endpoint 2 lets nobody in; endpoint 1 may do everything."""
    rig.policy(2, {ALLOW_OUT: PolicyValue()})
    rows(rig, {})
    program = rig.program("from_pod")
    yield program
    rows(rig, {})
    program.close()


def rows(rig: Rig, wanted: dict[int, int]) -> None:
    """Make these be the rows; what was denied before is forgotten, which takes 10 ms."""
    table = rig.kernel._tables.maps["break_glass"]
    table.delete_all(table.items())
    table.put_all({number.to_bytes(4, sys.byteorder): abi.BREAK_GLASS.pack(until) for number, until in wanted.items()})
    rig.kernel._tables.bump_addresses()


def told(rig: Rig) -> list[tuple[EventKind, int, int, int, bool]]:
    return [(one.kind, one.reason, one.endpoint, one.provenance, one.by_glass) for one in rig.take_events()]


def until(condition: Callable[[], bool], within_s: float = 10.0) -> None:
    """Wait for the world to become so."""
    end_s = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end_s, "did not happen in time"
        time.sleep(0.02)


def command(rig: Rig, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `fairlead break-glass`, from wherever: neither a bus nor a service is there."""
    line = [sys.executable, "-m", "clients.cli", "break-glass", *arguments]
    (folder / "datapath").mkdir(exist_ok=True)
    environment = {**os.environ, "FAIRLEAD_STATE_DIR": str(folder), "FAIRLEAD_NATS": "nats://127.0.0.1:1"}
    environment |= {"SUDO_USER": "alice", "SUDO_UID": "1000", "FAIRLEAD_PIN_DIRECTORY": str(rig.pins)}
    return subprocess.run(line, env=environment, capture_output=True, text=True, check=False, timeout=120)


def book(folder: Path) -> list[Entry | None]:
    return glassbook.read(folder / "datapath" / glassbook.FILE)


@families
@pytest.mark.parametrize("opened", [2, 0], ids=["endpoint", "node"])
def test_what_policy_denies_passes_and_is_told_once(rig: Rig, pod: TestRun, family: int, opened: int) -> None:
    rows(rig, {opened: FOREVER_NS})
    assert send(rig, pod, tcp(1000, 80, SYN), family) == REDIRECT
    assert told(rig) == [(EventKind.AUDIT, Drop.POLICY, 2, 40, True)]
    assert send(rig, pod, tcp(80, 1000, SYN | ACK), family, sender=2) == REDIRECT
    assert send(rig, pod, tcp(1000, 80), family) == REDIRECT
    assert told(rig) == []
    [value] = rig.flows().values()
    assert abi.FLOW.unpack(value)[8:10] == (2, 1)


@families
def test_the_packet_after_the_end_is_denied_both_ways_and_a_new_opening_is_told(
    rig: Rig, pod: TestRun, family: int
) -> None:
    rows(rig, {2: FOREVER_NS})
    send(rig, pod, tcp(1000, 80, SYN), family)
    send(rig, pod, tcp(80, 1000, SYN | ACK), family, sender=2)
    table = rig.kernel._tables.maps["break_glass"]
    table.put((2).to_bytes(4, sys.byteorder), abi.BREAK_GLASS.pack(PAST_NS))  # no epoch changes: nobody is alive
    rig.take_events()
    assert send(rig, pod, tcp(80, 1000), family, sender=2) == SHOT
    assert send(rig, pod, tcp(1000, 80), family) == SHOT
    table.put((2).to_bytes(4, sys.byteorder), abi.BREAK_GLASS.pack(FOREVER_NS))
    assert send(rig, pod, tcp(1000, 80), family) == REDIRECT
    assert [(kind, by_glass) for kind, _, _, _, by_glass in told(rig)] == [
        *[(EventKind.DROP, False)] * 2,
        (EventKind.AUDIT, True),
    ]


@families
def test_egress_and_deny_entries_are_lifted_too(rig: Rig, pod: TestRun, family: int) -> None:
    rig.policy(1, {ALLOW_IN: PolicyValue()})
    rig.policy(2, {ALLOW_IN: PolicyValue(), DENIED: PolicyValue(deny=True, provenance=99)})
    rows(rig, {1: FOREVER_NS})
    assert send(rig, pod, tcp(1000, 80, SYN), family) == SHOT  # the other end's policy still counts
    rows(rig, {1: FOREVER_NS, 2: FOREVER_NS})
    assert send(rig, pod, tcp(1001, 80, SYN), family) == REDIRECT
    assert told(rig)[-1] == (EventKind.AUDIT, Drop.POLICY, 1, 41, True)
    assert rig.kernel.policy(2)[DENIED][1].packets


@families
def test_what_policy_allows_keeps_its_fast_way(rig: Rig, pod: TestRun, family: int) -> None:
    rig.allow_all()
    rows(rig, {0: FOREVER_NS})
    assert send(rig, pod, tcp(1000, 80, SYN), family) == REDIRECT
    settings, state = rig.kernel._tables.settings(), rig.kernel._tables.state
    [value] = rig.flows().values()
    assert abi.FLOW.unpack(value)[1] == settings.address_epoch + state(1).epoch + state(2).epoch
    assert told(rig) == [(EventKind.NEW_FLOW, 0, 2, 0, False)]


@families
def test_held_and_spoofed_stay_drops(rig: Rig, pod: TestRun, family: int) -> None:
    rig.kernel.put_endpoint(rig.entry(2, held=True))
    rows(rig, {0: FOREVER_NS})
    assert send(rig, pod, tcp(1000, 80, SYN), family) == SHOT
    stolen = frame(tcp(1000, 80), pod_address(1, family), pod_address(2, family))
    assert pod.run(stolen, rig.plugged[2].ifindex).action == SHOT


@families
def test_from_the_network(rig: Rig, pod: TestRun, family: int) -> None:
    network = rig.program("from_network")
    packet = frame(tcp(1000, 80, SYN), "192.0.2.2" if family == 4 else "2001:db8::2", pod_address(2, family))
    assert network.run(packet).action == SHOT
    rows(rig, {2: FOREVER_NS})
    assert network.run(packet).action == REDIRECT
    rows(rig, {2: PAST_NS})
    assert network.run(packet).action == SHOT
    network.close()


@families
def test_the_command_opens_and_it_ends_by_itself_with_nobody_alive(tmp_path: Path, family: int) -> None:
    with new_rig() as rig:
        rig.policy(2, {ALLOW_OUT: PolicyValue()})
        address = pod_address(2, family)
        with rig.listen("2", 80, family):
            assert not rig.connects("1", address, 80)
            rig.kernel.stop()  # nothing of Fairlead runs any more
            done = command(rig, tmp_path, "endpoint", "2", "--for", "3s", "--reason", "INC-7: store lost")
            assert done.returncode == 0, done.stderr
            assert "other endpoints' policies still count" in done.stdout
            assert rig.connects("1", address, 80)
            assert rig.ping("1", address)
            until(lambda: not rig.ping("1", address))
            assert not rig.connects("1", address, 80)
        [entry] = book(tmp_path)
        assert entry
        assert (entry.deed, entry.endpoint, entry.reason, entry.by) == (Deed.OPENED, 2, "INC-7: store lost", "alice (uid 1000)")  # fmt: skip
        assert command(rig, tmp_path, "list").stdout == "nothing is open\n"


def test_the_command_lists_ends_and_tells_what_is_wrong(rig: Rig, pod: TestRun, tmp_path: Path) -> None:
    done = command(rig, tmp_path, "node", "--for", "15m", "--reason", "drill", "-o", "json")
    assert json.loads(done.stdout)["until_ns"] == rig.kernel.broken_glass()[0]
    assert send(rig, pod, tcp(1000, 80, SYN), 4) == REDIRECT
    assert "the whole node until" in command(rig, tmp_path, "list").stdout
    assert "the whole node is open too" in command(rig, tmp_path, "endpoint", "2", "--end").stderr
    assert "policy counts again" in command(rig, tmp_path, "node", "--end", "--reason", "over").stdout
    assert send(rig, pod, tcp(1000, 80), 4) == SHOT
    assert "nothing was open" in command(rig, tmp_path, "node", "--end").stdout
    assert [entry and entry.deed for entry in book(tmp_path)] == [Deed.OPENED, Deed.ENDED]
    for status, words, arguments in (
        (1, "no endpoint '7' stands in the kernel", ("endpoint", "7", "--for", "1m", "--reason", "x")),
        (1, "no host policy filters it", ("endpoint", "host", "--for", "1m", "--reason", "x")),
        (2, "--for and --reason are needed", ("endpoint", "2")),
        (2, "at most 24h", ("endpoint", "2", "--for", "25h", "--reason", "x")),
        (2, "say why in one line", ("node", "--for", "1m", "--reason", "a\nb")),
        (2, "give the node's state folder", ("node", "--for", "1m", "--reason", "x", "--state-dir", "/nowhere")),
        (1, "give the node's pin directory", ("list", "--pins", f"{rig.pins}-none")),
    ):
        done = command(rig, tmp_path, *arguments)
        assert (done.returncode, words in done.stderr) == (status, True), done
    assert len(book(tmp_path)) == 2
    assert rig.kernel.broken_glass() == {}


def test_what_the_kernel_refuses_is_in_the_record_too(rig: Rig, pod: TestRun, tmp_path: Path) -> None:
    (tmp_path / "datapath").mkdir()
    with glass.pinned(rig.pins) as table:
        emergency = Emergency(table, tmp_path / "datapath", "alice (uid 1000)")
        with Path("/dev/null").open() as nothing:
            os.dup2(nothing.fileno(), table._table.fd, inheritable=False)
        with pytest.raises(KernelError, match="break_glass refused"):
            emergency.open(2, "", 60, "x")
    assert [entry and entry.deed for entry in book(tmp_path)] == [Deed.OPENED, Deed.FAILED]


def test_ended_rows_go_and_nothing_opens_without_a_record(rig: Rig, pod: TestRun, tmp_path: Path) -> None:
    rows(rig, {1: PAST_NS, HOST_ENDPOINT: PAST_NS})
    (tmp_path / "datapath" / glassbook.FILE).mkdir(parents=True)  # cannot be written
    done = command(rig, tmp_path, "endpoint", "2", "--for", "1m", "--reason", "x")
    assert (done.returncode, "without a record nothing is opened" in done.stderr) == (1, True), done
    assert rig.kernel.broken_glass().keys() == {1, HOST_ENDPOINT}
    (tmp_path / "datapath" / glassbook.FILE).rmdir()
    assert command(rig, tmp_path, "endpoint", "2", "--for", "1m", "--reason", "x").returncode == 0
    assert rig.kernel.broken_glass().keys() == {2}
