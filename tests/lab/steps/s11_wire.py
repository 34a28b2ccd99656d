"""What travels between nodes: plain packets, or tunnels that say who sends; and tunnels need no router that knows pods."""

from __future__ import annotations

import ipaddress
import socket
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from tests.lab import network
from tests.lab.lab import Lab
from tests.lab.probes import OTHER, knock
from tests.lab.steps.story import Story
from tests.lab.waiting import until

TITLE = "what is on the wire between nodes"
_KINDS = {8472: "vxlan", 6081: "geneve"}
_EVERY_PROTOCOL = 3
_UDP = 17
_ETHERNET, _UDP_AND_TUNNEL = 14, 16
_WITHIN_S = 30.0


@dataclass
class Wire:
    """Packets between two pods that came in by their node's uplinks."""

    plain: int = 0
    tunnelled: Counter[tuple[str, int]] = field(default_factory=Counter)
    """By kind of tunnel and the number of its network."""

    def __str__(self) -> str:
        """Return the numbers in words."""
        kinds = [f"{count} in {kind} as {number}" for (kind, number), count in sorted(self.tunnelled.items())]
        return ", ".join([f"{self.plain} plain", *kinds])

    def take(self, frame: bytes, pods: set[bytes]) -> None:
        """Count a frame if it is between these addresses, inside a tunnel or not."""
        ends, transport = parts(frame)
        if ends == pods:
            self.plain += 1
        kind = _KINDS.get(int.from_bytes(frame[transport + 2 : transport + 4], "big"))
        if kind and parts(frame[transport + _UDP_AND_TUNNEL :])[0] == pods:
            number = int.from_bytes(frame[transport + 12 : transport + 15], "big")
            self.tunnelled[kind, number] += 1


def parts(frame: bytes) -> tuple[set[bytes], int]:
    """Return both addresses of an Ethernet frame, and where its UDP header begins; nothing, and its end, if it has none."""
    kind, packet = frame[12:14], frame[_ETHERNET:]
    if kind == b"\x08\x00" and len(packet) >= 20:
        udp_at = _ETHERNET + (packet[0] & 15) * 4 if packet[9] == _UDP else len(frame)
        return {packet[12:16], packet[16:20]}, udp_at
    if kind == b"\x86\xdd" and len(packet) >= 40:
        return {packet[8:24], packet[24:40]}, _ETHERNET + 40 if packet[6] == _UDP else len(frame)
    return set(), len(frame)


async def run(story: Story) -> None:
    """Watch n2's uplinks while a pod of n1 talks to one of n2."""
    lab, routing = story.lab, story.lab.topology.ways.routing
    async with _watching(lab, "n2", "employee-1", "web") as seen:
        reached = await knock(lab, "employee-1", lab.address("web"), OTHER)
    identity = story.identity("employee-1")
    observed = f"{seen}; {'PONG' if reached else 'no answer'}"
    if routing == "native":
        story.report.check(
            "employee-1 to web on another node: packets as they are",
            observed,
            ok=reached and seen.plain > 0 and not seen.tunnelled,
        )
        return
    story.report.check(
        f"employee-1 to web on another node: inside {routing} only, as {identity}, which is the sender's identity",
        observed,
        ok=reached and not seen.plain and set(seen.tunnelled) == {(routing, identity)},
    )
    await _without_routes(story)


@asynccontextmanager
async def _watching(lab: Lab, node: str, *workloads: str) -> AsyncIterator[Wire]:
    """Count what comes in by the node's uplinks between these workloads; the numbers are there afterwards."""
    pods = {ipaddress.ip_address(lab.address(name)).packed for name in workloads}
    uplinks, seen = lab.topology.node(node).uplinks, Wire()

    async def listen() -> socket.socket:
        listener = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_EVERY_PROTOCOL))
        listener.setblocking(False)
        return listener

    with await lab.resident(node).run(listen) as listener:
        yield seen
        for frame, place in _received(listener):
            if place[0] in uplinks and place[2] != socket.PACKET_OUTGOING:
                seen.take(frame, pods)


def _received(listener: socket.socket) -> Iterator[tuple[bytes, tuple[str, int, int]]]:
    while True:
        try:
            yield listener.recvfrom(1 << 16)
        except BlockingIOError:
            return


async def _without_routes(story: Story) -> None:
    """Have the routers forget every pod: nodes' pods reach each other, and nobody else reaches them."""
    lab, web = story.lab, story.lab.address("web")
    routers = [router.name for router in lab.topology.routers]
    for router in routers:
        lab.process(f"{router}/bird").kill()
        for family in ("-4", "-6"):
            network.run(network.inside(lab.topology.path(router), "ip", family, "route", "flush", "proto", "bird"))
    outside, inside = await knock(lab, "vm-1", web, OTHER), await knock(lab, "employee-1", web, OTHER)
    story.report.check(
        "routers that know no pod: employee-1 reaches web all the same, vm-1 behind them does not",
        f"employee-1 {_words(inside)}, vm-1 {_words(outside)}",
        ok=inside and not outside,
    )
    for router in routers:
        lab.process(f"{router}/bird").start()
    seen = await until(lambda: knock(lab, "vm-1", web, OTHER), bool, within_s=_WITHIN_S, every_s=0.2)
    story.report.check(
        "routers that know them again: vm-1 reaches web",
        f"{_words(seen.value)} after {seen.elapsed_ms:.0f} ms",
        ok=seen.ok,
    )


def _words(got: bool) -> str:
    return "PONG" if got else "no answer"
