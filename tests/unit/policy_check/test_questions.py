"""Questions, changes and replays, from files to exit status."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from services.policy.check.__main__ import main

WORKLOADS = """\
- {name: employee-1, labels: [app=employee], addresses: [10.42.0.2, "fd42::2"]}
- {name: employee-2, labels: {app: employee}}
- {name: intern-1, labels: {app: intern}}
- {name: db, labels: {app: db}, addresses: [10.42.1.2]}
"""
SEED = """\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: seed}
spec:
  endpointSelector: {matchLabels: {app: db}}
  ingress:
  - fromEndpoints: [{matchLabels: {app: employee}}]
    toPorts: [{ports: [{port: "6379", protocol: TCP}]}]
"""
CIDR = """\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: office}
spec:
  endpointSelector: {matchLabels: {app: db}}
  ingress: [{fromCIDR: [192.0.2.0/24]}]
"""
BY_SEED = "CiliumNetworkPolicy default/seed ingress[0]"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in (("w.yaml", WORKLOADS), ("seed.yaml", SEED), ("cidr.yaml", CIDR)):
        (tmp_path / name).write_text(text)
    return tmp_path


def ask(folder: Path, source: str, destination: str, port: str, *more: str) -> int:
    files = ["-f", str(folder / "seed.yaml"), "--workloads", str(folder / "w.yaml")]
    return main([*files, "--from", source, "--to", destination, "--port", port, *more])


@pytest.mark.parametrize(
    ("source", "destination", "port", "status", "said"),
    [
        ("employee-1", "db", "6379/TCP", 0, f"allowed by {BY_SEED} (entry: identity 256, 6379/TCP)"),
        ("employee-2", "10.42.1.2", "6379", 0, f"allowed by {BY_SEED}"),
        ("fd42::2", "db", "6379/tcp", 0, f"allowed by {BY_SEED}"),
        ("intern-1", "db", "6379/TCP", 1, f"no rule allows it, and default deny was turned on by {BY_SEED}"),
        ("employee-1", "db", "6380/TCP", 1, "no rule allows it"),
        ("employee-1", "db", "8/ICMP", 1, "no rule allows it"),
        ("host", "db", "6379/TCP", 0, "allowed by built-in"),
        ("world", "db", "6379/TCP", 1, "no rule allows it"),
        ("192.0.2.7", "db", "6379/TCP", 1, "no rule allows it"),
        ("db", "intern-1", "53/UDP", 0, "allowed: no rule closes this direction"),
        ("db", "world", "53/UDP", 0, "ingress of world: allowed: nothing is enforced there"),
    ],
)
def test_a_question_is_answered_with_its_cause(
    folder: Path, capsys: pytest.CaptureFixture[str], source: str, destination: str, port: str, status: int, said: str
) -> None:
    assert ask(folder, source, destination, port) == status
    assert said in capsys.readouterr().out


def test_the_answer_for_programs_names_both_sides(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(folder, "intern-1", "db", "6379/TCP", "-o", "json") == 1
    answer = json.loads(capsys.readouterr().out)
    assert (answer["allowed"], answer["egress"]["verdict"], answer["ingress"]["verdict"]) == (False, "allow", "deny")
    assert answer["ingress"]["by"] == [BY_SEED]
    assert answer["ingress"]["default_deny"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--from", "nobody", "--to", "db", "--port", "1"], "no workload 'nobody'"),
        (["--from", "db", "--to", "db", "--port", "0/TCP"], "1 to 65535"),
        (["--from", "db", "--to", "db", "--port", "300/ICMP"], "too large"),
        (["--from", "db", "--to", "db", "--port", "http"], "write it like"),
        (["--from", "db"], "belong together"),
        (["--base", "x"], "--base is for --diff"),
    ],
)
def test_a_wrong_question_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert main(["-f", str(folder / "seed.yaml"), "--workloads", str(folder / "w.yaml"), *arguments]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("workloads", "said"),
    [
        ("- {name: a}", "labels"),
        ("- {name: a, labels: [x=1]}\n- {name: a, labels: [x=2]}", "stands twice"),
        ("- {name: a, labels: [x=1], addresses: [10.0.0.300]}", "10.0.0.300"),
        ("- {name: a, labels: [x=1], place: []}", "place"),
        (
            "- {name: a, labels: [x=1], addresses: [10.0.0.1]}\n- {name: b, labels: [x=2], addresses: [10.0.0.1]}",
            "belongs",
        ),
        ("- 7", "workload 1"),
    ],
)
def test_wrong_workloads_are_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], workloads: str, said: str
) -> None:
    (folder / "w.yaml").write_text(workloads)
    assert main(["-f", str(folder / "seed.yaml"), "--workloads", str(folder / "w.yaml")]) == 2
    assert said in capsys.readouterr().err


def changes(folder: Path, capsys: pytest.CaptureFixture[str], new: str, *more: str) -> list[dict[str, Any]]:
    (folder / "new.yaml").write_text(new)
    arguments = ["--base", str(folder / "seed.yaml"), "-f", str(folder / "new.yaml")]
    status = main(["--diff", *arguments, "--workloads", str(folder / "w.yaml"), "-o", "json", *more])
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    assert status == (1 if found else 0)
    return found


def told(found: list[dict[str, Any]]) -> set[tuple[str, str, str, bool]]:
    return {(one["source"], one["destination"], one["traffic"], one["allowed"]) for one in found}


def test_the_same_policies_change_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert changes(folder, capsys, SEED) == []


def test_another_port_changes_exactly_two_verdicts_for_each_employee(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = changes(folder, capsys, SEED.replace("6379", "6380"))
    assert told(found) == {
        (name, "db", port, allowed)
        for name in ("employee-1", "employee-2")
        for port, allowed in (("6379/TCP", False), ("6380/TCP", True))
    }


def test_a_new_prefix_is_a_party_and_was_the_world_before(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = told(changes(folder, capsys, CIDR))
    assert {(one[0], one[1], one[3]) for one in found} == {("192.0.2.0/24", "db", True)}
    assert ("192.0.2.0/24", "db", "6379/TCP", True) in found


def flow(source: str, destination: str, port: int, verdict: str, reason: str = "", label: str = "") -> dict[str, Any]:
    return {
        "uuid": "u", "time": "2026-01-01T00:00:00Z", "node_name": "n1", "verdict": verdict,
        "traffic_direction": "INGRESS", "protocol": "TCP", "drop_reason_desc": reason,
        "source": {"address": source, "labels": [label] if label else []},
        "destination": {"address": destination, "port": port},
    }  # fmt: skip


FLOWS = [
    flow("10.42.0.2", "10.42.1.2", 6379, "FORWARDED"),
    flow("10.42.0.9", "10.42.1.2", 6379, "FORWARDED", label="container:app=intern"),
    flow("192.0.2.7", "10.42.1.2", 6379, "DROPPED", "policy denied: no entry admits it", label="reserved:world"),
    flow("192.0.2.8", "10.42.1.2", 6379, "DROPPED", "no identity is known"),
]


@pytest.mark.parametrize("form", ["list", "lines"])
def test_flows_are_decided_again(folder: Path, capsys: pytest.CaptureFixture[str], form: str) -> None:
    text = json.dumps(FLOWS, indent=2) if form == "list" else "\n".join(map(json.dumps, FLOWS))
    (folder / "flows.json").write_text(text)
    files = ["-f", str(folder / "seed.yaml"), "--workloads", str(folder / "w.yaml")]
    assert main([*files, "--flows", str(folder / "flows.json"), "-o", "json"]) == 1
    (one,) = json.loads(capsys.readouterr().out)
    assert (one["source"], one["destination"], one["allowed"]) == ("10.42.0.9", "db", False)


def test_a_change_is_replayed_over_flows(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "flows.json").write_text(json.dumps(FLOWS))
    found = changes(folder, capsys, CIDR, "--flows", str(folder / "flows.json"))
    assert told(found) == {("192.0.2.7", "db", "6379/TCP", True)}


@pytest.mark.parametrize("text", ["[1]", "{}", "[{", '{"uuid": 1}'])
def test_what_is_no_flow_is_refused(folder: Path, text: str) -> None:
    (folder / "flows.json").write_text(text)
    assert main(["-f", str(folder / "seed.yaml"), "--flows", str(folder / "flows.json")]) == 2


def test_documents_alone_are_read_and_remarked_on(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-f", str(folder / "seed.yaml")]) == 0
    assert "default/seed: understood, 1 rules" in capsys.readouterr().out
    (folder / "seed.yaml").write_text(SEED.replace("6379", "70000"))
    assert main(["-f", str(folder / "seed.yaml")]) == 2
    assert "`spec.ingress[0].toPorts[0].ports[0].port`" in capsys.readouterr().err


def test_the_command_line_forwards_options_output_and_status(folder: Path) -> None:
    files = ["-f", str(folder / "seed.yaml"), "--workloads", str(folder / "w.yaml")]
    command = [sys.executable, "-m", "clients.cli", "policy", "check", *files]
    asked = [*command, "--from", "intern-1", "--to", "db", "--port", "6379/TCP", "-o", "json", "--mode", "never"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    assert (done.returncode, json.loads(done.stdout)["allowed"]) == (0, True)
    done = subprocess.run([*command, "--from", "x"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "belong together" in done.stderr


TESTED = (
    SEED
    + """\
