"""Changes that are worked in together: of what was noted of a peer in between only the last counts."""

from __future__ import annotations

import pytest

from fairlead.schema.identity import FIRST_CLUSTER_IDENTITY
from fairlead.schema.policy import PolicyObject
from services.policy.labels import Identity, implied, make_identity, parse_label
from services.policy.model import Model
from services.policy.parse import parse
from services.policy.resolve import Enforcement
from services.policy.rules import Translation

SERVER, PEER = FIRST_CLUSTER_IDENTITY, FIRST_CLUSTER_IDENTITY + 1


def workload(number: int, app: str) -> Identity:
    return make_identity(number, implied([parse_label(f"container:app={app}")], "default"))


def admits(app: str, port: int) -> PolicyObject:
    spec = {
        "endpointSelector": {"matchLabels": {"app": "server"}},
        "ingress": [
            {
                "fromEndpoints": [{"matchLabels": {"app": app}}],
                "toPorts": [{"ports": [{"port": str(port), "protocol": "TCP"}]}],
            }
        ],
    }
    metadata = {"name": "p", "namespace": "default"}
    return PolicyObject(apiVersion="cilium.io/v2", kind="CiliumNetworkPolicy", metadata=metadata, spec=spec)


@pytest.fixture
def model() -> Model:
    made = Model(Enforcement())
    made.put_identity(workload(SERVER, "server"))
    made.put_policy("p", parse(admits("a", 80), Translation()))
    assert made.take_pending() == {SERVER}
    assert made.row(SERVER) == made.row_anew(SERVER)
    return made


@pytest.mark.parametrize(("app", "port"), [("b", 80), ("a", 443), ("b", 443)])
@pytest.mark.parametrize("labels", [["a"], ["b"], ["a", "b"], ["b", "a"], ["a", ""], ["b", ""]])
@pytest.mark.parametrize("when", [0, 1, 2])
def test_a_peer_and_the_policy_that_names_it_change_together(
    model: Model, app: str, port: int, labels: list[str], when: int
) -> None:
    for turn in range(3):
        if turn == when:
            model.put_policy("p", parse(admits(app, port), Translation()))
        if turn < len(labels):
            model.put_identity(workload(PEER, labels[turn])) if labels[turn] else model.remove_identity(PEER)
    model.take_pending()
    assert model.row(SERVER) == model.row_anew(SERVER)
