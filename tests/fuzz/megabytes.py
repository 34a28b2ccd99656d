"""The slowest documents that we could think of, a megabyte each, on the wire and in files."""

from __future__ import annotations

from typing import Any

MEGABYTE = 1_000_000
HEAD: dict[str, Any] = {"apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy", "metadata": {"name": "a"}}
FILE = "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: a}\nspec:\n  endpointSelector: {}\n"


def _ingress(*items: Any) -> dict[str, Any]:
    return {**HEAD, "spec": {"endpointSelector": {}, "ingress": list(items)}}


def _http(path: str) -> dict[str, Any]:
    port = {"ports": [{"port": "80", "protocol": "TCP"}], "rules": {"http": [{"path": path}]}}
    return _ingress({"toPorts": [port]})


ON_THE_WIRE: dict[str, dict[str, Any]] = {
    name: document
    for document, name in (
        (_ingress(*[{"fromCIDR": [f"10.{n >> 8 & 255}.{n & 255}.0/24"]} for n in range(30_000)]), "cidr"),
        (_ingress({"fromCIDR": [f"fd00::{n:x}/128" for n in range(45_000)]}), "one item"),
        (_ingress({"fromEndpoints": [{"matchLabels": {f"k{n}": "v"}} for n in range(40_000)]}), "selectors"),
        (
            _ingress(
                {"fromEndpoints": [{"matchExpressions": [{"key": "a", "operator": "In", "values": ["v"] * 150_000}]}]}
            ),
            "values",
        ),
        (_ingress({"toPorts": [{"ports": [{"port": "1"}] * 40}] * 1200}), "ports"),
        (_ingress({"fromCIDRSet": [{"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"] * 60_000}]}), "holes"),
        (_ingress({"toPorts": [{"ports": [{"port": "a-" * (MEGABYTE // 2)}]}]}), "long name"),
        (_ingress({"toPorts": [{"ports": [{"port": "1" * MEGABYTE}]}]}), "long number"),
        (_ingress({"icmps": [{"fields": [{"type": "1" * MEGABYTE}]}]}), "long type"),
        (_ingress({"fromCIDR": ["1" * MEGABYTE]}), "long prefix"),
        ({**HEAD, "metadata": {"name": "a." * (MEGABYTE // 2)}, "spec": {}}, "long document name"),
        (_http("(" * MEGABYTE), "brackets"),
        (_http("(a*)*" * (MEGABYTE // 5)), "stars"),
        (_http("a{1,9999}{1,9999}{1,9999}"), "repetition"),
        (_http("a|" * (MEGABYTE // 2)), "alternatives"),
    )
}

IN_A_FILE: dict[str, str] = {
    name: text
    for text, name in (
        (FILE + "  ingress:\n" + "  - fromCIDR: [10.0.0.0/8]\n" * (MEGABYTE // 27), "items"),
        (FILE + "---\n" + (FILE + "  ingress: [{}]\n---\n") * (MEGABYTE // 120), "documents"),
        ("a: [" + "1," * (MEGABYTE // 2) + "1]", "numbers"),
        ("a: " + "1:1" * (MEGABYTE // 3), "base 60"),
        ("[" * MEGABYTE, "depth"),
        ("a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 60)), "aliases"),
        ("".join(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}\n" for n in range(1, 60)), "merges"),
        ("a: &a [*a, *a]", "ring"),
        ("a: '" + "''" * (MEGABYTE // 2) + "'", "quotes"),
        ("? " * (MEGABYTE // 2), "keys"),
        ("- " * (MEGABYTE // 2), "dashes"),
        ("&a " * (MEGABYTE // 3), "anchors"),
        ("!!int " + "9" * MEGABYTE, "digits"),
        ("a: 0b" + "1" * MEGABYTE, "binary"),
        ("%TAG ! tag:x,2000:\n" * (MEGABYTE // 19), "directives"),
    )
}
