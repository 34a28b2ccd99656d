"""The six-key look-up against an oracle that says the rules slowly, over generated policies."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.datapath.kernel.testrun import REDIRECT, SHOT, TestRun
from services.datapath.operations import DropReason as Drop
from services.datapath.operations import Event, PolicyKey, PolicyValue
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
        and key.port in {0, port}
    )


def rank(key: PolicyKey, value: PolicyValue) -> tuple[bool, int, int, bool]:
    return value.deny, value.precedence, (key.port != 0) + (key.protocol != 0), key.identity != 0


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
)
values = st.builds(PolicyValue, st.booleans(), st.sampled_from((0, 1, 2, 255)), st.just(0), st.integers(100, 2**32 - 1))
policies = st.dictionaries(keys, values, max_size=14)


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
