"""The ways off a node of tests: an uplink to nobody, and where a frame has gone by what it looks like."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping

from services.datapath.kernel.testrun import OK
from services.datapath.kernel.twin.cases import Action


def add_uplink(node: str, addresses: Mapping[str, str]) -> None:
    """Give the node addresses on an uplink on which nobody answers, and the way to everybody else."""
    commands = ["link add up0 type veth peer name far0", "link set up0 up", "link set far0 up"]
    for address, gateway in addresses.items():
        known = f"{gateway} lladdr 02:00:00:00:00:77 dev up0 nud permanent"
        bits = "24 dev up0" if "." in address else "64 dev up0 nodad"
        commands += [f"addr add {address}/{bits}", f"route add default via {gateway}", f"neigh replace {known}"]
    for command in commands:
        subprocess.run(["nsenter", f"--net={node}", "ip", *command.split()], check=True)


def way_of(frame: bytes, action: int, packet: bytes, pods: list[bytes]) -> Action:
    """Return where a packet goes that passes, by what it looks like."""
    if action == OK:
        return Action.UNTOUCHED
    if packet[:6] == frame[6:12]:
        return Action.ANSWERED
    if packet == frame:
        return Action.STACK
    return Action.ENDPOINT if packet[:12] in pods else Action.NETWORK


def carried(netns: str) -> None:
    """Wait until the stack has noticed that the devices of the namespace have a carrier: a moment after they were plugged, and it drops till then."""
    deadline_s = time.monotonic() + 5
    while time.monotonic() < deadline_s:
        said = subprocess.run(
            ["ip", "-n", netns, "-o", "link", "show", "up"], check=True, capture_output=True, text=True
        )
        if "state DOWN" not in said.stdout and "LOWERLAYERDOWN" not in said.stdout:
            return
        time.sleep(0.01)
