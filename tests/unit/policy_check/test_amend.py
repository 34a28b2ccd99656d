"""Rows that are amended peer by peer are the rows that resolving anew gives, whatever happened in between."""

from __future__ import annotations

from random import Random

import pytest

from fairlead.schema.identity import FIRST_CLUSTER_IDENTITY
from fairlead.schema.policy import PolicyObject
from services.policy.groups import cidr_identity
from services.policy.labels import parse_label
from services.policy.model import Model, reserved_identities
from services.policy.parse import parse
from services.policy.resolve import Enforcement, Mode
from services.policy.rules import Translation
from services.policy.subjects import is_subject
from tests.bench import policy_world as fleet

SIZE = 200
EDITS = {Mode.DEFAULT: 1000, Mode.ALWAYS: 100, Mode.NEVER: 50}
FIRST_PREFIX = 1 << 24


def filled(mode: Mode) -> Model:
    model = Model(Enforcement(mode))
    for identity in (*reserved_identities(), *(fleet.identity(number, SIZE) for number in range(SIZE))):
        model.put_identity(identity)
    for number, document in enumerate(fleet.documents(SIZE)):
        model.put_policy(f"p{number}", parse(document, Translation()))
    return model


def edit(model: Model, chance: Random) -> None:
    number = chance.randrange(SIZE * 2)
    match chance.randrange(7):
        case 0 | 1:
            model.put_identity(fleet.identity(number, SIZE))
        case 2:
            model.remove_identity(FIRST_CLUSTER_IDENTITY + number)
        case 3:
            document = fleet.document(number % 80, SIZE, turn=chance.randrange(5))
            model.put_policy(f"p{number % 80}", parse(document, Translation()))
        case 4:
            model.remove_policy(f"p{number % 80}")
        case 5:
            labels = [parse_label(f"role={chance.randrange(3)}")]
            model.put_host(f"n{number % 5}", labels) if chance.random() < 0.7 else model.remove_host(f"n{number % 5}")
        case _:
            prefixes = sorted(model.prefixes)
            index = chance.randrange(len(prefixes))
            identity = cidr_identity(FIRST_PREFIX + index, prefixes[index])
            model.put_identity(identity) if chance.random() < 0.7 else model.remove_identity(identity.number)


@pytest.mark.parametrize("mode", list(Mode))
def test_a_thousand_random_edits_end_as_resolving_anew_does(mode: Mode) -> None:
    chance = Random(f"edits {mode}")
    model = filled(mode)
    kept = {number: model.row(number) for number in model.take_pending()}
    for count in range(EDITS[mode]):
        edit(model, chance)
        if chance.random() < 0.3:  # several edits at once, too
            for number in model.take_pending():
                kept[number] = model.row(number)
                if chance.random() < 0.1:
                    assert kept[number] == model.row_anew(number), (count, number)
    kept |= {number: model.row(number) for number in model.take_pending()}
    everything = {number: model.row_anew(number) for number in kept}
    assert kept == everything
    assert {number for number, row in kept.items() if row} == {n for n in model.identities if is_subject(n)}


def test_host_policies_and_audited_ones_are_told_apart_in_amending_too() -> None:
    model = filled(Mode.DEFAULT)
    peers = [{"fromEndpoints": [{"matchLabels": {"team": "t0"}}]}]
    for kind, spec in (
        ("CiliumClusterwideNetworkPolicy", {"nodeSelector": {}, "ingress": peers}),
        (
            "CiliumNetworkPolicy",
            {"endpointSelector": {}, "enableDefaultDeny": {"ingress": False}, "ingressDeny": peers},
        ),
    ):
        name = kind.lower()
        metadata = {"name": name} if "nodeSelector" in spec else {"name": name, "namespace": "fleet"}
        document = PolicyObject(apiVersion="cilium.io/v2", kind=kind, metadata=metadata, spec=spec)
        model.put_policy(name, parse(document, Translation()))
        for number in model.take_pending():
            model.row(number)
        for newcomer in range(SIZE, SIZE + 5):
            model.put_identity(fleet.identity(newcomer, SIZE))
            for number in model.take_pending():
                assert model.row(number) == model.row_anew(number)
            model.remove_identity(FIRST_CLUSTER_IDENTITY + newcomer)
            for number in model.take_pending():
                assert model.row(number) == model.row_anew(number)
