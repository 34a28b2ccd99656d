"""The recipes that operators know work verbatim: bpftool on the pinned map, etcdctl in the documented schema."""

from __future__ import annotations

import json
import struct

from tests.lab.lab import Done, execute
from tests.lab.network import run as run_now
from tests.lab.probes import closes, knock, opens
from tests.lab.programs import CLUSTER
from tests.lab.steps.story import Story

TITLE = "bpftool and etcdctl recipes"
ADDRESS = "10.10.0.150"
_NUMBER = 4711
_TCP = 6
_WITHIN_S = 10.0


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
    found = next((line for line in dump.out.splitlines() if key in line), "")
    story.report.check(
        f"`bpftool map dump pinned {pin}` shows the employee's entry, key {key}",
        " ".join(found.split()) or f"not found: {dump.said}",
        ok=bool(found),
    )


async def _etcdctl(story: Story) -> None:
    lab, database = story.lab, story.lab.address("protected-db")
    run_now(["nsenter", f"--net={lab.topology.path('vm-1')}", "ip", "address", "add", f"{ADDRESS}/24", "dev", "eth0"])
    before = await knock(lab, "vm-1", database, local=ADDRESS)
    labels = f"k8s:app=employee;k8s:io.cilium.k8s.policy.cluster={CLUSTER};k8s:io.kubernetes.pod.namespace=default;"
    value = {"IP": ADDRESS, "Mask": None, "HostIP": "", "ID": _NUMBER, "Key": 0, "Metadata": "", "K8sNamespace": "", "K8sPodName": ""}  # fmt: skip
    await _etcd(story, "put", f"cilium/state/identities/v1/id/{_NUMBER}", labels)
    await _etcd(story, "put", f"cilium/state/ip/v1/{CLUSTER}/{ADDRESS}", json.dumps(value))
    seen = await opens(lab, "vm-1", database, within_s=_WITHIN_S, local=ADDRESS)
    story.report.check(
        f"identity {_NUMBER} and address {ADDRESS} put with etcdctl: the address is admitted",
        f"{'PONG' if before else 'refused'} before, {'PONG' if seen.ok else 'refused'} {seen.elapsed_ms:.0f} ms after",
        ok=seen.ok and not before,
    )
    await _etcd(story, "del", f"cilium/state/ip/v1/{CLUSTER}/{ADDRESS}")
    gone = await closes(lab, "vm-1", database, within_s=_WITHIN_S, local=ADDRESS)
    story.report.check(
        "the address removed with etcdctl: refused again", "refused" if gone.ok else "still PONG", ok=gone.ok
    )


async def _etcd(story: Story, *words: str) -> Done:
    done = await story.lab.run("ctl", "env", "ETCDCTL_API=3", "etcdctl", *words)
    story.report.note(f"etcdctl {' '.join(words)}: {done.said}")
    return done
