"""SIGKILLs amid upgrades and downgrades of the maps' schema, under the same traffic; what is killed changes policies and endpoints too."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from random import Random

from fairlead.address import Address
from services.datapath.kernel import pins
from services.datapath.operations import EndpointEntry, Link, PolicyKey, PolicyValue
from tests.kernel import versions
from tests.kernel.rig import ALLOW_OUT, Rig, new_rig, pod_address, run
from tests.restart.story import Figures

SCHEMAS = (1, versions.CURRENT, 3, 4)
_WHOLE_STARTS, _COMPILED, _START_S = 0.3, 0.4, 60.0
"""How many of the starts are let finish before the kill, how many until they have compiled, when the move begins; and how long one may take."""
_LAST_COMPILED = "fairlead_from_host"
"""A program of every version, whose pin is replaced late in compiling."""
STRANGER, OTHER = 3, 4
_LEFT = ("_old_", "_new", "_again", "_between", "_move")

CHANGER = """
import itertools, sys
from pathlib import Path
from random import Random
from fairlead.address import Address
from services.datapath.kernel.linux import LinuxKernel, Tuning
from services.datapath.operations import EndpointEntry, Link, PolicyKey, PolicyValue
pins, netns, seed = sys.argv[1:]
random = Random(int(seed))
kernel = LinuxKernel(Path(pins), ("up0",), Tuning(flows=65536, addresses=4096))
print("moved from", kernel.start().migrated_from, flush=True)
link = Link(4, netns, "eth0", (Address("10.7.0.4"), Address("fd07::4")), 0)
for number in itertools.count(1):
    more = {PolicyKey(5000 + n, 80, 6, 0): PolicyValue() for n in range(random.randrange(200))}
    more |= {PolicyKey(1001, 0, protocol, 0): PolicyValue(precedence=number % 3) for protocol in (6, 17)}
    known = kernel.policy(2)
    kernel.apply_policy(2, more, [key for key in known if key not in more])
    if random.random() < 0.5:
        plugged = kernel.plug(link)
        where = plugged.ifindex, 1004, plugged.host_mac, plugged.pod_mac
        kernel.put_endpoint(EndpointEntry(4, *where, link.addresses, held=False))
    else:
        kernel.unplug(4)
