"""The node itself under a host policy: what it may be sent and may send, packet by packet, and what passes untouched."""

from __future__ import annotations

import pytest

from fairlead.address import Address, Prefix
from services.datapath.failsafe import HOST_ENDPOINT, HostEntry
from services.datapath.kernel import links, syscalls
from services.datapath.kernel.netlink import Netlink
from services.datapath.kernel.survey import Surveyor
from services.datapath.kernel.testrun import OK, REDIRECT, SHOT
from services.datapath.operations import KernelError, PolicyKey, PolicyValue
from services.datapath.reports import DropReason as Drop
from services.datapath.reports import EventKind
from tests.kernel.firewall import IN, OUT, Wires, protect
from tests.kernel.packets import ACK, SYN, TCP, Transport, echo, frame, icmp, solicitation, tcp, udp
from tests.kernel.rig import ALLOW_IN, ALLOW_OUT, FAR, NODE, Rig, pod_address
from tests.kernel.sending import families

pytestmark = pytest.mark.kernel

REMOTE_NODE = 6
OTHER = {4: "198.51.100.9", 6: "2001:db8:9::9"}
ALLOW = PolicyValue()


def uplink_filter(rig: Rig) -> str:
    del rig
    wire = Netlink()
    try:
        standing = links.attached(wire, links.find_uplink(wire, "up0").ifindex, links.EGRESS)
    finally:
        wire.close()
    return standing.program if standing else ""


@families
def test_without_a_host_policy_nothing_is_filtered(rig: Rig, wires: Wires, family: int) -> None:
    assert rig.kernel.host() is None
    assert uplink_filter(rig) == ""
    assert wires.arrives(tcp(1000, 5432, SYN), family) == OK
    assert wires.leaves(tcp(1000, 5432, SYN), family) == OK
    assert wires.pod_sends(tcp(1000, 5432, SYN), family) == REDIRECT
    assert not any(b"\xff\xff" in value[12:16] for value in rig.flows().values())


@families
def test_what_the_network_sends_is_judged_and_named(closed: Rig, wires: Wires, family: int) -> None:
    assert uplink_filter(closed) == "to_uplink"
    assert wires.arrives(tcp(1000, 5432, SYN), family) == SHOT
    [event] = closed.take_events()
    assert (event.reason, event.direction, event.endpoint, event.provenance) == (Drop.POLICY, IN, HOST_ENDPOINT, 50)
    assert (event.source_identity, event.destination_identity) == (2, 1)
    protect(closed, {PolicyKey(2, 5432, TCP, IN): ALLOW})
    assert wires.arrives(tcp(1000, 5432, SYN), family) == OK
    assert wires.arrives(tcp(1000, 5433, SYN), family) == SHOT
    assert wires.leaves(tcp(5432, 1000, SYN | ACK), family) == OK
    assert wires.leaves(tcp(5433, 1000, SYN | ACK), family) == SHOT


@families
def test_peers_are_told_apart_by_identity(closed: Rig, wires: Wires, family: int) -> None:
    protect(closed, {PolicyKey(REMOTE_NODE, 0, 0, IN): ALLOW, PolicyKey(1234, 80, TCP, IN): ALLOW})
    closed.kernel.apply_addresses({Prefix(FAR[family]): REMOTE_NODE, Prefix(OTHER[family]): 1234}, ())
    assert wires.arrives(udp(9, 9), family) == OK
    assert wires.arrives(tcp(1000, 80, SYN), family, source=OTHER[family]) == OK
    assert wires.arrives(tcp(1000, 81, SYN), family, source=OTHER[family]) == SHOT


@families
def test_what_the_node_sends_is_judged_and_answered(closed: Rig, wires: Wires, family: int) -> None:
    assert wires.leaves(tcp(40000, 443, SYN), family) == SHOT
    [event] = closed.take_events()
    assert (event.reason, event.direction, event.endpoint, event.provenance) == (Drop.POLICY, OUT, HOST_ENDPOINT, 51)
    assert (event.source_identity, event.destination_identity) == (1, 2)
    protect(closed, {PolicyKey(2, 443, TCP, OUT): ALLOW})
    assert wires.arrives(tcp(443, 40000, SYN | ACK), family) == SHOT
    assert wires.leaves(tcp(40000, 443, SYN), family) == OK
    assert wires.arrives(tcp(443, 40000, SYN | ACK), family) == OK
    assert wires.arrives(tcp(443, 40000, SYN), family) == SHOT


