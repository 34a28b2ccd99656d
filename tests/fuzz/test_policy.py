"""A short run of the fuzzer with every test run, and the slowest documents that we could think of."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.fuzz.policy import parsed, read, run

MEGABYTE = 1_000_000
HEAD: dict[str, Any] = {"apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy", "metadata": {"name": "a"}}
FILE = "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: a}\nspec:\n  endpointSelector: {}\n"


def test_nothing_but_a_refusal_comes_out() -> None:
    found = run(20_000, 20, seed=4)
    assert found["understood"] > 100
    assert found["refused"] > 100
    assert found["file refused"] > 10


def _ingress(*items: Any) -> dict[str, Any]:
    return {**HEAD, "spec": {"endpointSelector": {}, "ingress": list(items)}}


def _http(path: str) -> dict[str, Any]:
    port = {"ports": [{"port": "80", "protocol": "TCP"}], "rules": {"http": [{"path": path}]}}
    return _ingress({"toPorts": [port]})


@pytest.mark.parametrize(
    "document",
    [
        pytest.param(
            _ingress(*[{"fromCIDR": [f"10.{n >> 8 & 255}.{n & 255}.0/24"]} for n in range(30_000)]), id="cidr"
        ),
        pytest.param(_ingress({"fromCIDR": [f"fd00::{n:x}/128" for n in range(45_000)]}), id="one item"),
        pytest.param(
            _ingress({"fromEndpoints": [{"matchLabels": {f"k{n}": "v"}} for n in range(40_000)]}), id="selectors"
        ),
        pytest.param(
            _ingress(
                {"fromEndpoints": [{"matchExpressions": [{"key": "a", "operator": "In", "values": ["v"] * 150_000}]}]}
            ),
            id="values",
        ),
        pytest.param(_ingress({"toPorts": [{"ports": [{"port": "1"}] * 40}] * 1200}), id="ports"),
        pytest.param(
            _ingress({"fromCIDRSet": [{"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"] * 60_000}]}), id="holes"
        ),
        pytest.param(_ingress({"toPorts": [{"ports": [{"port": "a-" * (MEGABYTE // 2)}]}]}), id="long name"),
        pytest.param(_ingress({"toPorts": [{"ports": [{"port": "1" * MEGABYTE}]}]}), id="long number"),
        pytest.param(_ingress({"icmps": [{"fields": [{"type": "1" * MEGABYTE}]}]}), id="long type"),
        pytest.param(_ingress({"fromCIDR": ["1" * MEGABYTE]}), id="long prefix"),
        pytest.param({**HEAD, "metadata": {"name": "a." * (MEGABYTE // 2)}, "spec": {}}, id="long document name"),
        pytest.param(_http("(" * MEGABYTE), id="brackets"),
        pytest.param(_http("(a*)*" * (MEGABYTE // 5)), id="stars"),
        pytest.param(_http("a{1,9999}{1,9999}{1,9999}"), id="repetition"),
        pytest.param(_http("a|" * (MEGABYTE // 2)), id="alternatives"),
    ],
)
def test_a_megabyte_on_the_wire_is_answered_within_a_second(document: dict[str, Any]) -> None:
    began_s = time.process_time()
    parsed(document)
    assert time.process_time() - began_s < 1


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(FILE + "  ingress:\n" + "  - fromCIDR: [10.0.0.0/8]\n" * (MEGABYTE // 27), id="items"),
        pytest.param(FILE + "---\n" + (FILE + "  ingress: [{}]\n---\n") * (MEGABYTE // 120), id="documents"),
        pytest.param("a: [" + "1," * (MEGABYTE // 2) + "1]", id="numbers"),
        pytest.param("a: " + "1:1" * (MEGABYTE // 3), id="base 60"),
        pytest.param("[" * MEGABYTE, id="depth"),
        pytest.param(
            "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 60)), id="aliases"
        ),
        pytest.param("".join(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}\n" for n in range(1, 60)), id="merges"),
        pytest.param("a: &a [*a, *a]", id="ring"),
        pytest.param("a: '" + "''" * (MEGABYTE // 2) + "'", id="quotes"),
        pytest.param("? " * (MEGABYTE // 2), id="keys"),
        pytest.param("- " * (MEGABYTE // 2), id="dashes"),
        pytest.param("&a " * (MEGABYTE // 3), id="anchors"),
        pytest.param("!!int " + "9" * MEGABYTE, id="digits"),
        pytest.param("a: 0b" + "1" * MEGABYTE, id="binary"),
        pytest.param("%TAG ! tag:x,2000:\n" * (MEGABYTE // 19), id="directives"),
    ],
)
def test_a_megabyte_in_a_file_is_answered_within_a_second(text: str) -> None:
    began_s = time.process_time()
    read(text)
    assert time.process_time() - began_s < 1
