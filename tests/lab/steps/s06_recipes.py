"""The recipes that operators know work verbatim: bpftool on the pinned map, etcdctl in the documented schema."""

from __future__ import annotations

import json
import re
import struct
import time

from tests.lab.lab import Done, execute
from tests.lab.network import run as run_now
from tests.lab.probes import Knocking
from tests.lab.programs import CLUSTER
from tests.lab.steps.story import Story

TITLE = "bpftool and etcdctl recipes"
_ADDRESS_BY_FAMILY = {4: ("10.10.0.150", ()), 6: ("fd00:10::150", ("nodad", "preferred_lft", "0"))}
"""The machine's second address. The IPv6 one is deprecated: what is not bound to it must not speak from it."""
_NUMBER = 4711
_TCP = 6


async def run(story: Story) -> None:
    """Read the map with bpftool, admit an address with etcdctl."""
    await _bpftool(story)
    await _etcdctl(story)


def key_bytes(identity: int, port: int, protocol: int, direction: int) -> str:
    """Return a policy map's key as bpftool prints it: identity in host order, port in network order."""
    packed = struct.pack("=I", identity) + struct.pack("!H", port) + bytes((protocol, direction))
    return packed.hex(" ")


async def _bpftool(story: Story) -> None:
    pin = (await story.policy_map("protected-db", "n2")).pin
    key = key_bytes(story.identity("employee-1"), 6379, _TCP, 0)
    dump = await execute(["bpftool", "map", "dump", "pinned", pin], "", 10)
    text = " ".join(dump.out.split())
    found = re.search(f"key: {key} value: ((?:[0-9a-f]{{2}} ){{23}}[0-9a-f]{{2}})", text)
    story.report.check(
        f"`bpftool map dump pinned {pin}` shows the employee's entry, key {key}, no deny flag in its value",
        f"value {found[1]}" if found else f"not found in {text[:200]}",
        ok=found is not None and found[1].split()[2] == "00",
    )


async def _etcdctl(story: Story) -> None:
    lab, database = story.lab, story.lab.address("protected-db")
    address, manner = _ADDRESS_BY_FAMILY[lab.topology.ways.family]
    length = 64 if ":" in address else 24
    add = ["ip", "address", "add", f"{address}/{length}", "dev", "eth0", *manner]
    run_now(["nsenter", f"--net={lab.topology.path('vm-1')}", *add])
    labels = f"k8s:app=employee;k8s:io.cilium.k8s.policy.cluster={CLUSTER};k8s:io.kubernetes.pod.namespace=default;"
    value = {"IP": address, "Mask": None, "HostIP": "", "ID": _NUMBER, "Key": 0, "Metadata": "", "K8sNamespace": "", "K8sPodName": ""}  # fmt: skip
    key = f"cilium/state/ip/v1/{CLUSTER}/{address}"
    async with Knocking(lab, "vm-1", database, local=address) as knocking:
        outside_ms = await knocking.turned(answered=False, after_s=time.monotonic())
        await _etcd(story, "put", f"cilium/state/identities/v1/id/{_NUMBER}", labels)
        put_s = time.monotonic()
        await _etcd(story, "put", key, json.dumps(value))
        came_ms = await knocking.turned(answered=True, after_s=put_s)
        story.report.check(
            f"identity {_NUMBER} and address {address} put with etcdctl: the address is admitted",
            f"refused before, {'still refused' if came_ms is None else f'PONG {came_ms:.0f} ms after etcdctl began'}",
            ok=came_ms is not None and outside_ms is not None,
        )
        deleted_s = time.monotonic()
        await _etcd(story, "del", key)
        went_ms = await knocking.turned(answered=False, after_s=deleted_s)
        story.report.check(
            "the address removed with etcdctl: refused again",
            "still PONG" if went_ms is None else f"refused {went_ms:.0f} ms after etcdctl began",
            ok=went_ms is not None,
        )


async def _etcd(story: Story, *words: str) -> Done:
    done = await story.lab.etcdctl(*words)
    story.report.note(f"etcdctl {' '.join(words)}: {done.said}")
    return done
