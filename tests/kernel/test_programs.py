"""What the programs do with single packets, by test-run: both families, every reason to drop."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator

import pytest

from fairlead.address import Address, Prefix
from services.datapath.kernel import abi
from services.datapath.kernel.testrun import OK, REDIRECT, SHOT, TestRun
from services.datapath.operations import KernelError, PolicyKey, PolicyValue
from services.datapath.reports import DropReason as Drop
from services.datapath.reports import EventKind
from tests.kernel.packets import (
    ACK,
    FIN,
    RST,
    SYN,
    TCP,
    Transport,
    arp_request,
    checksum,
    echo,
    frame,
    icmp,
    sctp,
    solicitation,
    tcp,
    udp,
)
from tests.kernel.rig import ALLOW_IN, ALLOW_OUT, FAR, NODE, Rig, pod_address, run

pytestmark = pytest.mark.kernel

families = pytest.mark.parametrize("family", [4, 6])


@pytest.fixture
def pod(rig: Rig) -> Iterator[TestRun]:
    program = rig.program("from_pod")
    yield program
    program.close()


@pytest.fixture
def network(rig: Rig) -> Iterator[TestRun]:
    program = rig.program("from_network")
    yield program
    program.close()


@pytest.fixture
def host(rig: Rig) -> Iterator[TestRun]:
    program = rig.program("from_host")
    yield program
    program.close()


def send(rig: Rig, pod: TestRun, body: Transport, family: int, sender: int = 1, **more: int) -> int:
    """Send from one pod to the other; return what the program did."""
    packet = frame(body, pod_address(sender, family), pod_address(3 - sender, family), **more)
    return pod.run(packet, rig.plugged[sender].ifindex).action


def reasons(rig: Rig) -> list[int]:
    return [event.reason for event in rig.take_events()]


@families
def test_allowed_packet_reaches_the_other_pod_rewritten(rig: Rig, pod: TestRun, family: int) -> None:
    packet = frame(tcp(1000, 80, SYN), pod_address(1, family), pod_address(2, family))
    after = pod.run(packet, rig.plugged[1].ifindex)
    assert after.action == REDIRECT
    assert after.packet[:12] == rig.plugged[2].pod_mac + rig.plugged[2].host_mac
    if family == 4:
        assert after.packet[22] == 63
        assert checksum(after.packet[14:34]) == 0
    else:
        assert after.packet[21] == 63
    [event] = rig.take_events()
    assert (event.kind, event.reason, event.protocol, event.sport, event.dport) == (
        EventKind.NEW_FLOW,
        0,
        TCP,
        1000,
        80,
    )
    assert (event.source, event.destination) == (pod_address(1, family), pod_address(2, family))
    assert (event.source_identity, event.destination_identity) == (1001, 1002)


@families
def test_both_directions_share_one_flow(rig: Rig, pod: TestRun, family: int) -> None:
    assert send(rig, pod, tcp(1000, 80, SYN), family) == REDIRECT
    assert send(rig, pod, tcp(80, 1000, SYN | ACK), family, sender=2) == REDIRECT
    assert send(rig, pod, tcp(1000, 80, ACK), family) == REDIRECT
    [value] = rig.flows().values()
    flow = abi.FLOW.unpack(value)
    assert flow[8:10] == (2, 1)
    assert (flow[5], flow[6]) == (1001, 1002)


@families
def test_ttl_runs_out(rig: Rig, pod: TestRun, family: int) -> None:
    assert send(rig, pod, udp(1, 2), family, ttl=1) == REDIRECT  # to the stack, which answers
    assert Drop.TTL_EXCEEDED in reasons(rig)


@families
def test_route_that_went_is_noticed_by_established_flows(rig: Rig, pod: TestRun, family: int) -> None:
    gateway, version = FAR[family], f"-{family}"
    packet = frame(tcp(1000, 80), pod_address(1, family), "198.51.100.7" if family == 4 else "2001:db8:7::7")
    assert [pod.run(packet, rig.plugged[1].ifindex).action for _ in range(3)] == [REDIRECT] * 3
    run("ip", version, "route", "del", "default")
    try:
        time.sleep(0.03)
        assert pod.run(packet, rig.plugged[1].ifindex).action == SHOT
        assert reasons(rig)[-1] == Drop.FIB
    finally:
        run("ip", version, "route", "add", "default", "via", gateway)
    assert pod.run(packet, rig.plugged[1].ifindex).action == REDIRECT


@families
def test_default_deny_names_its_cause(rig: Rig, pod: TestRun, family: int) -> None:
    rig.policy(2, {ALLOW_OUT: PolicyValue()})
    assert send(rig, pod, tcp(1000, 80, SYN), family) == SHOT
    [event] = rig.take_events()
    assert (event.kind, event.reason, event.direction) == (EventKind.DROP, Drop.POLICY, 0)
    assert (event.endpoint, event.provenance) == (2, 40)
    rig.policy(1, {ALLOW_IN: PolicyValue()})
    assert send(rig, pod, tcp(1000, 80, SYN), family) == SHOT
    [event] = rig.take_events()
    assert (event.direction, event.endpoint, event.provenance) == (1, 1, 41)
    assert not rig.flows()


@families
def test_deny_entry_names_itself_and_counts(rig: Rig, pod: TestRun, family: int) -> None:
    key = PolicyKey(1001, 80, TCP, 0)
    rig.policy(2, {ALLOW_IN: PolicyValue(), key: PolicyValue(deny=True, provenance=99)})
    assert send(rig, pod, tcp(1000, 80, SYN), family) == SHOT
    [event] = rig.take_events()
    assert (event.reason, event.provenance) == (Drop.POLICY_DENY, 99)
    assert rig.kernel.policy(2)[key][1].packets == 1
    assert send(rig, pod, tcp(1000, 81, SYN), family) == REDIRECT


def test_policy_of_an_endpoint_without_a_map_is_default_deny(rig: Rig, pod: TestRun) -> None:
    rig.kernel._tables.delete_policy(2)
    assert send(rig, pod, tcp(1000, 80, SYN), 4) == SHOT
    assert reasons(rig) == [Drop.POLICY]


@families
def test_revocation_is_immediate_both_ways_and_stays(rig: Rig, pod: TestRun, family: int) -> None:
    rig.policy(2, {PolicyKey(1001, 80, TCP, 0): PolicyValue(), ALLOW_OUT: PolicyValue()})
    send(rig, pod, tcp(1000, 80, SYN), family)
    send(rig, pod, tcp(80, 1000, SYN | ACK), family, sender=2)
    assert send(rig, pod, tcp(1000, 80), family) == REDIRECT
    rig.policy(2, {ALLOW_OUT: PolicyValue()})
    # the responder may send whatever it likes to anybody: yet its replies must not carry the revoked flow on
    for _ in range(3):
        assert send(rig, pod, tcp(80, 1000), family, sender=2) == SHOT
        assert send(rig, pod, tcp(1000, 80), family) == SHOT
    rig.policy(2, {PolicyKey(1001, 80, TCP, 0): PolicyValue(), ALLOW_OUT: PolicyValue()})
    assert send(rig, pod, tcp(80, 1000), family, sender=2) == REDIRECT


@families
def test_change_of_identity_has_flows_judged_anew(rig: Rig, pod: TestRun, family: int) -> None:
    rig.policy(2, {PolicyKey(1001, 0, 0, 0): PolicyValue(), ALLOW_OUT: PolicyValue()})
    assert send(rig, pod, tcp(1000, 80), family) == REDIRECT
    rig.kernel.put_endpoint(rig.entry(1, identity=1003))
    assert send(rig, pod, tcp(1000, 80), family) == SHOT
    assert send(rig, pod, tcp(80, 1000), family, sender=2) == SHOT


@families
def test_change_of_a_far_address_has_flows_judged_anew(rig: Rig, pod: TestRun, network: TestRun, family: int) -> None:
    far = Prefix(FAR[family])
    rig.policy(1, {PolicyKey(77, 0, 0, 0): PolicyValue(), ALLOW_OUT: PolicyValue()})
    packet = frame(tcp(5, 80), FAR[family], pod_address(1, family))
    assert network.run(packet).action == SHOT
    rig.kernel.apply_addresses({far: 77}, ())
    assert network.run(packet).action == REDIRECT
    rig.kernel.apply_addresses({far: 78}, ())
    assert network.run(packet).action == SHOT
    rig.kernel.apply_addresses({}, [far])
    back = frame(tcp(80, 5), pod_address(1, family), FAR[family])
    assert pod.run(back, rig.plugged[1].ifindex).action == SHOT


@families
def test_prefixes_are_consulted_after_hosts_longest_first(rig: Rig, network: TestRun, family: int) -> None:
    wide, narrow = ("192.0.0.0/8", "192.0.2.0/24") if family == 4 else ("2001::/16", "2001:db8::/32")
    address = Address(FAR[family])
    packet = frame(udp(5, 80), FAR[family], pod_address(1, family))

    def identity() -> int:
        network.run(packet)
        found = rig.kernel.lookup_address(address)
        rig.kernel._tables.bump_addresses()
        flow = abi.FLOW.unpack(next(iter(rig.flows().values())))
        assert (found[1] if found else 2) == flow[5]
        return int(flow[5])

    assert identity() == 2
    rig.kernel.apply_addresses({Prefix("::/0"): 66, Prefix("0.0.0.0/0"): 44}, ())
    assert identity() == (44 if family == 4 else 66)
    rig.kernel.apply_addresses({Prefix(wide): 50}, ())
    assert identity() == 50
    rig.kernel.apply_addresses({Prefix(narrow): 51}, ())
    assert identity() == 51
    rig.kernel.apply_addresses({address.prefix: 52}, ())
    assert identity() == 52
    assert rig.kernel.addresses()[Prefix(narrow)] == 51


@families
def test_source_address_must_be_the_pods_own(rig: Rig, pod: TestRun, network: TestRun, family: int) -> None:
    send(rig, pod, tcp(1000, 80), family)
    rig.take_events()
    stolen = frame(tcp(1000, 80), pod_address(1, family), pod_address(2, family))
    assert pod.run(stolen, rig.plugged[2].ifindex).action == SHOT
    assert network.run(stolen).action == SHOT
    invented = frame(tcp(1000, 80), "10.7.0.99" if family == 4 else "fd07::99", pod_address(2, family))
    assert pod.run(invented, rig.plugged[1].ifindex).action == SHOT
    assert reasons(rig) == [Drop.INVALID_SOURCE] * 3


@families
def test_held_endpoint_neither_sends_nor_receives(rig: Rig, pod: TestRun, network: TestRun, family: int) -> None:
    send(rig, pod, tcp(1000, 80), family)
    rig.kernel.put_endpoint(rig.entry(2, held=True))
    rig.take_events()
    assert send(rig, pod, tcp(1000, 80), family) == SHOT
    assert send(rig, pod, tcp(80, 1000), family, sender=2) == SHOT
    assert network.run(frame(tcp(1, 2), FAR[family], pod_address(2, family))).action == SHOT
    assert [(event.reason, event.endpoint) for event in rig.take_events()] == [(Drop.HELD, 2)] * 3
    rig.kernel.put_endpoint(rig.entry(2))
    assert send(rig, pod, tcp(1000, 80), family) == REDIRECT


@families
def test_deleted_endpoint_is_gone_for_flows_too(rig: Rig, pod: TestRun, network: TestRun, family: int) -> None:
    send(rig, pod, tcp(1000, 80), family)
    rig.kernel.delete_endpoint(2)
    assert send(rig, pod, tcp(80, 1000), family, sender=2) == SHOT
    assert send(rig, pod, tcp(1000, 80), family) == SHOT
    assert reasons(rig)[-1] == Drop.UNKNOWN_TARGET
    assert network.run(frame(tcp(1, 2), FAR[family], pod_address(2, family))).action == OK
    assert 2 not in rig.kernel.endpoints()


@families
def test_network_never_speaks_for_the_host(rig: Rig, network: TestRun, host: TestRun, family: int) -> None:
    rig.policy(1, {PolicyKey(1, 0, 0, 0): PolicyValue(), ALLOW_OUT: PolicyValue()})
    packet = frame(tcp(1000, 80), NODE[family], pod_address(1, family))
    assert network.run(packet).action == SHOT
    assert host.run(packet).action == REDIRECT
    assert network.run(packet).action == SHOT
    assert reasons(rig) == [Drop.POLICY, 0, Drop.INVALID_SOURCE]
    # what others send through this node is not the node either
    assert host.run(frame(tcp(1, 80), FAR[family], pod_address(1, family)), ingress_ifindex=2).action == SHOT


@families
def test_pod_to_the_node_goes_to_its_stack_if_allowed(rig: Rig, pod: TestRun, family: int) -> None:
    packet = frame(tcp(1000, 22, SYN), pod_address(1, family), NODE[family])
    after = pod.run(packet, rig.plugged[1].ifindex)
    assert (after.action, after.packet) == (REDIRECT, packet)
    rig.policy(1, {ALLOW_IN: PolicyValue(), PolicyKey(2, 0, 0, 1): PolicyValue()})
    assert pod.run(packet, rig.plugged[1].ifindex).action == SHOT


@families
def test_what_is_for_others_passes_untouched(rig: Rig, network: TestRun, host: TestRun, family: int) -> None:
    packet = frame(tcp(1, 2), FAR[family], NODE[family])
    for program in (network, host):
        after = program.run(packet)
        assert (after.action, after.packet) == (OK, packet)
    assert network.run(b"\xff" * 12 + b"\x88\xcc" + bytes(60)).action == OK
    assert not rig.flows()


@families
def test_flow_ages_by_state(rig: Rig, pod: TestRun, family: int) -> None:
    rig.policy(2, {PolicyKey(0, 80, TCP, 0): PolicyValue()})
    table, hz = rig.kernel._tables.maps["conntrack"], rig.kernel._tables.settings()[2]

    def age(seconds: int) -> None:
        [(key, value)] = table.items().items()
        last_seen, *rest = abi.FLOW.unpack(value)
        table.put(key, abi.FLOW.pack(last_seen - seconds * hz, *rest))

    def reply() -> int:
        return send(rig, pod, tcp(80, 1000), family, sender=2)

    send(rig, pod, tcp(1000, 80, SYN), family)
    age(50)
    assert send(rig, pod, tcp(80, 1000, SYN | ACK), family, sender=2) == REDIRECT
    age(70)
    assert send(rig, pod, tcp(80, 1000, SYN | ACK), family, sender=2) == SHOT
    send(rig, pod, tcp(1000, 80), family)
    age(7000)
    assert reply() == REDIRECT
    age(9000)
    assert reply() == SHOT
    for ending in (FIN | ACK, RST):
        send(rig, pod, tcp(1000, 80), family)
        send(rig, pod, tcp(1000, 80, ending), family)
        send(rig, pod, tcp(80, 1000, FIN | ACK), family, sender=2)
        age(8)
        assert reply() == REDIRECT
        age(12)
        assert reply() == SHOT


@families
def test_responder_may_not_open_a_connection_on_the_ports_of_a_flow(rig: Rig, pod: TestRun, family: int) -> None:
    rig.policy(1, {ALLOW_OUT: PolicyValue()})
    send(rig, pod, tcp(1000, 80, SYN), family)
    assert send(rig, pod, tcp(80, 1000, ACK), family, sender=2) == REDIRECT
    assert send(rig, pod, tcp(80, 1000, SYN), family, sender=2) == SHOT


@families
def test_reset_or_stray_echo_reply_begins_no_flow(rig: Rig, pod: TestRun, family: int) -> None:
    assert send(rig, pod, tcp(1000, 80, RST), family) == REDIRECT
    assert send(rig, pod, echo(family, 5, reply=True), family) == REDIRECT
    assert not rig.flows()


@families
def test_echo_is_judged_by_type_and_its_reply_passes(rig: Rig, pod: TestRun, family: int) -> None:
    protocol, request = (1, 8) if family == 4 else (58, 128)
    rig.policy(2, {PolicyKey(0, request, protocol, 0): PolicyValue()})
    rig.policy(1, {ALLOW_OUT: PolicyValue()})
    assert send(rig, pod, echo(family, 5, reply=True), family, sender=2) == SHOT
    assert send(rig, pod, echo(family, 5), family) == REDIRECT
    assert send(rig, pod, echo(family, 5, reply=True), family, sender=2) == REDIRECT
    assert send(rig, pod, echo(family, 6, reply=True), family, sender=2) == SHOT
    assert send(rig, pod, echo(family, 5), family, sender=2) == SHOT


@families
def test_icmp_errors_pass_only_with_their_flow(rig: Rig, pod: TestRun, network: TestRun, family: int) -> None:
    rig.policy(1, {ALLOW_OUT: PolicyValue()})
    sent = frame(udp(1000, 53), pod_address(1, family), FAR[family])
    router = "198.51.100.1" if family == 4 else "2001:db8:9::1"
    kind = 3 if family == 4 else 1
    error = frame(icmp(kind, 0, sent[14:], v6=family == 6), router, pod_address(1, family))
    assert network.run(error).action == SHOT
    pod.run(sent, rig.plugged[1].ifindex)
    assert network.run(error).action == REDIRECT
    to_other = frame(icmp(kind, 0, sent[14:], v6=family == 6), router, pod_address(2, family))
    rig.policy(2, {ALLOW_OUT: PolicyValue()})
    assert network.run(to_other).action == SHOT
    rig.policy(1, {})
    assert network.run(error).action == SHOT


@families
def test_later_fragments_follow_their_first(rig: Rig, pod: TestRun, family: int) -> None:
    rig.policy(2, {PolicyKey(0, 53, 17, 0): PolicyValue()})
    first, later = (0x2000, 185) if family == 4 else (1, 185 << 3)
    tail = Transport(17, b"x" * 40)
    assert send(rig, pod, tail, family, fragment=later, ident=9) == SHOT
    assert reasons(rig) == [Drop.FRAGMENT_NOT_FOUND]
    assert send(rig, pod, udp(1000, 53), family, fragment=first, ident=9) == REDIRECT
    assert send(rig, pod, tail, family, fragment=later, ident=9) == REDIRECT
    assert send(rig, pod, tail, family, fragment=later, ident=10) == SHOT
    assert send(rig, pod, udp(1000, 54), family, fragment=first, ident=11) == SHOT
    assert send(rig, pod, tail, family, fragment=later, ident=11) == SHOT


@families
def test_fragment_that_would_overwrite_tcp_flags_is_refused(rig: Rig, pod: TestRun, family: int) -> None:
    at_8 = 1 if family == 4 else 1 << 3
    assert send(rig, pod, Transport(TCP, bytes(40)), family, fragment=at_8) == SHOT
    assert reasons(rig) == [Drop.INVALID_PACKET]


@families
def test_sctp_has_ports(rig: Rig, pod: TestRun, family: int) -> None:
    rig.policy(2, {PolicyKey(0, 80, 132, 0): PolicyValue()})
    assert send(rig, pod, sctp(1000, 80), family) == REDIRECT
    assert send(rig, pod, sctp(1000, 81), family) == SHOT


@families
def test_unknown_transport_is_refused(rig: Rig, pod: TestRun, family: int) -> None:
    assert send(rig, pod, Transport(47, bytes(30)), family) == SHOT
    assert reasons(rig) == [Drop.UNKNOWN_L4]


@pytest.mark.parametrize("ihl", [6, 15])
def test_ipv4_options_are_walked(rig: Rig, pod: TestRun, ihl: int) -> None:
    rig.policy(2, {PolicyKey(0, 80, TCP, 0): PolicyValue()})
    assert send(rig, pod, tcp(1000, 80, SYN), 4, ihl=ihl) == REDIRECT
    assert send(rig, pod, tcp(1000, 81, SYN), 4, ihl=ihl) == SHOT
    assert send(rig, pod, tcp(1000, 80, SYN), 4, ihl=ihl, total=4 * ihl - 4) == SHOT


def test_extension_headers_are_walked(rig: Rig, pod: TestRun) -> None:
    rig.policy(2, {PolicyKey(0, 80, TCP, 0): PolicyValue()})
    for chain, expected in ((1, REDIRECT), (4, REDIRECT), (9, SHOT)):
        packet = frame(_chain(chain, 80), pod_address(1, 6), pod_address(2, 6))
        assert pod.run(packet, rig.plugged[1].ifindex).action == expected, chain
    packet = frame(_chain(2, 81), pod_address(1, 6), pod_address(2, 6))
    assert pod.run(packet, rig.plugged[1].ifindex).action == SHOT


def _chain(length: int, port: int) -> Transport:
    """Return TCP behind `length` destination option headers."""
    body, following = tcp(1000, port, SYN).bytes, TCP
    for _ in range(length):
        body, following = bytes([following, 0, 1, 4, 0, 0, 0, 0]) + body, 60
    return Transport(following, body)


def test_proxy_entries_are_refused_by_both_sides(rig: Rig, pod: TestRun) -> None:
    key = PolicyKey(0, 80, TCP, 0)
    with pytest.raises(KernelError, match="L7 proxy"):
        rig.kernel.apply_policy(2, {key: PolicyValue(proxy_port=9999)}, ())
    table = rig.kernel._tables.policies.table(2)
    assert table is not None
    table.put(abi.pack_policy_key(key), abi.pack_policy_value(PolicyValue(proxy_port=9999)))
    assert send(rig, pod, tcp(1000, 80), 4) == SHOT
    assert reasons(rig) == [Drop.NO_PROXY]


def test_arp_is_answered_by_the_gateway_mac(rig: Rig, pod: TestRun) -> None:
    mac = rig.plugged[1].pod_mac
    after = pod.run(arp_request("10.7.0.1", "169.254.1.1", mac), rig.plugged[1].ifindex)
    assert after.action == REDIRECT
    assert after.packet[:12] == mac + abi.GATEWAY_MAC
    assert after.packet[20:42] == (
        b"\0\x02" + abi.GATEWAY_MAC + Address("169.254.1.1").packed + mac + Address("10.7.0.1").packed
    )
    assert pod.run(arp_request("10.7.0.1", "10.7.0.1", mac), rig.plugged[1].ifindex).action == SHOT


@pytest.mark.parametrize("sender", ["fd07::1", "fe80::9"])
def test_solicitation_is_answered(rig: Rig, pod: TestRun, sender: str) -> None:
    mac = rig.plugged[1].pod_mac
    after = pod.run(solicitation(sender, "fe80::1", mac), rig.plugged[1].ifindex)
    assert after.action == REDIRECT
    assert after.packet[:12] == mac + abi.GATEWAY_MAC
    ip, message = after.packet[14:54], after.packet[54:]
    assert ip[8:] == Address("fe80::1").packed + Address(sender).packed
    assert message[0] == 136
    assert message[8:] == Address("fe80::1").packed + b"\x02\x01" + abi.GATEWAY_MAC
    assert checksum(ip[8:] + struct.pack(">II", len(message), 58) + message) == 0


def test_chatter_of_the_link_is_dropped_without_a_report(rig: Rig, pod: TestRun) -> None:
    for body, source, destination in (
        (icmp(133, v6=True), "fe80::9", "ff02::2"),
        (icmp(143, v6=True), "::", "ff02::16"),
        (udp(546, 547), "fe80::9", "ff02::1:2"),
    ):
        assert pod.run(frame(body, source, destination), rig.plugged[1].ifindex).action == SHOT
    assert reasons(rig) == []


def test_mapped_addresses_are_not_ipv6(rig: Rig, pod: TestRun) -> None:
    packet = frame(tcp(1, 2), "fd07::1", "fd07::2")
    disguised = packet[:22] + bytes(10) + b"\xff\xff" + Address("10.7.0.1").packed + packet[38:]
    assert pod.run(disguised, rig.plugged[1].ifindex).action == SHOT
    assert reasons(rig) == [Drop.INVALID_PACKET]


def test_flood_of_drops_is_rationed_and_counted(rig: Rig, pod: TestRun) -> None:
    rig.policy(2, {})
    lost = sum(rig.kernel.events_lost())
    packet = frame(udp(1, 2), pod_address(1, 4), pod_address(2, 4))
    pod.run(packet, rig.plugged[1].ifindex, repeat=5000)
    heard = len(rig.take_events())
    assert 500 <= heard <= 2000
    assert heard + sum(rig.kernel.events_lost()) - lost == 5000


def test_full_policy_map_is_refused_and_says_so(rig: Rig) -> None:
    rows = {PolicyKey(identity, 0, 0, 0): PolicyValue() for identity in range(1, 16385)}
    rig.policy(2, rows)
    assert len(rig.kernel.policy(2)) == 16384
    with pytest.raises(KernelError, match="full"):
        rig.kernel.apply_policy(2, {PolicyKey(99999, 0, 0, 0): PolicyValue()}, ())
    swap = PolicyKey(1, 0, 0, 0)
    rig.kernel.apply_policy(2, {PolicyKey(99999, 0, 0, 0): PolicyValue()}, [swap])
    assert swap not in rig.kernel.policy(2)
    rig.kernel._tables.delete_policy(2)
