"""What the programs do with single packets, by test-run: both families, every reason to drop."""

from __future__ import annotations

import time

import pytest

from services.datapath.kernel import abi
from services.datapath.kernel.testrun import OK, REDIRECT, SHOT, TestRun
from services.datapath.operations import PolicyKey, PolicyValue
from services.datapath.reports import DropReason as Drop
from services.datapath.reports import EventKind
from tests.kernel.packets import (
    ACK,
    FIN,
    RST,
    SYN,
    TCP,
    checksum,
    echo,
    frame,
    tcp,
    udp,
)
from tests.kernel.rig import ALLOW_IN, ALLOW_OUT, FAR, NODE, Rig, pod_address, run
from tests.kernel.sending import families, reasons, send

pytestmark = pytest.mark.kernel


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
