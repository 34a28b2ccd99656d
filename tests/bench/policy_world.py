"""A fleet and its policies at any size, the same every time.

Applications and teams are of very different sizes, as in real fleets: the n-th application has a share that falls with n^0.8, the n-th team with
n (of 10 000 identities the largest application has 540 and half of all have one or two; the largest of 50 teams has 2 200). Rules name them
as often as they are large: a database that everybody uses is large, and named everywhere. Every application has one policy, and one in
ten has ten more, so that one subject identity in ten is selected by several. Rules name applications (one in forty: teams), prefixes
(with holes) or everybody, on ports, ranges or (but for everybody) names; a seventh of them deny.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from functools import lru_cache
from itertools import accumulate
from typing import Any

from fairlead.schema.identity import FIRST_CLUSTER_IDENTITY
from fairlead.schema.policy import PolicyObject
from services.policy.labels import Identity, implied, make_identity, parse_label

PER_APPLICATION = 5
PER_TEAM = 200
PREFIXES = 997
WIDE_PER_IDENTITY = 10


@lru_cache
def _shares(count: int, exponent: float) -> list[float]:
    """Return the share of the first, the first two and so on, of all; each falls with its rank."""
    weights = list(accumulate(1 / (rank + 1) ** exponent for rank in range(count)))
    return [weight / weights[-1] for weight in weights]


def _by_size(number: int, count: int, exponent: float, stride: int = 0x9E3779B1) -> int:
    """Return one of `count`, the large ones as often as they are large, spread over the numbers without a pattern."""
    point = number * stride % (1 << 32) / (1 << 32)
    return bisect_left(_shares(count, exponent), point)


def application(number: int, size: int) -> int:
    """Return the application of workload `number`; each has one workload at least."""
    count = size // PER_APPLICATION
    return number if number < count else _by_size(number, count, 0.8)


def team(number: int, size: int) -> int:
    """Return the team of workload `number`: all of an application are of one team."""
    return _by_size(application(number, size), size // PER_TEAM, 1.0, 0x85EBCA6B)


def labels(number: int, size: int) -> list[str]:
    """Return the labels of workload `number` of `size`."""
    return [
        f"container:app=a{application(number, size)}",
        f"container:team=t{team(number, size)}",
        f"container:wide={'yes' if number % WIDE_PER_IDENTITY == 3 else 'no'}",
        f"container:instance=i{number}",
        "container:com.docker.compose.project=fleet",
        "container:fairlead.port.web=8080",
    ]


def identity(number: int, size: int) -> Identity:
    """Return the identity of workload `number`; those beyond `size` are newcomers to existing applications."""
    return make_identity(FIRST_CLUSTER_IDENTITY + number, implied(map(parse_label, labels(number, size)), "default"))


def _ports(number: int) -> list[dict[str, Any]]:
    kinds: list[dict[str, Any]] = [
        {"port": str(1024 + number % 5000), "protocol": "TCP"},
        {"port": str(8000 + number % 100), "endPort": 8200 + number % 100, "protocol": "TCP"},
        {"port": "web", "protocol": "TCP"},
        {"port": str(53 + number % 7), "protocol": "ANY"},
    ]
    return [kinds[number % 4]]


def _item(number: int, applications: int, teams: int, side: str) -> dict[str, Any]:
    match number % 10:
        case 0:
            peers: dict[str, Any] = {f"{side}CIDR": [_prefix(number), _prefix(number + 31)]}
        case 1:
            prefix = number % PREFIXES
            outer, hole = f"10.{prefix % 256}.0.0/16", f"10.{prefix % 256}.{prefix % 199}.0/24"
            peers = {f"{side}CIDRSet": [{"cidr": outer, "except": [hole]}]}
        case 2 if number // 10 % 4 == 0:
            peers = {f"{side}Endpoints": [{"matchLabels": {"team": f"t{_by_size(number, teams, 1.0)}"}}]}
        case 3:
            return {"toPorts": [{"ports": _ports(number // 10 * 4)}]}
        case _:
            names = [f"a{_by_size(number * 7 + step, applications, 0.8)}" for step in (0, 13)]
            peers = {f"{side}Endpoints": [{"matchExpressions": [{"key": "app", "operator": "In", "values": names}]}]}
    return {**peers, "toPorts": [{"ports": _ports(number)}]}


def _prefix(number: int) -> str:
    return f"172.{16 + number % PREFIXES // 64}.{number % PREFIXES % 64}.0/24"


def document(number: int, size: int, *, turn: int = 0) -> PolicyObject:
    """Return policy `number`; another `turn` is another version of it."""
    applications, teams = size // PER_APPLICATION, size // PER_TEAM
    owner = number if number < applications else (number - applications) % (applications // 10) * 10
    salt = number * 11 + turn
    spec: dict[str, Any] = {
        "endpointSelector": {"matchLabels": {"app": f"a{owner}"}},
        "ingress": [_item(salt, applications, teams, "from")],
        "egress": [_item(salt + 3, applications, teams, "to")],
    }
    if number % 3 == 0:
        spec["ingressDeny"] = [_item(salt + 5, applications, teams, "from")]
    return PolicyObject(
        apiVersion="cilium.io/v2", kind="CiliumNetworkPolicy",
        metadata={"name": f"p{number}", "namespace": "fleet"}, spec=spec,
    )  # fmt: skip


def documents(size: int) -> Iterator[PolicyObject]:
    """Return all policies of a fleet: two for five identities."""
    return (document(number, size) for number in range(size * 2 // 5))


def wide_document(turn: int, size: int) -> PolicyObject:
    """Return the policy that selects a tenth of everything."""
    ports = [{"port": str(9000 + turn), "protocol": "TCP"}]
    item = {
        "fromEndpoints": [{"matchLabels": {"app": f"a{_by_size(turn, size // PER_APPLICATION, 0.8)}"}}],
        "toPorts": [{"ports": ports}],
    }
    return PolicyObject(
        apiVersion="cilium.io/v2", kind="CiliumNetworkPolicy", metadata={"name": "wide", "namespace": "fleet"},
        spec={"endpointSelector": {"matchLabels": {"wide": "yes"}}, "ingress": [item]},
    )  # fmt: skip
