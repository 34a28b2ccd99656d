"""What policy decides over single packets, by test-run: denials and their reasons, revocation, identities of addresses."""

from __future__ import annotations

import pytest

from fairlead.address import Address, Prefix
from services.datapath.kernel import abi
from services.datapath.kernel.testrun import REDIRECT, SHOT, TestRun
from services.datapath.operations import KernelError, PolicyKey, PolicyValue
from services.datapath.reports import DropReason as Drop
from services.datapath.reports import EventKind
from tests.kernel.packets import (
    ACK,
    SYN,
    TCP,
    frame,
    tcp,
    udp,
)
from tests.kernel.rig import ALLOW_IN, ALLOW_OUT, FAR, Rig, pod_address
from tests.kernel.sending import families, reasons, send

pytestmark = pytest.mark.kernel


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


def test_proxy_entries_are_refused_by_both_sides(rig: Rig, pod: TestRun) -> None:
    key = PolicyKey(0, 80, TCP, 0)
    with pytest.raises(KernelError, match="L7 proxy"):
        rig.kernel.apply_policy(2, {key: PolicyValue(proxy_port=9999)}, ())
    table = rig.kernel._tables.policies.table(2)
    assert table is not None
    table.put(abi.pack_policy_key(key), abi.pack_policy_value(PolicyValue(proxy_port=9999)))
    assert send(rig, pod, tcp(1000, 80), 4) == SHOT
    assert reasons(rig) == [Drop.NO_PROXY]


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
