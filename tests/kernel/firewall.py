"""A node under a host policy, and what one sends to it."""

from __future__ import annotations

from services.datapath.failsafe import HOST_ENDPOINT, FailsafePort, HostEntry
from services.datapath.operations import PolicyKey, PolicyValue
from tests.kernel.packets import TCP, Transport, frame
from tests.kernel.rig import FAR, NODE, Rig, pod_address

IN, OUT, UDP = 0, 1, 17
SSH, DNS = FailsafePort(IN, TCP, 22), FailsafePort(OUT, UDP, 53)


def protect(rig: Rig, rows: dict[PolicyKey, PolicyValue]) -> None:
    """Have the node filtered by just these rows."""
    rig.policy(HOST_ENDPOINT, rows)
    rig.kernel.put_host(
        HostEntry(rig.kernel.own_addresses(), frozenset((SSH, DNS)), ingress_default_deny=50, egress_default_deny=51)
    )


class Wires:
    """The programs, and what one sends by them."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.programs = {name: rig.program(name) for name in ("from_pod", "from_network", "from_host", "to_uplink")}

    def _run(self, name: str, packet: bytes, ifindex: int = 0, ingress: int = 0) -> int:
        return self.programs[name].run(packet, ifindex, ingress_ifindex=ingress).action

    def arrives(self, body: Transport, family: int, **more: str) -> int:
        """Send from the network to the node."""
        source, destination = more.get("source", FAR[family]), more.get("destination", NODE[family])
        return self._run("from_network", frame(body, source, destination))

    def leaves(self, body: Transport, family: int, *, came_by: int = 0, **more: str) -> int:
        """Have the node send to the network; `came_by`: it forwards for somebody."""
        source, destination = more.get("source", NODE[family]), more.get("destination", FAR[family])
        return self._run("to_uplink", frame(body, source, destination), ingress=came_by)

    def pod_sends(self, body: Transport, family: int) -> int:
        """Send from a pod to the node."""
        return self._run("from_pod", frame(body, pod_address(1, family), NODE[family]), self.rig.plugged[1].ifindex)

    def pod_gets(self, body: Transport, family: int, *, came_by: int = 0) -> int:
        """Send from the node's stack to a pod."""
        return self._run("from_host", frame(body, NODE[family], pod_address(1, family)), ingress=came_by)
