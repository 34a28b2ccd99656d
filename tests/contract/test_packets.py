"""What becomes of single frames, asked of the real programs and of their twin alike."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

import pytest

from fairlead.address import Address, Prefix
from services.datapath.kernel.twin.cases import Action
from services.datapath.operations import EndpointEntry, Kernel, KernelError, Link, PolicyKey, PolicyValue
from services.datapath.reports import DropReason as Drop
from tests.kernel.packets import ACK, SYN, TCP, Transport, arp_request, echo, frame, icmp, solicitation, tcp, udp
from tests.support import kernels
from tests.support.kernels import Bench

ADDRESSES = {1: {4: "10.77.0.2", 6: "fd00:77::2"}, 2: {4: "10.77.0.3", 6: "fd00:77::3"}}
FAR = {4: "198.51.100.7", 6: "2001:db8::7"}
NOBODY = {4: "10.77.0.9", 6: "fd00:77::9"}
IDENTITIES = {1: 1001, 2: 1002}
ANY_IN, ANY_OUT = PolicyKey(0, 0, 0, 0), PolicyKey(0, 0, 0, 1)
HTTP_IN = PolicyKey(IDENTITIES[1], 80, TCP, 0)
PASSED = (Action.ENDPOINT, 0)

_PORTS = itertools.count(1000)

families = pytest.mark.parametrize("family", [4, 6])


@pytest.fixture(params=kernels.KINDS, scope="module")
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    """One node for all tests: each has ports of its own, so that no flow of another one helps it."""
    for made in kernels.bench(request.param):
        made.kernel.start()
        made.kernel.set_prefixes([Prefix("10.77.0.0/24"), Prefix("fd00:77::/64")])
        yield made


@pytest.fixture
def pods(bench: Bench) -> Kernel:
    """Web (1) may send everything; db (2) lets in web's TCP port 80 and may begin nothing."""
    kernel = bench.kernel
    for endpoint, policy in ((1, {ANY_OUT: PolicyValue()}), (2, {HTTP_IN: PolicyValue()})):
        kernel.put_endpoint(_entry(bench, endpoint))
        kernel.apply_policy(endpoint, policy, [key for key in kernel.policy(endpoint) if key not in policy])
    kernel.apply_addresses({}, list(kernel.addresses()))
    return kernel


@pytest.fixture
def port() -> int:
    """Return a port that no other test has."""
    return next(_PORTS)


def _entry(bench: Bench, endpoint: int) -> EndpointEntry:
    addresses = tuple(Address(text) for text in ADDRESSES[endpoint].values())
    plugged = bench.kernel.plug(Link(endpoint, bench.namespace(f"pod{endpoint}"), "eth0", addresses, 0))
    where = plugged.ifindex, IDENTITIES[endpoint], plugged.host_mac, plugged.pod_mac
    return EndpointEntry(endpoint, *where, addresses, held=False)


def _between(body: Transport, family: int, source: int = 1, **more: int) -> bytes:
    return frame(body, ADDRESSES[source][family], ADDRESSES[3 - source][family], **more)


def _dropped(reason: Drop) -> tuple[Action, int]:
    return Action.DROPPED, int(reason)


@families
def test_a_flow_passes_both_ways_and_nothing_else_does(bench: Bench, pods: Kernel, port: int, family: int) -> None:
    assert bench.meet(_between(tcp(80, port, SYN), family, 2), 2) == _dropped(Drop.POLICY)
    assert bench.meet(_between(tcp(port, 80, SYN), family), 1) == PASSED
    assert bench.meet(_between(tcp(80, port, SYN | ACK), family, 2), 2) == PASSED
    assert bench.meet(_between(tcp(port, 81, SYN), family), 1) == _dropped(Drop.POLICY)
    assert bench.meet(_between(udp(port, 80), family), 1) == _dropped(Drop.POLICY)


@families
def test_what_is_revoked_stops_with_the_next_packet_of_either_side(
    bench: Bench, pods: Kernel, port: int, family: int
) -> None:
    assert bench.meet(_between(tcp(port, 80, SYN), family), 1) == PASSED
    pods.apply_policy(2, {HTTP_IN: PolicyValue(deny=True)}, ())
    assert bench.meet(_between(tcp(80, port), family, 2), 2) == _dropped(Drop.POLICY_DENY)
    assert bench.meet(_between(tcp(port, 80), family), 1) == _dropped(Drop.POLICY_DENY)
    pods.apply_policy(2, {HTTP_IN: PolicyValue()}, ())
    assert bench.meet(_between(tcp(80, port), family, 2), 2) == PASSED


@families
def test_nobody_speaks_for_another(bench: Bench, pods: Kernel, port: int, family: int) -> None:
    packet = _between(tcp(port, 80, SYN), family)
    assert bench.meet(packet, 2) == _dropped(Drop.INVALID_SOURCE)
    assert bench.meet(packet) == _dropped(Drop.INVALID_SOURCE)


@families
def test_a_held_endpoint_says_that_it_is_held(bench: Bench, pods: Kernel, port: int, family: int) -> None:
    pods.put_endpoint(replace(pods.endpoints()[2], held=True))
    assert bench.meet(_between(tcp(port, 80, SYN), family), 1) == _dropped(Drop.HELD)