@families
def test_a_policy_change_ends_an_established_connection(closed: Rig, wires: Wires, family: int) -> None:
    protect(closed, {PolicyKey(2, 5432, TCP, IN): ALLOW, ALLOW_OUT: ALLOW})
    assert wires.arrives(tcp(1000, 5432, SYN), family) == OK
    assert wires.leaves(tcp(5432, 1000, SYN | ACK), family) == OK
    assert wires.arrives(tcp(1000, 5432), family) == OK
    closed.policy(HOST_ENDPOINT, {ALLOW_OUT: ALLOW})
    for _ in range(2):  # the node may send whatever it likes: yet its answers must not carry the connection on
        assert wires.leaves(tcp(5432, 1000), family) == SHOT
        assert wires.arrives(tcp(1000, 5432), family) == SHOT


@families
def test_failsafe_ports_pass_whatever_the_policy_says(closed: Rig, wires: Wires, family: int) -> None:
    protect(closed, {PolicyKey(0, 0, 0, IN): PolicyValue(deny=True), PolicyKey(0, 0, 0, OUT): PolicyValue(deny=True)})
    assert wires.arrives(tcp(50000, 22, SYN), family) == OK
    assert wires.leaves(tcp(22, 50000, SYN | ACK), family) == OK
    assert wires.arrives(tcp(50000, 23, SYN), family) == SHOT
    assert wires.leaves(udp(40000, 53), family) == OK
    assert wires.arrives(udp(53, 40000), family) == OK
    assert wires.arrives(udp(53, 40001), family) == SHOT
    assert wires.leaves(tcp(40000, 22, SYN), family) == SHOT
    assert wires.pod_sends(tcp(50000, 22, SYN), family) == REDIRECT
    assert wires.pod_sends(tcp(50000, 23, SYN), family) == SHOT


@families
def test_what_is_only_audited_passes_and_is_told(closed: Rig, wires: Wires, family: int) -> None:
    own = closed.kernel.own_addresses()
    closed.kernel.put_host(HostEntry(own, frozenset(), 50, 51, audit_ingress=True))
    assert closed.kernel.host() == HostEntry(own, frozenset(), 50, 51, audit_ingress=True)
    assert wires.arrives(tcp(1000, 5432, SYN), family) == OK
    [event] = closed.take_events()
    assert (event.kind, event.reason, event.endpoint, event.provenance) == (
        EventKind.AUDIT,
        Drop.POLICY,
        HOST_ENDPOINT,
        50,
    )
    assert wires.leaves(tcp(40000, 5432, SYN), family) == SHOT


@families
def test_connections_from_before_the_first_host_policy(closed: Rig, wires: Wires, family: int) -> None:
    """Who began is not known: the smaller port is taken for the server's, so failsafe sessions live and denied ones end."""
    protect(closed, {ALLOW_OUT: ALLOW})
    assert wires.leaves(tcp(22, 50000), family) == OK
    assert wires.leaves(tcp(5432, 50000), family) == SHOT
    assert wires.leaves(tcp(40000, 443), family) == OK
    assert wires.arrives(tcp(443, 40000), family) == OK


@families
def test_what_the_link_needs_always_passes(closed: Rig, wires: Wires, family: int) -> None:
    if family == 6:
        asks = solicitation(FAR[6], NODE[6], b"\x02\x00\x00\x00\x00\x02")
        assert closed.program("from_network").run(asks).action == OK
        assert wires.leaves(icmp(136, v6=True), 6) == OK
        assert wires.arrives(udp(547, 546), 6) == OK
        assert wires.leaves(udp(546, 547), 6, destination="ff02::1:2") == OK
        assert wires.leaves(icmp(143, v6=True), 6, destination="ff02::16") == OK
    else:
        assert wires.arrives(udp(67, 68), 4) == OK
        assert wires.leaves(udp(68, 67), 4, source="0.0.0.0", destination="255.255.255.255") == OK
        assert wires.leaves(udp(5353, 5353), 4, destination="224.0.0.251") == OK
    assert wires.arrives(udp(67, 69), family) == SHOT


