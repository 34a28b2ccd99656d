"""Conformance files: every case is run; those that differ on purpose are listed in docs/policy-differences.md."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from fairlead.errors import InvalidInput
from fairlead.schema.identity import RESERVED_LABELS
from services.policy.check.scenario import Failure, Scenario
from services.policy.labels import implied, parse_label

REPOSITORY = Path(__file__).parents[3]
OWN_CASES = REPOSITORY / "tests" / "golden" / "policy"
DIFFERENCES = REPOSITORY / "docs" / "policy-differences.md"
_LIST = "## Cases of the reference that come out differently"


@dataclass
class Tally:
    """What a run came to."""

    passed: int = 0
    answers: int = 0
    failed: list[str] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    listed: list[str] = field(default_factory=list)
    """Cases that differ, and are listed as differing on purpose."""

    def take(self, scenario: Scenario, listed: frozenset[str]) -> list[Failure]:
        """Run one case, count it, and return its failures."""
        try:
            found = list(scenario.failures())
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InvalidInput(f"case {scenario.name}: this is no case of a conformance file: {error!r}") from error
        self.answers += scenario.questions
        if not found:
            self.passed += 1
        elif scenario.name in listed:
            self.listed.append(scenario.name)
            return []
        else:
            self.failed.append(scenario.name)
        self.failures += found
        return found


def read(path: Path) -> Iterator[Scenario]:
    """Return the cases of a JSON Lines file, gzip-compressed or not. Raises InvalidInput naming the line."""
    try:
        data = path.read_bytes()
        text = (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path}: cannot be read: {error}") from error
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            yield _scenario(line, f"{path}, line {number}")


def _scenario(line: str, where: str) -> Scenario:
    try:
        return Scenario(json.loads(line))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidInput(f"{where}: this is no case of a conformance file: {error!r}") from error


def own() -> Iterator[Scenario]:
    """Return the project's own cases. Raises InvalidInput where they are not at hand."""
    paths = sorted(OWN_CASES.glob("*.yaml"))
    if not paths:
        raise InvalidInput("the project's own cases come with its source only: name a conformance file")
    for path in paths:
        for case in yaml.safe_load(path.read_text()):
            yield Scenario(_as_case(case, path.stem))


def _as_case(case: dict[str, Any], file: str) -> dict[str, Any]:
    endpoints = {
        labels[0].removeprefix("reserved:"): {"identity": number, "labels": list(labels)}
        for number, labels in RESERVED_LABELS.items()
    }
    for number, (name, labels) in enumerate(case.get("endpoints", {}).items(), 256):
        found = implied(map(parse_label, labels), "default")
        endpoints[name] = {"identity": number, "labels": [str(label) for label in found]}
    refused = case.get("refused")
    return {
        "name": f"{file}: {case['name']}",
        "settings": {"mode": "default", "allow_localhost": "always", "cluster": "default", "zero_prefix": "prefix"},
        "endpoints": endpoints,
        "policies": case["policies"],
        "rejected": [] if refused is None else [{"policy": 0, "reason": refused}],
        "message": refused or "",
        "queries": [] if refused is not None else [_query(line) for line in case["expect"]],
    }


def _query(line: str) -> dict[str, Any]:
    question, _, expected = line.rpartition(": ")
    subject, direction, peer, traffic = question.split()
    protocol, port = traffic.split("/")
    named = {"subject": subject, "direction": direction, "peer": peer, "protocol": protocol}
    return {**named, "port": int(port), "verdict": expected}


def listed(document: Path = DIFFERENCES) -> frozenset[str]:
    """Return the names of the cases that the document lists; none where the document is not at hand."""
    if not document.is_file():
        return frozenset()
    _, _, section = document.read_text().partition(_LIST)
    rows = section.split("\n## ")[0].splitlines()
    return frozenset(row.split("`")[1] for row in rows if row.startswith("| `"))


def run(cases: Iterable[Scenario], on_purpose: frozenset[str]) -> Iterator[str]:
    """Run the cases; return the lines to print as they come: failures, what is listed, and `N passed, N failed`."""
    tally = Tally()
    for scenario in cases:
        yield from map(str, tally.take(scenario, on_purpose))
    if tally.passed + len(tally.failed) + len(tally.listed) == 0:
        raise InvalidInput("the file holds no case")
    yield f"{tally.answers} answers compared, {len(tally.failures)} of them differ"
    yield f"{len(tally.listed)} listed in docs/policy-differences.md as different on purpose" + "".join(
        f"; {name}" for name in tally.listed
    )
    yield f"{tally.passed} passed, {len(tally.failed)} failed"
