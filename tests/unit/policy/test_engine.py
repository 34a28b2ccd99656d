"""Single parts of the engine, at the edges where they could go wrong."""

from __future__ import annotations

import pytest

from fairlead.errors import InvalidInput
from fairlead.schema.identity import FIRST_CIDR_IDENTITY
from fairlead.schema.policy import Direction, PolicyEntry, PolicyReference, PolicyRow
from services.policy.documents import PortProtocol
from services.policy.index import SelectorIndex
from services.policy.labels import (
    Label,
    cidr_label,
    declared_ports,
    implied,
    make_identity,
    network,
    parse_label,
    prefix_of_label,
)
from services.policy.ports import PortMatch, port_matches
from services.policy.resolve import Effect, Key, without_shadowed
from services.policy.rules import Reader, Translation
from services.policy.selector import Operator, Requirement, Selector, equals, exists
from services.policy.simulate import decide
from services.policy.store import free_numbers
from tests.unit.policy.worlds import prefix_identity

NAMESPACE = "io.kubernetes.pod.namespace"


@pytest.mark.parametrize(
    ("prefix", "label"),
    [
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("::1/128", "0--1/128"),
        ("fd00::/8", "fd00--0/8"),
        ("2001:db8::1/128", "2001-db8--1/128"),
    ],
)
def test_prefixes_as_labels(prefix: str, label: str) -> None:
    assert cidr_label(prefix).key == label
    assert network(prefix_of_label(label)) == network(prefix)


@pytest.mark.parametrize(
    ("labels", "namespace"),
    [
        (["container:app=a"], "default"),
        (["container:com.docker.compose.project=shop"], "shop"),
        ([f"k8s:{NAMESPACE}=kube", "container:com.docker.compose.project=shop"], "kube"),
        ([f"container:{NAMESPACE}=pods"], "pods"),
    ],
)
def test_implied_namespace(labels: list[str], namespace: str) -> None:
    found = implied(map(parse_label, labels), "here")
    assert [label.value for label in found if label[:2] == ("k8s", NAMESPACE)] == [namespace]
    assert Label("k8s", "io.cilium.k8s.policy.cluster", "here") in found


@pytest.mark.parametrize("label", ["reserved:world", "cidr:10.0.0.0/8", "fqdn:example.org"])
def test_what_is_no_workload_has_no_namespace(label: str) -> None:
    assert implied([parse_label(label)], "here") == {parse_label(label)}


def test_ports_by_name_that_cannot_be_read_name_nothing() -> None:
    texts = ["a=80", "b=81/udp", "c=0", "d=65536", "e=x", "f=80/icmp", "g="]
    assert declared_ports(parse_label(f"container:fairlead.port.{text}") for text in texts) == {
        "a": (80, 6),
        "b": (81, 17),
    }