"""


def _prepare(rig: Rig) -> None:
    """Client 1 and the stranger may send everything; server 2 lets the client in and begins nothing."""
    link = Link(STRANGER, rig.netns("3"), "eth0", tuple(Address(pod_address(STRANGER, family)) for family in (4, 6)), 0)
    plugged = rig.kernel.plug(link)
    where = plugged.ifindex, 1003, plugged.host_mac, plugged.pod_mac
    rig.kernel.put_endpoint(EndpointEntry(STRANGER, *where, link.addresses, held=False))
    for endpoint in (1, STRANGER):
        rig.policy(endpoint, {ALLOW_OUT: PolicyValue()})
    rig.policy(2, {PolicyKey(1001, 0, protocol, 0): PolicyValue() for protocol in (6, 17)})


@contextmanager
def _stage() -> Iterator[tuple[Rig, subprocess.Popen[str]]]:
    """Build the node and have the traffic run; no process holds its datapath."""
    with new_rig() as rig, ExitStack() as stack:
        for which in ("3", "4"):
            run("ip", "netns", "add", rig.name + which)
            stack.callback(run, "ip", "netns", "del", rig.name + which)
        _prepare(rig)
        program = Path(__file__).with_name("traffic.py")
        ends = [rig.netns(which) for which in ("1", "2", "3")] + [pod_address(2, family) for family in (4, 6)]
        traffic = subprocess.Popen([sys.executable, str(program), *ends], stdout=subprocess.PIPE, text=True)
        stack.callback(traffic.wait)
        stack.callback(traffic.kill)
        assert traffic.stdout is not None
        assert traffic.stdout.readline() == "ready\n", "the traffic does not begin: see its errors above"
        yield rig, traffic


def _starts(log: Path) -> list[int]:
    """Return of which schema the maps were that the finished starts found; 0: of their own."""
    lines = log.read_text().splitlines() if log.exists() else []
    return [int(line.split()[-1]) for line in lines if line.startswith("moved from")]


def _inode(pin: Path) -> int:
    return pin.stat().st_ino if pin.exists() else 0


def _wait_for_start(log: Path, starts: int, process: subprocess.Popen[bytes], pin: Path | None = None) -> None:
    """Wait until the start is over, or until it has put another program under the name of this pin."""
    before, deadline = pin and _inode(pin), time.monotonic() + _START_S
    while len(_starts(log)) < starts and process.poll() is None and (pin and _inode(pin)) == before:
        assert time.monotonic() < deadline, f"a start took more than {_START_S} s:\n{log.read_text()[-3000:]}"
        time.sleep(0.01)


def _live_and_die(rig: Rig, code: Path, log: Path, random: Random, longest_s: float) -> None:
    """Have one version take over the node, change things, and be killed at a random instant."""
    begun = len(_starts(log))
    environment = os.environ | {"PYTHONPATH": str(code), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", CHANGER, str(rig.pins), rig.netns("4"), str(random.randrange(1 << 30))]
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, env=environment, cwd=code, stdout=output, stderr=output, start_new_session=True
        )
    try:
        chance = random.random()
        if chance < _WHOLE_STARTS + _COMPILED:
            _wait_for_start(log, begun + 1, process, None if chance < _WHOLE_STARTS else rig.pins / _LAST_COMPILED)
            time.sleep(random.uniform(0, 0.3))
        else:
            time.sleep(random.uniform(0.1, longest_s))
        ended = process.poll()
    finally:
        # the compiler that it may have begun dies with it
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert ended is None, f"{code} ended by itself:\n{log.read_text()[-3000:]}"


class FormerMoves:
    """From when to when code moved the maps that is not this one's, and of which a connection may be late: what it left half done included."""

    def __init__(self, rig: Rig) -> None:
        self._rig, self._since_s = rig, math.inf
        self.times_s: list[tuple[float, float]] = []

    def lived(self, schema: int, began_s: float) -> None:
        """Note the end of a life of code of that schema."""
        if schema in versions.FORMER:
            self._since_s = min(self._since_s, began_s)
        if self._since_s < math.inf and not self._is_split():
            self.times_s.append((self._since_s, time.monotonic()))
            self._since_s = math.inf

    def _is_split(self) -> bool:
        """Tell whether there are programs on this node that share no flow table."""
        programs = pins.all_attached(self._rig.kernel._wire, ("up0",))
        return not set[int].intersection(*(pins.maps_of(program)["conntrack"] for program in programs))


def run_kills(kills: int, seed: int, seconds: float = 900) -> Figures:
    """Kill that many processes of random versions, or as many as the time allows, finish with this one, and return what became of the packets."""
    figures, random = Figures(), Random(seed)
    with tempfile.TemporaryDirectory(prefix="fairlead-versions-") as folder, _stage() as (rig, traffic):
        codes = {versions.CURRENT: versions.REPOSITORY}
        for schema in set(SCHEMAS) - codes.keys():
            code = Path(folder) / f"v{schema}"
            code.mkdir()
            codes[schema] = versions.make(code, schema)
        began_s, log, former = time.monotonic(), Path(folder) / "log", FormerMoves(rig)
        versions.start(codes[3], rig.pins)
        # how long a move takes here and now: kills shall fall on all of it
        longest_s = 1.2 * (time.monotonic() - began_s)
        while figures.kills < kills and time.monotonic() - began_s < seconds:
            schema, life_began_s = random.choice(SCHEMAS), time.monotonic()
            _live_and_die(rig, codes[schema], log, random, longest_s)
            former.lived(schema, life_began_s)
            figures.kills += 1
        begun = _starts(log)
        figures.starts, figures.moves = len(begun), len([schema for schema in begun if schema])
        report = versions.start(versions.REPOSITORY, rig.pins)
        former.lived(versions.CURRENT, time.monotonic())
        if report["endpoints"] not in {3, 4}:
            figures.problems.append(f"the last start found {report}")
        figures.problems += [f"left behind: {pin.name}" for pin in rig.pins.iterdir() if _is_left(pin.name)]
        traffic.terminate()
        text, _ = traffic.communicate(timeout=20)
        figures.take_in(json.loads(text), former.times_s)
    return figures


def _is_left(name: str) -> bool:
    return any(word in name for word in _LEFT)
