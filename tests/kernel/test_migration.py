"""Two versions forth and back: maps change their shape under traffic, and nobody notices."""

from __future__ import annotations

import contextlib
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.datapath.kernel import abi, syscalls
from services.datapath.kernel.linux import LinuxKernel
from services.datapath.kernel.maps import create_map, open_any
from services.datapath.kernel.tuning import Tuning
from services.datapath.operations import KernelError, PolicyKey, PolicyValue
from tests.kernel import versions
from tests.kernel.conversations import IDLE, PORT, Traffic
from tests.kernel.rig import Rig, new_rig, pod_address, run

pytestmark = pytest.mark.kernel

DYING = (
    """
import os, signal, sys
from services.datapath.kernel import linux, migration
step, left = sys.argv[2], int(sys.argv[3])
owner = {"_attach": linux.LinuxKernel, "carry_over": migration.Migration, "_add_missing": migration}[step]
real = getattr(owner, step)
def dying(*values, **options):
    global left
    real(*values, **options)
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
setattr(owner, step, dying)
"""
    + versions.DRIVER
)
INSTANTS = ((3, "_attach", 3), (4, "_attach", 4), (3, "_add_missing", 1), (4, "carry_over", 1), (2, "_attach", 7))
"""Which version dies after which step of its start, done so often: four devices get the programs that go between first, then those for good."""


@pytest.fixture(scope="module")
def codes(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    if reason := versions.missing():
        pytest.skip(f"MIGRATION IS NOT TESTED: {reason}")
    here = {versions.CURRENT: versions.REPOSITORY}
    return here | {schema: versions.make(tmp_path_factory.mktemp(f"v{schema}"), schema) for schema in (1, 3, 4)}


@pytest.fixture
def fresh() -> Iterator[Rig]:
    """A node of its own, whose policies let replies pass by their flow only."""
    with new_rig(versions.TUNING) as rig:
        rig.policy(1, {PolicyKey(1002, PORT, 6, 1, 13): PolicyValue()})
        rig.policy(2, {PolicyKey(1001, PORT, 6, 0, 13): PolicyValue()})
        yield rig


@pytest.fixture
def traffic(fresh: Rig) -> Iterator[Traffic]:
    made = Traffic(fresh)
    try:
        yield made
    finally:
        made.end()


def old_pins(rig: Rig) -> list[str]:
    ends = ("_new", "_between", "_move", "_moved_row")
    return [pin.name for pin in rig.pins.iterdir() if "_old_" in pin.name or pin.name.endswith(ends)]


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
        # the code of schema 1 attaches programs that know one table each: what begins meanwhile may have to be repeated
        assert not traffic.drops(*([PORT] if schema == 1 else []))
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
    assert not traffic.drops(PORT)
    assert not traffic.failures
    assert not traffic.passed


@pytest.mark.timeout(300)
def test_a_move_that_stands_still_at_any_point_costs_no_packet(
    fresh: Rig, traffic: Traffic, codes: dict[int, Path]
) -> None:
    """Between any two steps of a move the programs of both versions serve the node together for as long as it takes."""
    for schema, step, times in INSTANTS:
        command = [sys.executable, "-c", DYING, str(fresh.pins), step, str(times)]
        environment = os.environ | {"PYTHONPATH": str(codes[schema]), "PYTHONDONTWRITEBYTECODE": "1"}
        died = subprocess.run(command, env=environment, cwd=codes[schema], capture_output=True, text=True, check=False)
        assert died.returncode == -signal.SIGKILL, died.stderr
        opened = traffic.opened
        deadline_s = time.monotonic() + 30
        while traffic.opened < opened + 30 and time.monotonic() < deadline_s:
            time.sleep(0.01)
        traffic.idle_ones_answer()
        assert not traffic.drops(), (schema, step, times)
    assert versions.start(codes[2], fresh.pins)["endpoints"] == 2
    traffic.idle_ones_answer()
    assert not old_pins(fresh)
    assert not traffic.drops()
    assert not traffic.failures
    assert not traffic.passed


def test_tables_grow_under_traffic(fresh: Rig, traffic: Traffic) -> None:
    """The same version with more places for flows and outer ends."""
    fresh.kernel.stop()
    grown = LinuxKernel(fresh.pins, ("up0",), Tuning(flows=131_072, addresses=4096, masquerades=131_072))
    assert grown.start().migrated_from == versions.CURRENT
    sizes = [grown._tables.maps[name].spec.entries for name in ("conntrack", "masquerade")]
    grown.stop()
    fresh.kernel.start()
    assert sizes == [131_072, 131_072]
    traffic.idle_ones_answer()
    assert not old_pins(fresh)
    assert not traffic.drops()
    assert not traffic.failures


@pytest.mark.parametrize(("schema", "oldest_reader"), [(99, 0), (7, 3)])
def test_unknown_schema_is_refused_and_left_alone(fresh: Rig, schema: int, oldest_reader: int) -> None:
    fresh.kernel._tables.maps["abi"].put(struct.pack("=I", 0), abi.ABI.pack(schema, oldest_reader, bytes(32)))
    with pytest.raises(KernelError, match=f"schema {schema}"):
        LinuxKernel(fresh.pins, ("up0",), versions.TUNING).start()
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
        LinuxKernel(fresh.pins, ("up0",), versions.TUNING).start()
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
