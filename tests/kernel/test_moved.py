"""A far end that a container engine moves into its own namespace."""

from __future__ import annotations

import subprocess

import pytest

from fairlead.address import Address
from services.datapath.operations import EndpointEntry, Link, PolicyValue
from tests.kernel.rig import ALLOW_IN, ALLOW_OUT, FAR, Rig, run

pytestmark = pytest.mark.kernel


def test_a_far_end_left_in_the_node_works_wherever_it_is_moved(rig: Rig) -> None:
    link = Link(3, "", "flp3", (Address("10.7.0.3"),), 1400)
    plugged = rig.kernel.plug(link)
    netns, pod = rig.netns("1"), "flmoved"
    try:
        # what a container engine does: move, rename, address, route
        run("ip", "link", "set", "flp3", "netns", netns, "name", pod)
        inside = ("nsenter", f"--net={netns}", "ip")
        run(*inside, "addr", "add", "10.7.0.3/32", "dev", pod)
        run(*inside, "link", "set", pod, "up")
        assert "mtu 1400" in run(*inside, "link", "show", pod)
        assert plugged.pod_mac.hex(":") in run(*inside, "link", "show", pod)
        assert rig.kernel.plug(link) == plugged
        rig.plugged[3] = plugged
        entry = EndpointEntry(3, plugged.ifindex, 1003, plugged.host_mac, plugged.pod_mac, link.addresses, held=False)
        rig.kernel.put_endpoint(entry)
        rig.policy(3, {ALLOW_IN: PolicyValue(), ALLOW_OUT: PolicyValue()})
        run(*inside, "route", "add", "192.0.2.2/32", "dev", pod, "src", "10.7.0.3")
        assert subprocess.run([*inside[:2], "ping", "-c1", "-W1", "-I", pod, FAR[4]], check=False).returncode == 0
    finally:
        rig.kernel.delete_endpoint(3)
        rig.kernel.unplug(3)
    assert pod not in run(*inside, "link", "show")