@families
def test_errors_follow_the_flow_they_quote(closed: Rig, wires: Wires, family: int) -> None:
    protect(closed, {PolicyKey(2, 443, TCP, OUT): ALLOW})
    kind, v6 = (3, False) if family == 4 else (2, True)
    quoted = frame(tcp(40000, 443), NODE[family], FAR[family])[14:]
    assert wires.arrives(icmp(kind, payload=quoted, v6=v6), family, source=OTHER[family]) == SHOT
    assert wires.leaves(tcp(40000, 443, SYN), family) == OK
    assert wires.arrives(icmp(kind, payload=quoted, v6=v6), family, source=OTHER[family]) == OK
    # the node tells others that it cannot deliver their packets, whatever its own policy
    foreign = frame(tcp(7, 8), OTHER[family], FAR[family])[14:]
    assert wires.leaves(icmp(kind, payload=foreign, v6=v6), family, destination=OTHER[family]) == OK


@families
def test_echo_and_its_reply_are_one_flow(closed: Rig, wires: Wires, family: int) -> None:
    assert wires.arrives(echo(family, 7), family) == SHOT
    icmp_protocol, request = (1, 8) if family == 4 else (58, 128)
    protect(closed, {PolicyKey(0, request, icmp_protocol, IN): ALLOW})
    assert wires.arrives(echo(family, 8), family) == OK
    assert wires.leaves(echo(family, 8, reply=True), family) == OK
    assert wires.leaves(echo(family, 9), family) == SHOT


@families
def test_pods_and_the_node(closed: Rig, wires: Wires, family: int) -> None:
    assert wires.pod_sends(tcp(1000, 5432, SYN), family) == SHOT
    [event] = closed.take_events()
    assert (event.reason, event.direction, event.endpoint, event.source_identity) == (
        Drop.POLICY,
        IN,
        HOST_ENDPOINT,
        1001,
    )
    assert wires.pod_gets(tcp(40000, 80, SYN), family) == SHOT
    [event] = closed.take_events()
    assert (event.reason, event.direction, event.endpoint, event.destination_identity) == (
        Drop.POLICY,
        OUT,
        HOST_ENDPOINT,
        1001,
    )
    protect(closed, {PolicyKey(1001, 5432, TCP, IN): ALLOW, PolicyKey(1001, 80, TCP, OUT): ALLOW})
    assert wires.pod_sends(tcp(1000, 5432, SYN), family) == REDIRECT
    assert wires.pod_gets(tcp(5432, 1000, SYN | ACK), family) == REDIRECT
    assert wires.pod_gets(tcp(40000, 80, SYN), family) == REDIRECT
    assert wires.pod_sends(tcp(80, 40000, SYN | ACK), family) == REDIRECT
    closed.policy(HOST_ENDPOINT, {})
    assert wires.pod_sends(tcp(1000, 5432), family) == SHOT
    assert wires.pod_sends(tcp(80, 40000), family) == SHOT
    # the pod's own policy still has its say
    protect(closed, {ALLOW_IN: ALLOW, ALLOW_OUT: ALLOW})
    closed.policy(1, {ALLOW_OUT: ALLOW})
    assert wires.pod_gets(tcp(40001, 80, SYN), family) == SHOT


@families
def test_others_traffic_is_not_the_nodes(closed: Rig, wires: Wires, family: int) -> None:
    pod, far = pod_address(1, family), FAR[family]
    assert wires.leaves(tcp(1000, 80, SYN), family, came_by=3, source=pod) == OK
    assert wires.leaves(tcp(1000, 80, SYN), family, came_by=3, source=OTHER[family]) == OK
    assert wires.arrives(tcp(1000, 80, SYN), family, destination=OTHER[family]) == OK
    assert wires.arrives(tcp(1000, 80, SYN), family, destination=pod) == REDIRECT
    assert wires.pod_gets(tcp(1000, 81, SYN), family, came_by=3) == REDIRECT
    assert closed.take_events()[-1].reason == 0
    # what the node masquerades for containers behind it, and the answers
    assert wires.arrives(tcp(80, 61000, SYN | ACK), family) == SHOT
    assert wires.leaves(tcp(61000, 80, SYN), family, came_by=3) == OK
    assert wires.arrives(tcp(80, 61000, SYN | ACK), family) == OK
    assert wires.arrives(tcp(80, 61000, SYN), family) == SHOT
    # a published port of a container: the node is asked, somebody else answers
    protect(closed, {PolicyKey(2, 8080, TCP, IN): ALLOW})
    assert wires.arrives(tcp(1000, 8080, SYN), family, source=far) == OK
    assert wires.leaves(tcp(8080, 1000, SYN | ACK), family, came_by=3) == OK
    closed.policy(HOST_ENDPOINT, {})
    assert wires.arrives(tcp(1000, 8080), family, source=far) == SHOT


