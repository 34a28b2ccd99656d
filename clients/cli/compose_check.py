"""A stack's documents and tests judged by the policy service's own code, run as a child like `fairlead policy check`."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from msgspec import structs

from clients.cli import output, policy_check
from clients.cli.compose_rules import Stated
from clients.cli.compose_services import Stack
from clients.cli.output import Answer, Exit
from fairlead import codec
from fairlead.errors import InvalidInput

_FAILING = re.compile(r"tests\[\d+\] of .*")
_WRONG_INPUT = 2


@dataclass(frozen=True)
class Plan:
    """What a stack states, what the network plugin will state for it, and who is concerned."""

    stack: Stack
    stated: tuple[Stated, ...]
    tests: tuple[Stated, ...]
    plugin: tuple[Stated, ...]
    warnings: tuple[str, ...] = ()

    @property
    def documents(self) -> tuple[Stated, ...]:
        """Return what is to be stored."""
        return self.stated + self.tests

    def lines(self) -> list[dict[str, Any]]:
        """Return every test of `x-fairlead.tests`."""
        return [test for one in self.tests for test in one.document.tests or ()]


def judged(plan: Plan, options: argparse.Namespace, in_force: Sequence[dict[str, Any]] = ()) -> Answer:
    """Return which tests pass. Raises InvalidInput naming file, path and mend."""
    done = _run(plan, _settings(options), in_force)
    if done.returncode == _WRONG_INPUT:
        raise InvalidInput(_without_prefix(done.stderr.strip()))
    failing = [line for line in done.stdout.splitlines() if _FAILING.match(line)]
    rows = [_row(test, failing) for test in plan.lines()]
    known = {f"({test['name']})" for test in plan.lines()}
    others = [line for line in failing if not any(name in line for name in known)]
    warnings = [_without_prefix(line) for line in done.stderr.splitlines() if line.strip()]
    own = [line for line in warnings if any(_called(one) in line for one in plan.documents)]
    value = {
        "project": plan.stack.project,
        "documents": [{"document": _called(one), "from": one.origin} for one in (*plan.documents, *plan.plugin)],
        "tests": [dict(zip(("test", "expected", "passed", "why"), row, strict=True)) for row in rows],
        "failing": others,
    }
    status = Exit.NO if failing else Exit.OK
    return Answer(value, _text(plan, rows, others), status, (*plan.warnings, *own))


def kept(plan: Plan, options: argparse.Namespace) -> Plan:
    """Return the plan with the tests that its own documents fulfil; others wait for what the plugin states when containers start."""
    if not plan.plugin:
        return plan
    verdict: Any = judged(replace(plan, plugin=()), options).value
    early = {row["test"] for row in verdict["tests"] if not row["passed"]}
    tests = [_without(one, early) for one in plan.tests]
    warnings = [
        f"{name}: fulfilled by labels or networks of containers, so it is not stored as a test"
        for name in sorted(early)
    ]
    return replace(plan, tests=tuple(one for one in tests if one.document.tests), warnings=(*plan.warnings, *warnings))


def _without(stated: Stated, names: Collection[str]) -> Stated:
    left = [test for test in stated.document.tests or () if test["name"] not in names]
    return stated._replace(document=structs.replace(stated.document, tests=left))


def asked(plan: Plan, options: argparse.Namespace, in_force: Sequence[dict[str, Any]] = ()) -> int:
    """Print whether one workload reaches another, and return the exit status."""
    question = ["--from", options.source, "--to", options.destination, "--port", options.port]
    done = _run(plan, [*_settings(options), *question, "--output", options.output], in_force)
    print(done.stdout, end="")
    print(done.stderr, end="", file=sys.stderr)
    return done.returncode


def _settings(options: argparse.Namespace) -> list[str]:
    given = {"--mode": options.mode, "--cluster": options.cluster}
    return [word for name, value in given.items() if value for word in (name, value)]


def _run(plan: Plan, words: Sequence[str], in_force: Sequence[dict[str, Any]]) -> subprocess.CompletedProcess[str]:
    """Run the check on files made of the plan; in what it says, our own places stand for theirs."""
    with tempfile.TemporaryDirectory(prefix="fairlead-compose-") as name:
        folder = Path(name)
        origins = {str(folder / f"{number}.json"): one for number, one in enumerate((*plan.documents, *plan.plugin))}
        for path, one in origins.items():
            Path(path).write_text(json.dumps(codec.to_builtins(one.document)))
        files = [*policy_check.write(folder, "in-force", list(in_force), kind="List"), *origins]
        workloads = policy_check.write(folder, "workloads", list(_workloads(plan.stack)))
        arguments = [word for path in files for word in ("-f", path)]
        arguments += [word for path in workloads for word in ("--workloads", path)]
        command = [sys.executable, "-m", "services.policy.check", *arguments, *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    for path, one in origins.items():
        done.stderr = done.stderr.replace(f"{path}, document 1", one.origin).replace(path, one.origin)
    return done


def _workloads(stack: Stack) -> Iterable[dict[str, Any]]:
    for service in stack.services:
        parties = stack.parties(service)
        for labels, networks in parties.items():
            yield {"name": service if len(parties) == 1 else f"{service}@{networks[0]}", "labels": list(labels)}


def _row(test: dict[str, Any], failing: Iterable[str]) -> tuple[str, str, bool, str]:
    why = next((line for line in failing if f"({test['name']})" in line), "")
    return test["name"], test["expect"], not why, why.partition(" expects ")[2]


def _text(plan: Plan, rows: Sequence[tuple[str, str, bool, str]], others: Sequence[str]) -> str:
    head = f"{plan.stack.project}: {len(plan.stated)} policies understood"
    if plan.plugin:
        head += f", {len(plan.plugin)} more that the network plugin states"
    shown = [(name, expected, "passes" if good else "FAILS", why) for name, expected, good, why in rows]
    lines = [head, *([output.table(("TEST", "EXPECTED", "RESULT", "WHY"), shown)] if shown else []), *others]
    failed = sum(not good for _, _, good, _ in rows) + len(others)
    return "\n".join([*lines, f"{len(rows)} tests: {len(rows) - failed} passed, {failed} failed"] if rows else lines)


def _called(one: Stated) -> str:
    metadata = one.document.metadata
    name = "/".join(str(metadata[key]) for key in ("namespace", "name") if key in metadata)
    return f"{one.document.kind} {name}"


def _without_prefix(text: str) -> str:
    return text.removeprefix("fairlead: ")
