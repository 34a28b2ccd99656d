from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairlead.address import Address
from fairlead.errors import Conflict, Exhausted
from fairlead.schema.datapath import AttachEndpoint, EndpointState
from services.datapath.model import (
    EndpointRecord,
    Knowledge,
    PolicyMap,
    attach,
    decide,
    free_number,
)
from services.datapath.operations import PolicyKey, PolicyValue

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ADDRESS = Address("10.0.0.2")
WEB = ("container:app=web",)


def _ask(name: str = "web", address: Address = ADDRESS, netns: str = "/run/netns/web") -> AttachEndpoint:
    return AttachEndpoint(name=name, netns=netns, addresses=(address,))


def _record(**changes: object) -> EndpointRecord:
    return msgspec.structs.replace(attach(_ask(), WEB, (), (), NOW), **changes)


def _policy(identity: int, revision: int = 1) -> PolicyMap:
    return PolicyMap(identity, revision, {PolicyKey(0, 0, 0, 0): PolicyValue()})


def test_the_same_request_again_changes_nothing() -> None:
    record = _record(identity=300, acknowledged=5)
    assert attach(_ask(), WEB, [record], [1], NOW + timedelta(days=1)) is record


def test_changed_labels_make_a_new_generation_without_identity() -> None:
    record = _record(identity=300)
    newer = attach(_ask(), ("container:app=db",), [record], [1], NOW + timedelta(seconds=1))
    assert (newer.endpoint, newer.identity) == (record.endpoint, 0)
    assert newer.generation > record.generation
    assert not newer.is_registered


def test_another_namespace_keeps_the_identity() -> None:
    record = _record(identity=300)
    assert attach(_ask(netns="/run/netns/other"), WEB, [record], [1], NOW).identity == 300


def test_generations_grow_although_the_clock_was_set_back() -> None:
    gone = _record(detached=True)
    newer = attach(_ask(), WEB, [gone], [1], NOW - timedelta(days=1))
    assert newer.endpoint == 2
    assert newer.generation == gone.generation + 1


def test_an_address_has_one_owner_until_it_is_detached() -> None:
    record = _record()
    with pytest.raises(Conflict, match=r"10\.0\.0\.2 belongs to endpoint web"):
        attach(_ask("thief"), WEB, [record], [1], NOW)
    gone = msgspec.structs.replace(record, detached=True)
    assert attach(_ask("heir"), WEB, [gone], [1], NOW).endpoint == 2


def test_numbers_are_reused_late_and_run_out() -> None:
    assert free_number([]) == 1
    assert free_number([1, 7]) == 8
    assert free_number([2, 65534]) == 1
    with pytest.raises(Exhausted, match="65534"):
        free_number(range(1, 65536))


def test_without_identity_a_new_endpoint_is_held() -> None:
    decision = decide(_record(), Knowledge())
    assert decision.want.held
    assert decision.state is EndpointState.WAITING_FOR_IDENTITY
    assert "container:app=web (identity has not answered yet)" in decision.detail


def test_without_policy_a_new_endpoint_is_held() -> None:
    decision = decide(_record(), Knowledge(identity=300))
    assert decision.want.held
    assert decision.state is EndpointState.WAITING_FOR_POLICY


def test_a_refused_policy_keeps_the_previous_one_and_says_so() -> None:
    decision = decide(_record(), Knowledge(300, None, "too big", _policy(300)))
    assert decision.want.policy == _policy(300)
    assert decision.state is EndpointState.READY
    assert "too big" in decision.hindrance
    assert decide(_record(), Knowledge(300, None, "too big")).want.held


def test_a_row_that_went_away_leaves_the_last_policy() -> None:
    decision = decide(_record(), Knowledge(300, None, "", _policy(300)))
    assert (decision.want.policy, decision.state) == (_policy(300), EndpointState.READY)
    assert "the last one stays" in decision.detail


@given(
    identity=st.sampled_from([0, 300, 301]),
    policy=st.sampled_from([None, 1, 2]),
    kept=st.sampled_from([None, 300, 301]),
    refusal=st.sampled_from(["", "no"]),
)
def test_what_passes_always_has_a_policy_made_for_its_identity(
    identity: int, policy: int | None, kept: int | None, refusal: str
) -> None:
    newest = _policy(identity, policy) if policy and identity and not refusal else None
    known = Knowledge(identity, newest, refusal, _policy(kept) if kept else None)
    decision = decide(_record(), known)
    assert decision.want.held == (newest is None and kept is None)
    if not decision.want.held:
        assert decision.want.policy in (newest, known.kept)
        assert decision.want.policy is not None
        assert decision.want.identity == decision.want.policy.identity
    assert (decision.state is EndpointState.READY) == (newest is not None or (kept is not None and kept == identity))
    assert decision.detail or decision.state is EndpointState.READY


def test_an_endpoint_without_labels_is_held_whatever_else_is_known() -> None:
    record = _record(unlabelled=True)
    decision = decide(record, Knowledge(300, _policy(300), "", _policy(300)))
    assert (decision.want.held, decision.state) == (True, EndpointState.WAITING_FOR_LABELS)
    assert "labels" in decision.detail


def test_labels_that_are_known_are_not_forgotten_by_a_late_repetition() -> None:
    first = attach(msgspec.structs.replace(_ask(), unlabelled=True), (), (), (), NOW)
    assert first.unlabelled
    labelled = attach(_ask(), WEB, [first], [1], NOW)
    assert (labelled.unlabelled, labelled.labels, labelled.endpoint) == (False, WEB, first.endpoint)
    assert attach(msgspec.structs.replace(_ask(), unlabelled=True), (), [labelled], [1], NOW) is labelled


def test_an_endpoint_made_ahead_becomes_the_one_it_was_made_for_unless_somebody_has_it() -> None:
    ahead = attach(msgspec.structs.replace(_ask(), name="ahead", unlabelled=True), (), (), (), NOW)
    ask = msgspec.structs.replace(_ask(), instead_of="ahead")
    taken = attach(ask, WEB, [ahead], [ahead.endpoint], NOW)
    assert (taken.name, taken.endpoint, taken.labels) == (ask.name, ahead.endpoint, WEB)
    assert taken.generation > ahead.generation
    assert attach(ask, WEB, [taken], [taken.endpoint], NOW) is taken
    labelled = msgspec.structs.replace(ahead, unlabelled=False)
    with pytest.raises(Conflict, match="belongs to endpoint ahead"):
        attach(ask, WEB, [labelled], [ahead.endpoint], NOW)
