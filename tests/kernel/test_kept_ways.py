"""The way that a flow keeps for 10 ms: off the node, or to another node's tunnel; never one in place of the other."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing

import pytest

from fairlead.address import Address, Prefix
from fairlead.schema.identity import REMOTE_NODE
from services.datapath.kernel import abi
from services.datapath.kernel.testrun import REDIRECT, SHOT
from services.datapath.kernel.tuning import Tuning
from services.datapath.kernel.twin.cases import Met, Origin, Tunnel
from services.datapath.kernel.twin.frames import ACK, RST, SYN
from services.datapath.operations import PolicyKey, PolicyValue
from services.datapath.overlay import Overlay
from services.datapath.reports import DropReason
from tests.kernel.packets import frame, tcp
from tests.kernel.rig import FAR, NODE, Rig, new_rig, pod_address, run
from tests.support.tunnelled import Tunnelled

pytestmark = pytest.mark.kernel
BEYOND = {4: "10.7.1.5", 6: "fd07:1::5"}
SENDER = Address("192.0.2.3")
PEER, SERVED, ASKED = 2001, 80, 3000


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    overlay = Overlay("vxlan", tuple(Address(address) for address in NODE.values()))
    with new_rig(Tuning(flows=65_536, addresses=4096), overlay) as made:
        for address in FAR.values():
            run("ip", "neigh", "replace", address, "lladdr", "02:00:00:00:00:77", "dev", "up0", "nud", "permanent")
        made.kernel.apply_addresses({Prefix(SENDER): REMOTE_NODE}, ())
        made.policy(1, {PolicyKey(0, 0, 0, direction): PolicyValue() for direction in (0, 1)})
        yield made


@pytest.mark.parametrize("family", [4, 6])
def test_the_way_off_the_node_is_never_taken_for_a_node_of_a_tunnel(rig: Rig, family: int) -> None:
    """A flow came by a tunnel and was reset; its prefix has no tunnel; what a pod says then leaves by the network, and is no flow."""
    device = socket.if_nametoindex("fairlead_vxlan")
    by_tunnel = Met(Origin.OVERLAY, device, device, tunnel=Tunnel(abi.pack_address(SENDER), PEER))
    of_pod = Met(Origin.POD, rig.plugged[1].ifindex)
    pod, far = pod_address(1, family), BEYOND[family]
    with closing(Tunnelled(rig.pins)) as programs:

        def says(flags: int) -> tuple[int, Tunnel | None]:
            action, _, taken = programs.run(frame(tcp(SERVED, ASKED, flags), pod, far), of_pod)
            return action, taken

        assert programs.run(frame(tcp(ASKED, SERVED, SYN), far, pod), by_tunnel)[0] == REDIRECT
        assert says(RST | ACK) == (SHOT, None), "there is no way back"
        assert says(SYN | RST) == (REDIRECT, None), (
            "which leaves by the network, and keeps its way where it finds a flow"
        )
        rig.take_events()
        assert says(RST | ACK) == (SHOT, None)
        assert [event.reason for event in rig.take_events()] == [DropReason.NO_TUNNEL]
