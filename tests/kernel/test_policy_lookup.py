"""The six-key look-up against an oracle that says the rules slowly, over generated policies."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.datapath.kernel.testrun import REDIRECT, SHOT, TestRun
from services.datapath.operations import PolicyKey, PolicyValue
from services.datapath.reports import DropReason as Drop
from services.datapath.reports import Event
from tests.kernel.packets import frame, tcp, udp
from tests.kernel.rig import ALLOW_IN, ALLOW_OUT, Rig, pod_address

pytestmark = pytest.mark.kernel

ports, protocols, identities = (80, 81), (6, 17), (1001, 1002, 4000)


@pytest.fixture(scope="module")
def pod(node: Rig) -> Iterator[TestRun]:
    program = node.program("from_pod")
    yield program
    program.close()


def covers(key: PolicyKey, identity: int, port: int, protocol: int, direction: int) -> bool:
    if key.port and not key.protocol:
        return False  # no such key exists: a port means nothing without its protocol
    return (
        key.direction == direction
        and key.identity in {0, identity}
        and key.protocol in {0, protocol}
        and (key.port >> 16 - key.port_bits == port >> 16 - key.port_bits if key.port_bits else key.port in {0, port})
    )


def rank(key: PolicyKey, value: PolicyValue) -> tuple[bool, int, int, bool]:
    layer4 = 2 if key.port_bits else 3 if key.port else 1 if key.protocol else 0
    return value.deny, value.precedence, layer4, key.identity != 0


def oracle(
    rows: dict[PolicyKey, PolicyValue], identity: int, port: int, protocol: int, direction: int
) -> tuple[int, int]:
    """Return the reason (0: allowed) and the deciding provenance."""
    found = [
        (rank(key, value), value) for key, value in rows.items() if covers(key, identity, port, protocol, direction)
    ]
    if not found:
        return Drop.POLICY, 41 if direction else 40
    _, best = max(found, key=lambda row: row[0])
    return (Drop.POLICY_DENY if best.deny else 0), best.provenance


keys = st.builds(
    PolicyKey,
    st.sampled_from((0, *identities)),
    st.sampled_from((0, *ports)),
    st.sampled_from((0, *protocols)),
    st.sampled_from((0, 1)),
    st.just(0),
)
values = st.builds(PolicyValue, st.booleans(), st.sampled_from((0, 1, 2, 255)), st.just(0), st.integers(100, 2**32 - 1))


def with_blocks(*choices: tuple[int, int]) -> st.SearchStrategy[dict[PolicyKey, PolicyValue]]:
    """Return policies with these blocks of ports, which do not overlap."""
    blocks = st.builds(
        lambda identity, protocol, direction, block: PolicyKey(identity, block[0], protocol, direction, block[1]),
        st.sampled_from((0, *identities)),
        st.sampled_from(protocols),
        st.sampled_from((0, 1)),
        st.sampled_from(choices),
    )
    return st.dictionaries(keys | blocks, values, max_size=14)


policies = with_blocks((80, 15)) | with_blocks((80, 16), (81, 16)) | with_blocks((0, 1), (32768, 1))


def judged(node: Rig, pod: TestRun, port: int, protocol: int, family: int) -> tuple[int, Event]:
    body = tcp(1000, port) if protocol == 6 else udp(1000, port)
    packet = frame(body, pod_address(1, family), pod_address(2, family))
    node.kernel._tables.maps["conntrack"].delete_all(node.flows())
    node.take_events()
    action = pod.run(packet, node.plugged[1].ifindex).action
    [event] = node.take_events()
    return action, event


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=policies, port=st.sampled_from(ports), protocol=st.sampled_from(protocols), family=st.sampled_from((4, 6)))
def test_ingress_look_up_agrees_with_the_oracle(
    node: Rig, pod: TestRun, rows: dict[PolicyKey, PolicyValue], port: int, protocol: int, family: int
) -> None:
    node.policy(1, {ALLOW_OUT: PolicyValue()})
    node.policy(2, rows)
    action, event = judged(node, pod, port, protocol, family)
    assert (event.reason, event.provenance) == oracle(rows, 1001, port, protocol, 0)
    assert action == (SHOT if event.reason else REDIRECT)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=policies, port=st.sampled_from(ports), protocol=st.sampled_from(protocols), family=st.sampled_from((4, 6)))
def test_egress_look_up_agrees_with_the_oracle(
    node: Rig, pod: TestRun, rows: dict[PolicyKey, PolicyValue], port: int, protocol: int, family: int
) -> None:
    node.policy(1, rows)
    node.policy(2, {ALLOW_IN: PolicyValue(provenance=7)})
    action, event = judged(node, pod, port, protocol, family)
    reason, provenance = oracle(rows, 1002, port, protocol, 1)
    assert (event.reason, event.provenance) == (reason, provenance if reason else 7)
    assert action == (SHOT if reason else REDIRECT)


def test_of_two_equal_entries_the_more_specific_wins(node: Rig, pod: TestRun) -> None:
    shapes = ((80, 6, 0), (80, 6, 16), (0, 6, 0), (0, 0, 0))
    covering = [PolicyKey(peer, port, protocol, 0, bits) for peer in (1001, 0) for port, protocol, bits in shapes]
    node.policy(1, {ALLOW_OUT: PolicyValue()})
    for one, other in itertools.combinations(covering, 2):
        rows = {one: PolicyValue(precedence=3, provenance=101), other: PolicyValue(precedence=3, provenance=102)}
        node.policy(2, rows)
        _, event = judged(node, pod, 80, 6, 4)
        assert (event.reason, event.provenance) == oracle(rows, 1001, 80, 6, 0), (one, other)
