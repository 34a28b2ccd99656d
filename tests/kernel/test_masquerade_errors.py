"""What routers beyond the node say about masqueraded packets, and the node's own words about them: the pod hears all of it."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack

import pytest

from services.datapath.reports import DropReason as Drop
from tests.kernel.outside import datagrams, drops
from tests.kernel.rig import FAR, NODE, Rig, run
from tests.kernel.sending import carried, families
from tests.kernel.test_errors import MTU as NARROW_MTU
from tests.kernel.test_errors import await_error, errors_of, narrow_route, narrow_uplink, talking

pytestmark = pytest.mark.kernel

BEYOND = {4: "198.51.100.7", 6: "2001:db8:7::7"}
ROUTER = {4: "198.51.100.1", 6: "2001:db8:7::1"}
_MTU = 1300


@pytest.fixture
def beyond(out: Rig) -> Iterator[Rig]:
    """The far host is a router, and behind it, on a narrow link, stands another that knows no pods."""
    far, name = f"{out.name}w", f"{out.name}x"
    with ExitStack() as stack:
        run("ip", "netns", "add", name)
        stack.callback(run, "ip", "netns", "del", name)
        run("ip", "-n", far, "link", "add", "far0", "mtu", str(_MTU), "type", "veth", "peer", "eth0", "netns", name)
        # its other end goes with the namespace, but some time later
        stack.callback(run, "ip", "-n", far, "link", "del", "far0")
        run("ip", "-n", name, "link", "set", "eth0", "mtu", str(_MTU))
        for which, device, addresses in ((far, "far0", ROUTER), (name, "eth0", BEYOND)):
            run("ip", "-n", which, "addr", "add", f"{addresses[4]}/24", "dev", device)
            run("ip", "-n", which, "addr", "add", f"{addresses[6]}/64", "dev", device, "nodad")
            run("ip", "-n", which, "link", "set", device, "up")
        for family, setting in ((4, "net.ipv4.ip_forward"), (6, "net.ipv6.conf.all.forwarding")):
            run("ip", "-n", name, f"-{family}", "route", "add", "default", "via", ROUTER[family])
            run("nsenter", f"--net={out.netns('w')}", "sysctl", "-q", f"{setting}=1")
            stack.callback(run, "nsenter", f"--net={out.netns('w')}", "sysctl", "-q", f"{setting}=0")
        yield out


@families
def test_router_is_seen_by_who_traces_the_way(beyond: Rig, family: int) -> None:
    level, option = (socket.IPPROTO_IP, socket.IP_TTL) if family == 4 else (socket.IPPROTO_IPV6, 16)
    seen = []
    for hops in (1, 2):
        with talking(beyond, "1", family) as sending:
            sending.setsockopt(level, option, hops)
            sending.connect((BEYOND[family], 33434))
            sending.send(b"how far")
            await_error(sending)
            seen.append(errors_of(sending, family))
    assert seen == [(11 if family == 4 else 3, 0, address) for address in (NODE[family], FAR[family])]


@families
def test_transfer_finds_the_size_that_fits_beyond(beyond: Rig, family: int) -> None:
    payload = b"x" * 300_000
    with beyond.listen("x", 7500, family) as listening, beyond.socket_in("1", family=family) as sending:
        sending.connect((BEYOND[family], 7500))
        receiving, peer = listening.accept()
        assert peer[0] == NODE[family]
        received = carried(sending, receiving, payload)
        receiving.close()
    assert received == payload
    assert drops(beyond) == []


@families
def test_datagram_too_large_for_a_link_beyond_is_told_to_the_pod(beyond: Rig, family: int) -> None:
    with datagrams(beyond, "x", family, 7501) as sink, talking(beyond, "1", family) as sending:
        level, option = (socket.IPPROTO_IP, 10) if family == 4 else (socket.IPPROTO_IPV6, 23)
        sending.setsockopt(level, option, 2)
        sending.connect((BEYOND[family], 7501))
        sending.send(b"x" * 1400)
        await_error(sending)
        assert errors_of(sending, family) == (3 if family == 4 else 2, _MTU, FAR[family])
        sending.send(b"x" * 1000)
        assert len(sink.recv(2000)) == 1000


@families
@pytest.mark.parametrize("narrowed", [narrow_route, narrow_uplink])
def test_datagram_too_large_for_the_first_link_is_refused_in_the_pods_own_words(
    out: Rig, family: int, narrowed: Callable[[Rig], AbstractContextManager[None]]
) -> None:
    """The node's answer quotes the pod's packet, not what would have left."""
    target = "198.51.100.8" if family == 4 else "2001:db8:7::8"
    with narrowed(out), talking(out, "1", family) as sending:
        level, option = (socket.IPPROTO_IP, 10) if family == 4 else (socket.IPPROTO_IPV6, 23)
        sending.setsockopt(level, option, 2)
        sending.connect((target, 7502))
        sending.send(b"x" * 1400)
        await_error(sending)
        assert errors_of(sending, family) == (3 if family == 4 else 2, NARROW_MTU, NODE[family])
    assert drops(out) == [Drop.TOO_BIG]
