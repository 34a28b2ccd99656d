"""What a killed process leaves, and what the next one makes of it, under traffic."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from services.datapath.kernel import devices, links, netlink
from services.datapath.kernel.linux import LinuxKernel
from services.datapath.operations import KernelError
from tests.kernel.rig import ALLOW_IN, ALLOW_OUT, SMALL, Rig, new_rig, pod_address, run

pytestmark = pytest.mark.kernel

CHILD = """
import sys
from pathlib import Path
from services.datapath.kernel.linux import LinuxKernel
from tests.kernel.rig import SMALL
kernel = LinuxKernel(Path(sys.argv[1]), ("up0",), SMALL)
kernel.start()
print("started", flush=True)
sys.stdin.read()
"""


class Stream:
    """A connection between two pods that is never silent, and a new connection every few milliseconds."""

    def __init__(self, rig: Rig) -> None:
        self._rig, self._stop = rig, threading.Event()
        self.failed, self.made = 0, 0
        self._listening = rig.listen("2", 7100)
        self._client = rig.socket_in("1")
        self._client.connect((pod_address(2, 4), 7100))
        self._server, _ = self._listening.accept()
        # sockets must be born in the pod's namespace, which only a thread of its own may stay in
        self._threads = [threading.Thread(target=self._pump), threading.Thread(target=self._connect)]

    def __enter__(self) -> Stream:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        for each in (self._client, self._server, self._listening):
            each.close()

    def _pump(self) -> None:
        while not self._stop.is_set():
            self._client.sendall(b"x" * 100)
            assert self._server.recv(1000)
            time.sleep(0.001)

    def _connect(self) -> None:
        while not self._stop.is_set():
            if self._rig.connects("1", pod_address(2, 4), 7100, wait_s=0.8):
                self.made += 1
            else:
                self.failed += 1
            self._listening.accept()[0].close()
            time.sleep(0.005)


def test_killed_process_is_survived_and_adopted_under_traffic() -> None:
    with new_rig() as rig:
        rig.kernel.stop()
        with Stream(rig) as stream:
            for _ in range(2):
                child = subprocess.Popen(
                    [sys.executable, "-c", CHILD, str(rig.pins)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
                )
                assert child.stdout is not None
                assert child.stdin is not None
                assert child.stdout.readline() == b"started\n"
                child.send_signal(signal.SIGKILL)
                child.wait()
                child.stdin.close()
                child.stdout.close()
                made = stream.made
                time.sleep(0.3)
                assert stream.made > made
            report = rig.kernel.start()
        assert (report.adopted, report.compile_s) == (True, 0.0)
        assert stream.failed == 0
        assert set(rig.kernel.endpoints()) == {1, 2}
        assert rig.kernel.policy(1).keys() == {ALLOW_IN, ALLOW_OUT}


def test_changed_programs_replace_the_old_ones_under_traffic() -> None:
    with new_rig() as rig:
        before = links.attached(rig.kernel._wire, rig.plugged[1].ifindex, links.INGRESS)
        rig.kernel._tables.set_version(b"\1" * 32)
        with Stream(rig) as stream:
            rig.kernel.stop()
            report = rig.kernel.start()
            time.sleep(0.2)
        assert report.adopted
        assert report.compile_s > 0
        after = links.attached(rig.kernel._wire, rig.plugged[1].ifindex, links.INGRESS)
        assert before is not None
        assert after is not None
        assert after.program_id != before.program_id
        assert stream.failed == 0
        assert stream.made > 10


def test_other_schema_is_refused_in_words() -> None:
    with new_rig() as rig:
        table = rig.kernel._tables.maps["abi"]
        table.put(bytes(4), b"\x63" + bytes(39))
        other = LinuxKernel(rig.pins, ("up0",), SMALL)
        with pytest.raises(KernelError, match="schema 99"):
            other.start()
        other.stop()
        assert rig.ping("1", pod_address(2, 4))


def test_missing_uplink_is_named() -> None:
    with new_rig() as rig:
        other = LinuxKernel(rig.pins, ("up0", "up7"), SMALL)
        with pytest.raises(KernelError, match="uplink up7 does not exist"):
            other.start()
        other.stop()
    with pytest.raises(KernelError, match="cannot be an uplink"):
        LinuxKernel(Path("/sys/fs/bpf/x"), ("fl00001",))


def test_destroy_leaves_nothing() -> None:
    with new_rig() as rig:
        pins = rig.pins
        rig.kernel.destroy()
        assert not pins.exists()
        with closing(netlink.Netlink()) as wire:
            names = [device.name for device in devices.all_devices(wire)]
        assert sorted(names) == ["lo", "up0"]
        assert run("tc", "qdisc", "show", "dev", "up0").count("clsact") == 0
        assert "2047" not in run("ip", "rule") + run("ip", "-6", "rule")
        assert not run("ip", "route", "show", "table", "all").count("2047")
        rig.kernel.start()
        assert rig.kernel.endpoints() == {}
