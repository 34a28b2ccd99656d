"""Runs scenarios in the conformance format: a small cluster, policies, and questions with the expected answers."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fairlead.errors import InvalidInput
from fairlead.schema.policy import Direction, PolicyObject
from services.policy.labels import NamedPort, make_identity, parse_label
from services.policy.model import Model
from services.policy.parse import parse
from services.policy.resolve import Enforcement, Mode
from services.policy.rules import Policy, Translation, ZeroPrefix
from services.policy.simulate import Decision, decide

PROTOCOLS = {"ICMP": 1, "TCP": 6, "UDP": 17, "ICMPv6": 58, "SCTP": 132}
REPOSITORY = Path(__file__).parents[3]
GOLDEN = REPOSITORY / "tests" / "golden" / "policy"


@dataclass
class Outcome:
    """What a run of scenarios came to."""

    scenarios: int = 0
    questions: int = 0
    wrong: list[str] = field(default_factory=list)
    stricter: list[str] = field(default_factory=list)
    """Scenarios with a document that we refuse on purpose (docs/policy-differences.md)."""

    def add(self, other: Outcome) -> None:
        self.scenarios += other.scenarios
        self.questions += other.questions
        self.wrong += other.wrong
        self.stricter += other.stricter

    def summary(self) -> str:
        right = self.questions - len(self.wrong)
        return f"{right} of {self.questions} answers right in {self.scenarios} scenarios"


def conformance_folder() -> Path | None:
    """Return where the observed answers of the reference are, or None on machines without them."""
    given = os.environ.get("FAIRLEAD_CONFORMANCE")
    folder = Path(given) if given else REPOSITORY.parent / "shared" / "conformance"
    return folder if folder.is_dir() else None


def read(path: Path) -> Iterator[dict[str, Any]]:
    lines = gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text()
    for line in lines.splitlines():
        if line.strip():
            yield json.loads(line)


class Run:
    """One scenario, resolved."""

    def __init__(self, scenario: dict[str, Any]) -> None:
        self.scenario = scenario
        settings = scenario["settings"]
        self.zero = ZeroPrefix.WORLD_BY_FAMILY if settings.get("ipv6") else ZeroPrefix.WORLD
        self.translation = Translation(settings["cluster"], self.zero)
        self.model = Model(Enforcement(Mode(settings["mode"]), settings["allow_localhost"] == "always"))
        self.numbers: dict[str, int] = {}
        self.outcome = Outcome(scenarios=1)
        for name, endpoint in scenario["endpoints"].items():
            self._add_endpoint(name, endpoint)
        self.rejected = {item["policy"]: item["reason"] for item in scenario["rejected"]}
        for number, document in enumerate(scenario["policies"]):
            self._add_policy(number, document)

    def _add_endpoint(self, name: str, endpoint: dict[str, Any]) -> None:
        ports = {key: NamedPort(value[0], PROTOCOLS[value[1]]) for key, value in endpoint["named_ports"].items()}
        labels = [parse_label(text) for text in endpoint["labels"]]
        self.numbers[name] = endpoint["identity"]
        self.model.put_identity(make_identity(endpoint["identity"], labels, ports))

    def _add_policy(self, number: int, document: dict[str, Any]) -> None:
        self.outcome.questions += 1
        reason = self.rejected.get(number)
        try:
            policy = read_policy(document, self.translation)
        except InvalidInput as error:
            if reason is None and is_stricter(error):
                self.outcome.stricter.append(self.scenario["name"])
            elif reason is None:
                self._wrong(f"policy {number} refused: {error}")
            return
        if reason is not None:
            self._wrong(f"policy {number} accepted, expected {reason}")
        self.model.put_policy(str(number), policy)

    def _wrong(self, text: str) -> None:
        self.outcome.wrong.append(f"{self.scenario['name']}: {text}")

    def check_queries(self) -> Outcome:
        for query in self.scenario["queries"]:
            self.outcome.questions += 1
            got = self.answer(query)
            expected = {"verdict": query["verdict"], "default_deny": query["default_deny"]}
            if got != expected:
                self._wrong(f"{query} got {got}")
        return self.outcome

    def answer(self, query: dict[str, Any]) -> dict[str, Any]:
        direction = Direction[query["direction"].upper()]
        row = self.model.row(self.numbers[query["subject"]])
        assert row is not None
        peer = self.numbers[query["peer"]]
        decision = decide(row, direction, peer, PROTOCOLS[query["protocol"]], query["port"])
        closed = row.ingress_default_deny if direction is Direction.INGRESS else row.egress_default_deny
        return {"verdict": verdict(decision), "default_deny": bool(closed)}

    def check_maps(self) -> Outcome:
        """Compare whole maps by meaning: the verdict for every peer, protocol and telling port."""
        for subject, entries in self.scenario["maps"].items():
            row = self.model.row(self.numbers[subject])
            assert row is not None
            for protocol, port in _telling(entries):
                for peer in self.numbers.values():
                    for direction in Direction:
                        self.outcome.questions += 1
                        got = verdict(decide(row, direction, peer, protocol, port))
                        expected = _looked_up(entries, direction, peer, protocol, port)
                        if got != expected:
                            self._wrong(f"map {subject} {direction.name} {peer} {protocol}/{port} {expected} got {got}")
        return self.outcome


def read_policy(document: dict[str, Any], translation: Translation) -> Policy:
    given = {name: document[name] for name in ("apiVersion", "kind", "metadata", "spec", "specs") if name in document}
    if not isinstance(given.get("spec", {}), dict):
        raise InvalidInput("`spec`: not an object")
    return parse(PolicyObject(**given), translation)


def is_stricter(error: InvalidInput) -> bool:
    """Tell whether we refuse on purpose what the reference skips: unknown fields (docs/policy-differences.md)."""
    return "unknown field" in error.message


def verdict(decision: Decision) -> str:
    if not decision.allowed:
        return "deny"
    return "redirect" if decision.redirected else "allow"


def _telling(entries: list[dict[str, Any]]) -> set[tuple[int, int]]:
    """Return protocol and port on both sides of every boundary in the map."""
    found = {(number, 4321) for number in (6, 17, 132)} | {(1, 3), (58, 3)}
    for entry in entries:
        if entry["protocol"] == "ANY":
            continue
        last = entry["port"] + (1 << (16 - entry["prefix_bits"])) - 1
        for port in (entry["port"] - 1, entry["port"], last, last + 1):
            if 0 < port < 65536:
                found.add((PROTOCOLS[entry["protocol"]], port))
    return found


def _looked_up(entries: list[dict[str, Any]], direction: Direction, peer: int, protocol: int, port: int) -> str:
    found = "deny"
    rank = 0
    for entry in entries:
        if Direction[entry["direction"].upper()] is not direction or entry["identity"] not in (peer, 0):
            continue
        if entry["protocol"] != "ANY":
            shift = 16 - entry["prefix_bits"]
            if PROTOCOLS[entry["protocol"]] != protocol or entry["port"] >> shift != port >> shift:
                continue
        own = 3 if entry["deny"] else 2 if entry["proxy"] else 1
        if own > rank:
            rank, found = own, ("deny", "allow", "redirect", "deny")[own]
    return found