tests:
- {name: staff, from: {labels: {app: employee}}, to: {labels: {app: db}}, port: 6379/TCP, expect: allow}
- {from: {labels: {app: intern}}, to: {labels: {app: db}}, port: 6379/TCP, expect: %s}
"""
)


@pytest.mark.parametrize(
    ("expect", "status", "said"), [("deny", 0, "2 passed, 0 failed"), ("allow", 1, "1 passed, 1 failed")]
)
def test_tests_in_documents_are_run(
    folder: Path, expect: str, status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "tested.yaml").write_text(TESTED % expect)
    assert main(["-f", str(folder / "tested.yaml")]) == status
    out = capsys.readouterr().out
    assert f"2 tests: {said}" in out
    assert ("app=intern -> app=db 6379/TCP) expects allow and gets deny" in out) == bool(status)


def test_a_change_that_breaks_a_test_of_another_document_says_so(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "tested.yaml").write_text(TESTED % "deny")
    (folder / "deny.yaml").write_text(
        "{apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {name: shut},"
        " spec: {endpointSelector: {}, ingressDeny: [{fromEntities: [all]}]}}"
    )
    assert main(["--diff", "--base", str(folder / "tested.yaml"), "-f", str(folder / "deny.yaml")]) == 1
    assert "tests[0] of CiliumNetworkPolicy default/seed (staff" in capsys.readouterr().err


def test_an_audited_workload_is_told_in_the_answer(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "audit.yaml").write_text(
        "{apiVersion: fairlead.dev/v1, kind: WorkloadAudit, metadata: {name: db},"
        " spec: {endpointSelector: {matchLabels: {app: db}}, until: '2100-01-01T00:00:00Z'}}"
    )
    assert ask(folder, "intern-1", "db", "6379", "-f", str(folder / "audit.yaml")) == 0
    assert "allowed because the workload is audited; else denied: no rule allows it" in capsys.readouterr().out