@families
def test_broken_glass_lets_pass_what_policy_denies_until_its_end(
    bench: Bench, pods: Kernel, port: int, family: int
) -> None:
    for opened in (2, 0):
        bench.break_glass({opened: 1 << 62})
        pods.put_endpoint(pods.endpoints()[2])  # what was denied a moment ago counts no more
        assert bench.meet(_between(tcp(port, 81, SYN), family), 1) == PASSED
        assert bench.meet(_between(tcp(81, port, SYN | ACK), family, 2), 2) == PASSED
        bench.break_glass({opened: 0})
        assert bench.meet(_between(tcp(81, port), family, 2), 2) == _dropped(Drop.POLICY)
        assert bench.meet(_between(tcp(port, 81), family), 1) == _dropped(Drop.POLICY)


@families
def test_the_network_is_judged_by_ingress_alone(bench: Bench, pods: Kernel, port: int, family: int) -> None:
    packet = frame(tcp(port, 80, SYN), FAR[family], ADDRESSES[2][family])
    assert bench.meet(packet) == _dropped(Drop.POLICY)
    pods.apply_addresses({Address(FAR[family]).prefix: IDENTITIES[1]}, ())
    assert bench.meet(packet) == PASSED
    assert bench.meet(frame(tcp(port, 80, SYN), FAR[family], FAR[family])) == (Action.UNTOUCHED, 0)


@families
def test_fragments_follow_their_first_one(bench: Bench, pods: Kernel, port: int, family: int) -> None:
    first, later = ({"fragment": 0x2000}, {"fragment": 185}) if family == 4 else ({"fragment": 1}, {"fragment": 1480})
    rest = _between(Transport(TCP, b"x" * 32), family, **later)
    assert bench.meet(rest, 1) == _dropped(Drop.FRAGMENT_NOT_FOUND)
    assert bench.meet(_between(tcp(port, 80, ACK), family, **first), 1) == PASSED
    assert bench.meet(rest, 1) == PASSED
    overwriting = {"fragment": 1} if family == 4 else {"fragment": 8}
    assert bench.meet(_between(Transport(TCP, b"x" * 32), family, **overwriting), 1) == _dropped(Drop.INVALID_PACKET)


@families
def test_an_error_passes_when_it_quotes_what_its_receiver_sent(
    bench: Bench, pods: Kernel, port: int, family: int
) -> None:
    sent = _between(tcp(port, 80, SYN), family)
    error = icmp(3 if family == 4 else 1, 0, sent[14:], v6=family == 6)
    assert bench.meet(_between(error, family, 2), 2) == _dropped(Drop.POLICY)
    assert bench.meet(sent, 1) == PASSED
    assert bench.meet(_between(error, family, 2), 2) == PASSED
    assert bench.meet(frame(error, FAR[family], ADDRESSES[1][family])) == PASSED
    assert bench.meet(_between(error, family, 1), 1) == _dropped(Drop.POLICY)


@families
def test_echo_replies_follow_their_request(bench: Bench, pods: Kernel, port: int, family: int) -> None:
    request = PolicyKey(0, 8 if family == 4 else 128, 1 if family == 4 else 58, 0)
    pods.apply_policy(2, {request: PolicyValue()}, ())
    assert bench.meet(_between(echo(family, port, reply=True), family, 2), 2) == _dropped(Drop.POLICY)
    assert bench.meet(_between(echo(family, port), family), 1) == PASSED
    assert bench.meet(_between(echo(family, port, reply=True), family, 2), 2) == PASSED
    assert bench.meet(_between(echo(family, port + 9000, reply=True), family, 2), 2) == _dropped(Drop.POLICY)


@families
def test_what_cannot_be_read_is_dropped_by_name(bench: Bench, pods: Kernel, port: int, family: int) -> None:
    whole = _between(tcp(port, 80, SYN), family, total=0)
    assert bench.meet(whole[:-1], 1) == _dropped(Drop.TRUNCATED)
    assert bench.meet(_between(tcp(port, 80, SYN), family, total=1400), 1) == _dropped(Drop.INVALID_PACKET)
    assert bench.meet(_between(Transport(253, b"x" * 40), family), 1) == _dropped(Drop.UNKNOWN_L4)
    assert bench.meet(_between(tcp(port, 80, SYN), family, ttl=1), 1) == (Action.REFUSED, Drop.TTL_EXCEEDED)
    assert bench.meet(frame(tcp(port, 80), ADDRESSES[1][family], NOBODY[family]), 1) == _dropped(Drop.UNKNOWN_TARGET)


def test_the_gateway_is_answered_for(bench: Bench, pods: Kernel) -> None:
    mac = pods.plugged()[1].pod_mac
    assert bench.meet(arp_request(ADDRESSES[1][4], "169.254.1.1", mac), 1) == (Action.ANSWERED, 0)
    assert bench.meet(solicitation(ADDRESSES[1][6], "fe80::1", mac), 1) == (Action.ANSWERED, 0)
    assert bench.meet(arp_request(ADDRESSES[1][4], ADDRESSES[1][4], mac), 1) == (Action.DROPPED, 0)


def test_an_entry_for_a_proxy_is_refused(pods: Kernel) -> None:
    before = pods.policy(2).keys()
    with pytest.raises(KernelError, match="L7 proxy"):
        pods.apply_policy(2, {PolicyKey(5, 80, TCP, 0): PolicyValue(proxy_port=15001)}, ())
    assert pods.policy(2).keys() == before
