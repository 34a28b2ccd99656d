"""Two versions forth and back: maps change their shape under traffic, and nobody notices."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.datapath.kernel import abi, syscalls
from services.datapath.kernel.linux import LinuxKernel
from services.datapath.kernel.maps import create_map, open_any
from services.datapath.operations import KernelError, PolicyKey, PolicyValue
from services.datapath.reports import Event, EventKind
from tests.kernel import versions
from tests.kernel.rig import SMALL, Rig, new_rig, pod_address, run

pytestmark = pytest.mark.kernel

PORT, FRESH, FORBIDDEN = 8080, 8081, 9090
IDLE = 20


@pytest.fixture(scope="module")
def codes(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    if reason := versions.missing():
        pytest.skip(f"MIGRATION IS NOT TESTED: {reason}")
    here = {versions.CURRENT: versions.REPOSITORY}
    return here | {schema: versions.make(tmp_path_factory.mktemp(f"v{schema}"), schema) for schema in (1, 3, 4)}


@pytest.fixture
def fresh() -> Iterator[Rig]:
    """A node of its own, whose policies let replies pass by their flow only."""
    with new_rig() as rig:
        rig.policy(1, {PolicyKey(1002, PORT, 6, 1, 15): PolicyValue()})
        rig.policy(2, {PolicyKey(1001, PORT, 6, 0, 15): PolicyValue()})
        yield rig


class Traffic:
    """Idle connections, connections that talk, new ones, and ones that must not be."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.pairs = [self.connect(family) for family in (4, 6) for _ in range(IDLE)]
        self.failures: list[str] = []
        self.spoken = self.passed = self.opened = 0
        self._listeners = {family: rig.listen("2", FORBIDDEN + family, family) for family in (4, 6)}
        self._stop = threading.Event()
        busy = [self.connect(family) for family in (4, 6)]
        self._threads = [threading.Thread(target=self._talk, args=pair) for pair in busy]
        self._threads.append(threading.Thread(target=self._open))
        self._threads += [threading.Thread(target=self._knock, args=(family,)) for family in (4, 6)]
        for thread in self._threads:
            thread.start()

    def connect(self, family: int) -> tuple[socket.socket, socket.socket]:
        with self.rig.listen("2", PORT, family) as server:
            client = self.rig.socket_in("1", family=family)
            client.connect((pod_address(2, family), PORT))
            accepted, _ = server.accept()
        accepted.settimeout(3)
        return client, accepted

    def _talk(self, client: socket.socket, server: socket.socket) -> None:
        while not self._stop.is_set():
            try:
                server.sendall(b"x" * 64)  # the server speaks first: only the flow lets it
                client.recv(64)
                client.sendall(b"y")
                server.recv(1)
            except OSError as error:
                self.failures.append(str(error))
                return
            self.spoken += 1
            time.sleep(0.001)

    def _open(self) -> None:
        """Open connections all the time; in each the server speaks when a while has passed."""
        with self.rig.listen("2", FRESH) as listener:
            while not self._stop.is_set():
                with self.rig.socket_in("1") as client:
                    client.connect((pod_address(2, 4), FRESH))
                    server, _ = listener.accept()
                    with server:
                        time.sleep(0.02)
                        server.sendall(b"welcome")
                        if client.recv(64) != b"welcome":
                            self.failures.append("a new connection broke")
                        self.opened += 1

    def drops(self) -> list[Event]:
        """Return the reports of packets that belonged to connections from before."""
        ours = [event for event in self.rig.take_events() if event.kind is EventKind.DROP]
        return [event for event in ours if PORT in {event.sport, event.dport}]

    def _knock(self, family: int) -> None:
        while not self._stop.is_set():
            self.passed += self.rig.connects("1", pod_address(2, family), FORBIDDEN + family, wait_s=0.02)

    def idle_ones_answer(self) -> None:
        for client, server in self.pairs:
            server.sendall(b"still there?")
            client.settimeout(1)
            assert client.recv(64) == b"still there?"

    def end(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        for one in (*self._listeners.values(), *(end for pair in self.pairs for end in pair)):
            one.close()


@pytest.fixture
def traffic(fresh: Rig) -> Iterator[Traffic]:
    made = Traffic(fresh)
    try:
        yield made
    finally:
        made.end()


def old_pins(rig: Rig) -> list[str]:
    return [pin.name for pin in rig.pins.iterdir() if "_old_" in pin.name or pin.name.endswith("_new")]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("path", [(4, 2), (1, 3, 4, 3, 1, 2)])
def test_maps_change_their_shape_under_traffic(
    fresh: Rig, traffic: Traffic, codes: dict[int, Path], path: tuple[int, ...]
) -> None:
    standing = 2
    for schema in path:
        report = versions.start(codes[schema], fresh.pins)
        assert report == {"adopted": True, "migrated_from": standing, "endpoints": 2, "addresses": 2}
        assert versions.start(codes[schema], fresh.pins)["migrated_from"] == 0
        traffic.idle_ones_answer()
        assert traffic.connect(4)
        assert not old_pins(fresh)
        standing = schema
    spoken, opened = traffic.spoken, traffic.opened
    time.sleep(0.2)
    assert traffic.spoken > spoken
    assert traffic.opened > opened
    assert not traffic.drops()
    assert not traffic.failures
    assert not traffic.passed


def test_flow_table_is_carried_over_entry_by_entry(fresh: Rig, codes: dict[int, Path], traffic: Traffic) -> None:
    before = fresh.flows()
    versions.start(codes[3], fresh.pins)
    table = open_any(fresh.pins / "fairlead_conntrack", "conntrack")
    assert table is not None
    assert table.spec.value_bytes == abi.FLOW.size + 8
    flows = table.items()
    table.close()
    assert len(before) >= 2 * IDLE
    assert before.keys() <= flows.keys()
    who = slice(12, 16)  # the endpoints of both ends
    assert all(flows[key][who] == value[who] and flows[key][-8:] == bytes(8) for key, value in before.items())


def test_kill_at_any_point_is_finished_by_the_next_start(fresh: Rig, traffic: Traffic, codes: dict[int, Path]) -> None:
    """The process that moves the maps is killed after ever longer; whichever version comes next finishes."""
    for number, after_s in enumerate((0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.6, 0.8, 1.0, 1.5)):
        code = codes[(3, 1, 4, 2)[number % 4]]
        environment = os.environ | {"PYTHONPATH": str(code), "PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, "-c", versions.DRIVER, str(fresh.pins)]
        process = subprocess.Popen(
            command, env=environment, cwd=code, stdout=subprocess.DEVNULL, start_new_session=True
        )
        time.sleep(after_s)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        traffic.idle_ones_answer()
    assert versions.start(codes[2], fresh.pins)["endpoints"] == 2
    traffic.idle_ones_answer()
    assert not old_pins(fresh)
    assert not traffic.drops()
    assert not traffic.failures
    assert not traffic.passed


@pytest.mark.parametrize(("schema", "oldest_reader"), [(99, 0), (7, 3)])
def test_unknown_schema_is_refused_and_left_alone(fresh: Rig, schema: int, oldest_reader: int) -> None:
    fresh.kernel._tables.maps["abi"].put(struct.pack("=I", 0), abi.ABI.pack(schema, oldest_reader, bytes(32)))
    with pytest.raises(KernelError, match=f"schema {schema}"):
        LinuxKernel(fresh.pins, ("up0",), SMALL).start()
    assert not old_pins(fresh)


def test_unknown_shape_is_refused_before_anything_is_moved(fresh: Rig) -> None:
    """A flow table that could be moved, and beside it a map with other keys, which no program uses: neither is touched."""
    for device in ("up0", "fairlead_host", "fl00001", "fl00002"):
        run("tc", "qdisc", "del", "dev", device, "clsact")
    specs = abi.map_specs(4096, 4096)
    for name, spec in (
        ("conntrack", abi.MapSpec("lru_hash", specs["conntrack"].key_bytes, abi.FLOW.size + 8, 4096)),
        ("fragments", abi.MapSpec("lru_hash", 48, 8, 8192)),
    ):
        (fresh.pins / f"fairlead_{name}").unlink()
        create_map(fresh.pins / f"fairlead_{name}", name, spec).close()
    before = syscalls.map_info(syscalls.object_get(str(fresh.pins / "fairlead_conntrack")))
    with pytest.raises(KernelError, match="fragments has a shape"):
        LinuxKernel(fresh.pins, ("up0",), SMALL).start()
    assert syscalls.map_info(syscalls.object_get(str(fresh.pins / "fairlead_conntrack"))) == before
    assert not old_pins(fresh)


def test_start_has_flows_judged_anew_once(fresh: Rig, traffic: Traffic) -> None:
    """An entry that went without anybody telling the programs: the next start revokes, and what is still allowed goes on."""
    table = fresh.kernel._tables.policies.table(2)
    assert table is not None
    key = PolicyKey(1001, 7000, 6, 0)
    fresh.kernel.apply_policy(2, {key: PolicyValue()}, ())
    fresh.kernel.apply_policy(1, {PolicyKey(1002, 7000, 6, 1): PolicyValue()}, ())
    with fresh.listen("2", 7000) as listener, fresh.socket_in("1") as client:
        client.connect((pod_address(2, 4), 7000))
        server, _ = listener.accept()
        with server:
            table.delete(abi.pack_policy_key(key))
            server.sendall(b"still allowed")
            assert client.recv(64) == b"still allowed"
            fresh.kernel.start()
            server.sendall(b"no more")
            client.settimeout(0.5)
            with pytest.raises(TimeoutError):
                client.recv(64)
    traffic.idle_ones_answer()
    assert not traffic.drops()
    assert not traffic.failures
