"""Laws of resolution: one change at a time comes to the same as everything anew, and rows decide as the rules say."""

from __future__ import annotations

from random import Random
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fairlead.codec import from_builtins, to_builtins
from fairlead.errors import InvalidInput
from fairlead.schema.policy import Direction, PolicyObject, PolicyRow
from services.policy.labels import Identity
from services.policy.model import Model, reserved_identities
from services.policy.parse import parse
from services.policy.resolve import Enforcement
from services.policy.rules import Policy, Translation
from services.policy.simulate import simulate
from services.policy.subjects import is_subject
from tests.unit.policy.worlds import LABELS, PREFIXES, documents, judge, prefix_identity, workload

HERE = Translation(cluster="default")
FIRST_PREFIX = 1 << 24
TRAFFIC = [(6, 80), (6, 81), (6, 443), (17, 81), (6, 6379), (132, 500), (1, 8), (58, 128), (1, 3)]
RELAXED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("identity"), st.integers(256, 261), st.one_of(st.none(), LABELS)),
        st.tuples(st.just("prefix"), st.integers(0, len(PREFIXES) - 1), st.booleans()),
        st.tuples(st.just("policy"), st.integers(0, 2), st.one_of(st.none(), documents())),
    ),
    max_size=14,
)


def empty_model() -> Model:
    model = Model(Enforcement())
    for identity in reserved_identities():
        model.put_identity(identity)
    return model


def all_rows(model: Model) -> dict[int, PolicyRow]:
    rows = {number: model.row(number) for number in model.identities if is_subject(number)}
    return {number: row for number, row in rows.items() if row is not None}


def step(model: Model, kind: str, which: int, what: Any) -> None:
    if kind == "identity":
        model.put_identity(workload(which, what)) if what is not None else model.remove_identity(which)
    elif kind == "prefix":
        number = FIRST_PREFIX + which
        model.put_identity(prefix_identity(number, PREFIXES[which])) if what else model.remove_identity(number)
    elif what is None:
        model.remove_policy(str(which))
    else:
        model.put_policy(str(which), parse(what, HERE))


@RELAXED
@given(STEPS, st.integers(1, 6))
def test_some_changes_at_a_time_come_to_the_same_as_everything_anew(
    steps: list[tuple[str, int, Any]], together: int
) -> None:
    model = empty_model()
    kept = all_rows(model)
    model.take_pending()
    for index, (kind, which, what) in enumerate(steps, 1):
        step(model, kind, which, what)
        if index % together and index < len(steps):
            continue
        for number in model.take_pending():
            row = model.row(number)
            kept.pop(number, None) if row is None else kept.update({number: row})
    anew = empty_model()
    for key, policy in sorted(model.policies.items(), reverse=True):
        anew.put_policy(key, policy)
    for identity in sorted(model.identities.values(), key=lambda identity: -identity.number):
        anew.put_identity(identity)
    assert kept == all_rows(anew)


@RELAXED
@given(st.lists(LABELS, min_size=2, max_size=5), st.lists(documents(), min_size=1, max_size=4))
def test_rows_decide_as_the_rules_say(labels: list[dict[str, str]], given_documents: list[PolicyObject]) -> None:
    workloads = [workload(number, own) for number, own in enumerate(labels, 256)]
    prefixes = [prefix_identity(FIRST_PREFIX + number, prefix) for number, prefix in enumerate(PREFIXES)]
    peers: list[Identity] = [*workloads, *prefixes, *reserved_identities()]
    policies: list[Policy] = [parse(document, HERE) for document in given_documents]
    model = Model(Enforcement())
    for number, policy in enumerate(policies):
        model.put_policy(str(number), policy)
    for identity in peers:
        model.put_identity(identity)
    rows = all_rows(model)
    for subject in workloads:
        for peer in peers:
            for protocol, port in TRAFFIC:
                entering = simulate(rows, peer.number, subject.number, protocol, port).ingress
                leaving = simulate(rows, subject.number, peer.number, protocol, port).egress
                at = f"{subject.number} {peer.number} {protocol}/{port}"
                inwards = judge(policies, subject, Direction.INGRESS, peer, protocol, port)
                outwards = judge(policies, subject, Direction.EGRESS, peer, protocol, port)
                assert (at, "in", entering.allowed) == (at, "in", inwards)
                assert (at, "out", leaving.allowed) == (at, "out", outwards)
                assert entering.allowed or entering.origins


@RELAXED
@given(st.lists(LABELS, min_size=2, max_size=4), st.lists(documents(), min_size=1, max_size=4))
def test_order_leaves_no_mark(labels: list[dict[str, str]], given_documents: list[PolicyObject]) -> None:
    workloads = [workload(number, own) for number, own in enumerate(labels, 256)]
    policies = {str(number): parse(document, HERE) for number, document in enumerate(given_documents)}
    forwards, backwards = empty_model(), empty_model()
    for identity in workloads:
        forwards.put_identity(identity)
    for key, policy in policies.items():
        forwards.put_policy(key, policy)
        backwards.put_policy(key, policy)
    for identity in reversed(workloads):
        backwards.put_identity(identity)
    assert all_rows(forwards) == all_rows(backwards)


JUNK = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.binary(max_size=3)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=9), inner, max_size=3)),
    max_leaves=6,
)


@RELAXED
@given(documents(), st.randoms(use_true_random=False), JUNK)
def test_a_document_with_junk_in_it_is_understood_or_refused(document: PolicyObject, chance: Random, junk: Any) -> None:
    holder: Any = {"spec": document.spec, "metadata": document.metadata}
    key: Any = chance.choice(["spec", "metadata"])
    while isinstance(holder[key], dict | list) and holder[key] and chance.random() < 0.8:
        holder = holder[key]
        key = chance.choice(list(holder)) if isinstance(holder, dict) else chance.randrange(len(holder))
    whole = holder if "spec" in holder else None
    holder[key] = junk
    given_fields = {"apiVersion": document.apiVersion, "kind": document.kind, **(whole or to_builtins(document))}
    assert "`" in (text := refusal(given_fields)) or "cannot be read" in text or not text


def refusal(fields: dict[str, Any]) -> str:
    """Return why a document is refused; empty when it is understood. Anything but InvalidInput is our own fault."""
    try:
        parse(from_builtins(fields, PolicyObject), HERE)
    except InvalidInput as error:
        return error.message
    return ""