@families
def test_nobody_outside_speaks_for_the_node(closed: Rig, wires: Wires, family: int) -> None:
    protect(closed, {ALLOW_IN: ALLOW})
    assert wires.arrives(tcp(1000, 80, SYN), family, source=NODE[family]) == SHOT
    assert closed.take_events()[-1].reason == Drop.INVALID_SOURCE


def test_protocols_without_ports_and_fragments(closed: Rig, wires: Wires) -> None:
    ospf = Transport(89, b"\x02\x01" + bytes(22))
    assert wires.arrives(ospf, 4) == SHOT
    later = frame(udp(1, 2), FAR[4], NODE[4], fragment=100)
    assert closed.program("from_network").run(later).action == SHOT
    protect(closed, {PolicyKey(2, 0, 89, IN): ALLOW, PolicyKey(2, 0, 89, OUT): ALLOW})
    assert wires.arrives(ospf, 4) == OK
    assert wires.leaves(ospf, 4) == OK


@families
def test_a_second_process_adopts_the_filter_and_its_flows(closed: Rig, wires: Wires, family: int) -> None:
    protect(closed, {PolicyKey(2, 5432, TCP, IN): ALLOW})
    assert wires.arrives(tcp(1000, 5432, SYN), family) == OK
    before = closed.kernel.host()
    closed.kernel.stop()
    closed.kernel.start()
    assert closed.kernel.host() == before
    assert uplink_filter(closed) == "to_uplink"
    assert HOST_ENDPOINT not in closed.kernel.endpoints()
    assert wires.leaves(tcp(5432, 1000, SYN | ACK), family) == OK
    assert wires.arrives(tcp(1000, 5433, SYN), family) == SHOT
    closed.kernel.delete_host()
    assert closed.kernel.host() is None
    assert uplink_filter(closed) == ""
    assert wires.arrives(tcp(1000, 5433, SYN), family) == OK
    assert wires.leaves(tcp(9, 9, SYN), family) == OK


def test_a_filter_that_somebody_removed_is_missed_and_made_again(closed: Rig) -> None:
    surveyor, wire = Surveyor(closed.pins, ("up0",)), Netlink()
    ifindex, prefixes = links.find_uplink(wire, "up0").ifindex, [Prefix("10.7.0.0/24"), Prefix("fd07::/64")]
    assert surveyor.node(prefixes) == []
    wire.send([links.detach(ifindex, links.EGRESS)])
    assert [one.problem for one in surveyor.node(prefixes)] == ["uplink egress filter missing"]
    closed.kernel.start()
    assert surveyor.node(prefixes) == []
    closed.kernel.delete_host()
    assert surveyor.node(prefixes) == []
    wire.send(
        links.attach(ifindex, links.EGRESS, "to_uplink", syscalls.object_get(str(closed.pins / "fairlead_to_uplink")))
    )
    assert [one.problem for one in surveyor.node(prefixes)] == ["uplink egress filter foreign"]
    closed.kernel.start()
    assert uplink_filter(closed) == ""
    wire.close()


def test_a_workload_that_has_the_nodes_number_is_left_alone(rig: Rig) -> None:
    state = rig.kernel._tables.state(HOST_ENDPOINT)
    rig.kernel._tables._write_state(HOST_ENDPOINT, state._replace(ifindex=7))
    with pytest.raises(KernelError, match="65535 is a workload"):
        protect(rig, {})
    rig.kernel._tables._write_state(HOST_ENDPOINT, state)
    rig.kernel._tables.delete_policy(HOST_ENDPOINT)
    assert rig.kernel.host() is None


def test_own_addresses_have_those_of_the_link_too(rig: Rig) -> None:
    own = rig.kernel.own_addresses()
    assert {Address(NODE[4]), Address(NODE[6])} <= set(own)
    assert any(str(address).startswith("fe80:") for address in own)
    assert Address("127.0.0.1") not in own
