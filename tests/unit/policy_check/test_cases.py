"""Conformance files: right answers pass, wrong ones are told with their cause, listed ones are counted apart."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from fairlead.errors import InvalidInput
from services.policy.check import cases
from services.policy.check.__main__ import main

POLICY: dict[str, Any] = {
    "apiVersion": "cilium.io/v2",
    "kind": "CiliumNetworkPolicy",
    "metadata": {"name": "p"},
    "spec": {
        "endpointSelector": {"matchLabels": {"app": "db"}},
        "ingress": [{"fromEntities": ["world"], "toPorts": [{"ports": [{"port": "80", "protocol": "TCP"}]}]}],
    },
}
LABELS = ["k8s:io.kubernetes.pod.namespace=default", "k8s:io.cilium.k8s.policy.cluster=c1", "k8s:app=db"]


def case(name: str, verdict: str = "allow", port: int = 80, **changes: Any) -> dict[str, Any]:
    return {
        "name": name,
        "settings": {"mode": "default", "allow_localhost": "always", "cluster": "c1"},
        "endpoints": {
            "world": {"identity": 2, "labels": ["reserved:world"], "named_ports": {}},
            "db": {"identity": 1001, "labels": LABELS, "named_ports": {}},
        },
        "policies": [POLICY],
        "rejected": [],
        "queries": [
            {
                "subject": "db", "direction": "ingress", "peer": "world", "protocol": "TCP", "port": port,
                "verdict": verdict, "default_deny": True,
            }
        ],
        **changes,
    }  # fmt: skip


def write(folder: Path, *found: dict[str, Any], name: str = "cases.jsonl") -> str:
    path = folder / name
    text = "".join(json.dumps(one) + "\n" for one in found).encode()
    path.write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    return str(path)


@pytest.mark.parametrize("name", ["cases.jsonl", "cases.jsonl.gz"])
def test_a_file_of_right_answers_passes(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert main([write(tmp_path, case("a"), case("b", "deny", 81), name=name)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "2 passed, 0 failed"


def test_a_wrong_answer_is_told_with_query_and_cause(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([write(tmp_path, case("a"), case("b", "deny"), case("c", "allow", 81))]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == (
        "FAIL b: db ingress world TCP/80: expected deny (default deny), got allow (default deny); "
        "decided by entry [identity 2, 80/TCP: allow] of CiliumNetworkPolicy default/p ingress[0]"
    )
    assert "no entry; default deny turned on by CiliumNetworkPolicy default/p ingress[0]" in lines[1]
    assert lines[-1] == "1 passed, 2 failed"


def test_whether_documents_are_refused_is_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = {**POLICY, "spec": {"endpointSelector": {}, "ingres": []}}
    refused = [{"policy": 0, "reason": "emptiness"}]
    found = [
        case("accepted", rejected=refused),
        case("refused", policies=[wrong]),
        case("as expected", policies=[wrong], rejected=refused, queries=[]),
    ]
    assert main([write(tmp_path, *found)]) == 1
    out = capsys.readouterr().out
    assert "FAIL accepted: policy 0: expected refused (emptiness), got accepted" in out
    assert "FAIL refused: policy 0: expected accepted, got refused: " in out
    assert "1 passed, 2 failed" in out


def test_maps_are_compared_by_meaning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entry = {"direction": "ingress", "proxy": "", "deny": False}
    everyone = {**entry, "direction": "egress", "identity": 0, "protocol": "ANY", "port": 0, "prefix_bits": 0}
    host = {**entry, "identity": 1, "protocol": "ANY", "port": 0, "prefix_bits": 0}
    world = {**entry, "identity": 2, "protocol": "TCP", "port": 80, "prefix_bits": 16}
    block = {**world, "prefix_bits": 15}
    maps = case("right", maps={"db": [everyone, host, world]}), case("wrong", maps={"db": [everyone, host, block]})
    assert main([write(tmp_path, *maps)]) == 1
    out = capsys.readouterr().out
    assert "FAIL wrong: map of db ingress identity 2 6/81: expected allow, got deny" in out
    assert "FAIL right" not in out


def test_cases_that_are_listed_count_apart(tmp_path: Path) -> None:
    document = tmp_path / "differences.md"
    document.write_text(
        "| `b` | elsewhere |\n## Cases of the reference that come out differently\n| `a` | reason |\n## Else\n| `c` | x |\n"
    )
    assert cases.listed(document) == {"a"}
    path = Path(write(tmp_path, case("a", "deny"), case("b")))
    *_, listed, last = cases.run(cases.read(path), frozenset({"a"}))
    assert listed.startswith("1 listed")
    assert last == "1 passed, 0 failed"


def test_the_projects_own_cases_pass(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith(" passed, 0 failed")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"name": "a"}', json.dumps({**case("a"), "queries": [7]}), "\x1f\x8b"]
)
def test_what_is_no_case_is_refused_with_its_line(
    tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "cases.jsonl"
    path.write_text(text, encoding="latin-1")
    assert main([str(path)]) == 2
    assert "case" in capsys.readouterr().err or text.startswith("\x1f")


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot be read"):
        list(cases.read(tmp_path / "none"))