@pytest.mark.parametrize(("outer", "inner", "inside"), [
    ("192.0.2.1/32", "192.0.2.1/32", True),
    ("10.0.0.0/8", "10.255.255.255/32", True),
    ("10.0.0.0/8", "11.0.0.0/32", False),
    ("10.0.0.0/8", "0.0.0.0/0", False),
    ("::/0", "10.0.0.0/8", False),
    ("::/0", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128", True),
])  # fmt: skip
@pytest.mark.parametrize("identity_first", [True, False])
def test_containment_in_the_index(outer: str, inner: str, inside: bool, identity_first: bool) -> None:
    index, selector = SelectorIndex(), Selector([exists("cidr", outer)])
    if identity_first:
        index.add_identity(prefix_identity(7, inner))
        index.use(selector)
    else:
        index.use(selector)
        index.add_identity(prefix_identity(7, inner))
    assert index.members(selector) == ({7} if inside else set())


def test_the_index_forgets_what_nobody_uses() -> None:
    index = SelectorIndex()
    selector = Selector([equals("any", "app", "a"), Requirement("any", "b", Operator.NOT_IN, ("x",))])
    index.use(selector)
    index.use(selector)
    index.add_identity(make_identity(300, [parse_label("app=a")]))
    index.drop(selector)
    assert index.members(selector) == {300}
    index.drop(selector)
    assert (index.members(selector), index.selectors_of(300)) == (set(), set())
    index.remove_identity(300)
    index.use(selector)
    assert index.members(selector) == set()


def test_shadowing_needs_the_whole_range_and_a_higher_rank() -> None:
    outer = Key(0, 6, 100, 200)
    entries = {
        outer: Effect(deny=True),
        Key(300, 6, 150, 200): Effect(),
        Key(300, 6, 150, 201): Effect(),
        Key(300, 6, 100): Effect(),
        Key(300, 6, 99): Effect(),
        Key(300, 6): Effect(),
        Key(300, 17, 150): Effect(),
    }
    assert set(without_shadowed(entries)) == {
        outer, Key(300, 6, 150, 201), Key(300, 6, 99), Key(300, 6), Key(300, 17, 150),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("winner", "loser"),
    [
        ({"deny": True}, {"identity": 300, "protocol": 6, "port": 80, "precedence": 200}),
        ({"precedence": 1}, {"identity": 300, "protocol": 6, "port": 80}),
        ({"protocol": 6, "port": 80}, {"identity": 300}),
        ({"protocol": 6, "port": 80}, {"identity": 300, "protocol": 6}),
        ({"protocol": 6, "port": 80}, {"identity": 300, "protocol": 6, "port": 80, "end_port": 81}),
        ({"identity": 300, "protocol": 6}, {"protocol": 6}),
    ],
)
def test_which_candidate_wins(winner: dict[str, int], loser: dict[str, int]) -> None:
    entries = [PolicyEntry(direction=Direction.INGRESS, **{"identity": 0, **given}) for given in (winner, loser)]  # type: ignore[arg-type] # mixed kinds of fields
    row = PolicyRow(identity=256, entries=(entries[1], entries[0]))  # type: ignore[arg-type] # a bare number
    assert decide(row, Direction.INGRESS, 300, 6, 80).entry == entries[0]


@pytest.mark.parametrize(
    ("port", "end", "expected"),
    [
        ("80", None, PortMatch(6, 80)),
        ("80", 70, PortMatch(6, 80)),
        ("80", 90, PortMatch(6, 80, 90)),
        ("0", None, PortMatch(6)),
        ("0120", None, PortMatch(6, 80)),
        ("0x50", None, PortMatch(6, name="0x50")),
        ("HTTP", 90, PortMatch(6, name="http")),
    ],
)
def test_ports(port: str, end: int | None, expected: PortMatch) -> None:
    assert port_matches(PortProtocol(port=port, end_port=end, protocol="TCP"), "p", []) == [expected]


@pytest.mark.parametrize("port", ["", "65536", "-1", "8 0", "a--b", "089", "_x", "80-90", "٣"])
def test_what_is_no_port(port: str) -> None:
    with pytest.raises(InvalidInput, match=r"^`p.port`: "):
        port_matches(PortProtocol(port=port, protocol="TCP"), "p", [])


def test_numbers_come_back_late() -> None:
    first = int(FIRST_CIDR_IDENTITY)
    assert free_numbers({first, first + 2}, 2) == [first + 3, first + 4]
    assert free_numbers({first + 0xFFFFFE}, 1) == [first]


@pytest.mark.parametrize(
    "text", ["10.0.0.0/255.0.0.0", "10.0.0.0/0.0.0.255", "fe80::1%eth0/64", "10.0.0.0/33", "x", "", "10.0.0.0/-1"]
)
def test_what_is_no_prefix(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"^`p`: "):
        reader().prefix(text, "p")


@pytest.mark.parametrize(
    ("text", "prefix", "warned"),
    [("10.1.2.3", "10.1.2.3/32", 0), ("10.1.2.3/8", "10.0.0.0/8", 1), ("FD00:0::/8", "fd00::/8", 0)],
)
def test_prefixes(text: str, prefix: str, warned: int) -> None:
    reading = reader()
    assert (reading.prefix(text, "p"), len(reading.warnings)) == (prefix, warned)


def reader() -> Reader:
    return Reader(PolicyReference(kind="CiliumNetworkPolicy", name="p", namespace="default"), Translation())
