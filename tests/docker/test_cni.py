"""The CNI plugin as a runtime calls it: a process per call, real namespaces, real services."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.docker.host import NODE, Host, until
from tests.kernel.rig import run

pytestmark = [pytest.mark.docker, pytest.mark.timeout(300)]

_NAMES = ("c1", "c2", "c3", "c4")


@pytest.fixture
def pods(host: Host) -> Iterator[None]:
    for name in _NAMES:
        run("ip", "netns", "add", host.name + name)
    yield
    for name in _NAMES:
        run("ip", "netns", "del", host.name + name)


def _call(host: Host, command: str, name: str = "", **config: Any) -> tuple[int, Any]:
    """Return exit status and answer of one call."""
    text = {"cniVersion": "1.1.0", "name": "net", "node": NODE, "nats": host.leaf.url, **config}
    environ = {"CNI_COMMAND": command, "CNI_CONTAINERID": name, "CNI_IFNAME": "eth0"}
    environ["CNI_NETNS"] = f"/run/netns/{host.name}{name}"
    done = subprocess.run(
        [sys.executable, "-m", "clients.cni"],
        input=json.dumps(text).encode(),
        capture_output=True,
        check=False,
        env={**os.environ, **environ},
        timeout=60,
    )
    return done.returncode, json.loads(done.stdout) if done.stdout else done.stderr.decode()


def _ping(host: Host, name: str, address: str) -> bool:
    command = ("nsenter", f"--net=/run/netns/{host.name}{name}", "ping", "-c1", "-W1", "-q", address)
    return subprocess.run(command, capture_output=True, check=False, timeout=10).returncode == 0


def test_a_runtimes_calls_at_once_repeated_and_collected(host: Host, pods: None) -> None:
    assert _call(host, "STATUS") == (0, "")
    with ThreadPoolExecutor(4) as pool:
        added = dict(
            zip(_NAMES, pool.map(lambda name: _call(host, "ADD", name, labels={"app": "cni"}), _NAMES), strict=True)
        )
    assert [status for status, _ in added.values()] == [0] * 4, added
    for family in (0, 1):
        address = added["c2"][1]["ips"][family]["address"].partition("/")[0]
        until(lambda address=address: _ping(host, "c1", address), what=f"{address} to answer")  # type: ignore[misc] # bound now
    assert _call(host, "CHECK", "c1", prevResult=added["c1"][1]) == (0, "")
    assert [_call(host, "DEL", "c1"), _call(host, "DEL", "c1")] == [(0, ""), (0, "")]
    assert _call(host, "CHECK", "c1")[1]["code"] == 3
    valid: dict[str, Any] = {"cni.dev/valid-attachments": [{"containerID": "c2", "ifname": "eth0"}]}
    assert _call(host, "GC", **valid) == (0, "")
    assert _call(host, "CHECK", "c2") == (0, "")
    assert _call(host, "CHECK", "c3")[1]["code"] == 3
    valid["cni.dev/valid-attachments"] = []
    assert _call(host, "GC", **valid) == (0, "")
