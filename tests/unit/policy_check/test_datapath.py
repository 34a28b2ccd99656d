"""What simulation says of a row is what the datapath finds in the maps that it writes for that row, for random worlds."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fairlead.schema.policy import Direction, PolicyObject
from services.datapath.model import PolicyMap
from services.datapath.operations import PolicyKey, PolicyValue
from services.datapath.plan import expand
from services.policy.model import Model, reserved_identities
from services.policy.parse import parse
from services.policy.resolve import Enforcement
from services.policy.rules import Translation
from services.policy.simulate import decide
from tests.unit.policy.worlds import LABELS, PREFIXES, documents, prefix_identity, workload

FIRST_PREFIX = 1 << 24
PORTS = {
    6: (1, 79, 80, 81, 90, 91, 443, 500, 501, 6379, 65535),
    17: (80, 81, 443),
    132: (80, 500),
    1: (3, 8),
    58: (128,),
}
Found = tuple[bool, tuple[str, ...]]


class Numbers:
    """Provenance numbers, as the datapath hands them out."""

    def __init__(self) -> None:
        self.texts: list[tuple[str, ...]] = [()]

    def __call__(self, texts: tuple[str, ...]) -> int:
        if texts not in self.texts:
            self.texts.append(texts)
        return self.texts.index(texts)


def looked_up(map_: PolicyMap, numbers: Numbers, direction: Direction, peer: int, protocol: int, port: int) -> Found:
    """Return the verdict and its provenance as the program does: six keys, and the longest block around the port for each peer."""
    found: list[tuple[tuple[bool, int, int, bool], PolicyValue]] = []
    for identity in {peer, 0}:
        keys = [PolicyKey(identity, port, protocol, direction), PolicyKey(identity, 0, protocol, direction)]
        keys.append(PolicyKey(identity, 0, 0, direction))
        around = [
            PolicyKey(identity, port >> 16 - bits << 16 - bits, protocol, direction, bits) for bits in range(16, 0, -1)
        ]
        block = next((key for key in around if key in map_.entries), None)
        for key in [*keys, *([block] if block else [])]:
            value = map_.entries.get(key)
            if value is not None:
                layer4 = 2 if key.port_bits else 3 if key.port else 1 if key.protocol else 0
                found.append(((value.deny, value.precedence, layer4, key.identity != 0), value))
    if not found:
        closed = map_.ingress_default_deny if direction is Direction.INGRESS else map_.egress_default_deny
        return False, numbers.texts[closed]
    _, best = max(found, key=lambda one: one[0])
    return not best.deny, numbers.texts[best.provenance]


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.lists(LABELS, min_size=2, max_size=5), st.lists(documents(), min_size=1, max_size=5))
def test_simulation_is_what_the_datapath_finds_in_its_maps(
    labels: list[dict[str, str]], given_documents: list[PolicyObject]
) -> None:
    model = Model(Enforcement(proxies=frozenset(), authenticator=False))
    subjects = [workload(number, own) for number, own in enumerate(labels, 256)]
    prefixes = [prefix_identity(FIRST_PREFIX + number, prefix) for number, prefix in enumerate(PREFIXES)]
    for identity in (*subjects, *prefixes, *reserved_identities()):
        model.put_identity(identity)
    for number, document in enumerate(given_documents):
        model.put_policy(str(number), parse(document, Translation()))
    for subject in subjects:
        row, numbers = model.row(subject.number), Numbers()
        assert row is not None
        map_ = expand(row, numbers)
        for direction in Direction:
            for peer in model.identities:
                for protocol, ports in PORTS.items():
                    for port in ports:
                        decision = decide(row, direction, peer, protocol, port)
                        got = looked_up(map_, numbers, direction, peer, protocol, port)
                        at = f"{subject.number} {direction.name} {peer} {protocol}/{port}"
                        assert (at, got) == (at, (decision.allowed, tuple(sorted(set(decision.origins)))))
