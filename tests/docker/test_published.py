"""Published ports from everywhere: other machines, the host itself, and containers by their own host's address; TCP and UDP, both families."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.docker.host import Host, until
from tests.docker.machine import ONLY_CLIENTS
from tests.kernel.rig import run

pytestmark = [pytest.mark.docker, pytest.mark.timeout(300)]
HTTP, DNS = 8080, 5353
NODE = {4: "192.0.2.1", 6: "2001:db8::1"}
LOOPBACK = {4: "127.0.0.1", 6: "::1"}
PLACES = {"w": NODE, "n": LOOPBACK, "client": NODE, "other": NODE}
"""Who asks, and by which addresses of the host."""
_ASK = """
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
with socket.socket(family, socket.SOCK_DGRAM) as client:
    client.settimeout(1.5)
    client.sendto(b"who", (sys.argv[1], int(sys.argv[2])))
    data, peer = client.recvfrom(100)
    print(data.decode() if peer[0] == sys.argv[1] else peer)
"""
_ANSWER = """
import socket, sys
with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as server:
    server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    server.bind(("::", int(sys.argv[1])))
    while True:
        data, peer = server.recvfrom(100)
        server.sendto(b"dns", peer)
"""
families = pytest.mark.parametrize("family", [4, 6])


def inside(host: Host, place: str) -> list[str]:
    """Return what a command begins with that runs on the host (n), another machine (w), or in a container's network."""
    if place in {"n", "w"}:
        return ["nsenter", f"--net=/run/netns/{host.name}{place}"]
    return ["nsenter", f"--net=/proc/{host.engine.said('inspect', '-f', '{{.State.Pid}}', place)}/ns/net"]


def ask(host: Host, place: str, address: str, port: int = DNS) -> str:
    """Return the answer to a datagram; empty when none comes, or one from elsewhere than it was asked."""
    command = [*inside(host, place), sys.executable, "-c", _ASK, address, str(port)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=20).stdout.strip()


def get(host: Host, place: str, address: str) -> str:
    where = f"[{address}]" if ":" in address else address
    return host.fetch_from(place, where, HTTP) if place in {"n", "w"} else host.fetch(place, where, HTTP)


def soon(host: Host, asking: Callable[[Host, str, str], str], wanted: str, family: int) -> None:
    """Wait until everybody gets the answer that is wanted."""

    def found() -> dict[str, str]:
        return {place: asking(host, place, address[family]) for place, address in PLACES.items()}

    until(lambda: set(found().values()) == {wanted}, what=f"{wanted} everywhere", tell=lambda: (found(), host.tell()))
    assert asking(host, "n", NODE[family]) == wanted


@pytest.fixture(autouse=True)
def forwarding(host: Host) -> None:
    """What IPv6 ports from elsewhere need, as the plugin's README says."""
    run("nsenter", f"--net=/run/netns/{host.name}n", "sysctl", "-qw", "net.ipv6.conf.all.forwarding=1")


@families
def test_a_web_server_is_reached_from_everywhere_and_policed_everywhere(host: Host, family: int) -> None:
    host.serve("web", "--label", "app=web", "-p", f"{HTTP}:80")
    host.container("client", "--label", "app=client")
    host.container("other", "--label", "app=other")
    host.ready(3)
    soon(host, get, "web", family)
    host.apply(ONLY_CLIENTS)
    found = {place: get(host, place, address[family]) for place, address in PLACES.items()}
    assert found == {"w": "", "n": "web", "client": "web", "other": ""}, "the host reaches its own workloads"
    assert get(host, "web", NODE[family]) == "web", "a container reaches itself by the host's address too"


@families
def test_datagrams_are_answered_from_where_they_were_asked(host: Host, family: int) -> None:
    host.container("dns", "--label", "app=web", "-p", f"{DNS}:53/udp")
    host.container("client", "--label", "app=client")
    host.container("other", "--label", "app=other")
    host.ready(3)
    server = subprocess.Popen([*inside(host, "dns"), sys.executable, "-c", _ANSWER, "53"])
    try:
        soon(host, ask, "dns", family)
        host.apply(ONLY_CLIENTS.replace('port: "80"', 'port: "53"').replace("TCP", "UDP"))
        found = {place: ask(host, place, address[family]) for place, address in PLACES.items()}
        assert found == {"w": "", "n": "dns", "client": "dns", "other": ""}
    finally:
        server.kill()
        server.wait()
