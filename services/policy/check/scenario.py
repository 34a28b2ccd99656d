"""One case of a conformance file: a small cluster, policies, and questions with the answers of the reference."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from fairlead.codec import from_builtins
from fairlead.errors import InvalidInput
from fairlead.schema.policy import Direction, PolicyEntry, PolicyObject, PolicyRow
from services.policy.check.words import PROTOCOLS, entry_text, verdict
from services.policy.labels import NamedPort, make_identity, parse_label
from services.policy.model import Model
from services.policy.parse import parse
from services.policy.resolve import Enforcement, Mode
from services.policy.rules import Policy, Translation, ZeroPrefix
from services.policy.simulate import decide

_FIELDS = ("apiVersion", "kind", "metadata", "spec", "specs")
_PORTS_OF_NO_RULE = frozenset({(6, 4321), (17, 4321), (132, 4321), (1, 3), (58, 3)})


@dataclass(frozen=True)
class Failure:
    """One answer that differs: what was asked, both answers, and what decided ours."""

    case: str
    query: str
    expected: str
    got: str
    decided_by: str = ""

    def __str__(self) -> str:
        """Return the failure on one line."""
        cause = f"; decided by {self.decided_by}" if self.decided_by else ""
        return f"FAIL {self.case}: {self.query}: expected {self.expected}, got {self.got}{cause}"


class Scenario:
    """A case, resolved; `failures` asks everything that it asks."""

    def __init__(self, case: dict[str, Any]) -> None:
        self._case = case
        self.name: str = case["name"]
        settings = case["settings"]
        self._model = Model(Enforcement(Mode(settings["mode"]), settings["allow_localhost"] == "always"))
        zero = ZeroPrefix(settings.get("zero_prefix", "world-by-family" if settings.get("ipv6") else "world"))
        self._translation = Translation(settings["cluster"], zero)
        self._numbers: dict[str, int] = {}
        self._rows: dict[str, PolicyRow] = {}
        for name, endpoint in case["endpoints"].items():
            self._add_endpoint(name, endpoint)

    @property
    def questions(self) -> int:
        """Return how many answers the case gives."""
        return len(self._case["policies"]) + len(self._case["queries"])

    def failures(self) -> Iterator[Failure]:
        """Ask everything, and return what came out differently; without one of its policies a case answers nothing."""
        refusals = list(self._put_policies())
        yield from refusals
        if refusals:
            return
        for query in self._case["queries"]:
            yield from self._ask(query)
        for subject, entries in self._case.get("maps", {}).items():
            yield from self._compare_map(subject, entries)

    def _add_endpoint(self, name: str, endpoint: dict[str, Any]) -> None:
        named = endpoint.get("named_ports")
        ports = None if named is None else {key: NamedPort(one[0], PROTOCOLS[one[1]]) for key, one in named.items()}
        self._numbers[name] = endpoint["identity"]
        self._model.put_identity(make_identity(endpoint["identity"], map(parse_label, endpoint["labels"]), ports))

    def _put_policies(self) -> Iterator[Failure]:
        rejected = {item["policy"]: item["reason"] for item in self._case.get("rejected", ())}
        for number, document in enumerate(self._case["policies"]):
            expected = f"refused ({rejected[number]})" if number in rejected else "accepted"
            try:
                policy = _read(document, self._translation)
            except InvalidInput as error:
                if number not in rejected or not error.message.startswith(self._case.get("message", "")):
                    yield Failure(self.name, f"policy {number}", expected, f"refused: {error.message}")
                continue
            if number in rejected:
                yield Failure(self.name, f"policy {number}", expected, "accepted")
                continue
            self._model.put_policy(str(number), policy)

    def _row(self, subject: str) -> PolicyRow:
        if subject not in self._rows:
            row = self._model.row(self._numbers[subject])
            if row is None:
                raise InvalidInput(f"{self.name}: {subject} is no endpoint of the case")
            self._rows[subject] = row
        return self._rows[subject]

    def _ask(self, query: dict[str, Any]) -> Iterator[Failure]:
        row = self._row(query["subject"])
        direction = Direction[query["direction"].upper()]
        protocol, peer = PROTOCOLS[query["protocol"]], self._numbers[query["peer"]]
        decision = decide(row, direction, peer, protocol, query["port"])
        closed = bool(row.ingress_default_deny if direction is Direction.INGRESS else row.egress_default_deny)
        expected = _answer(query["verdict"], query.get("default_deny", closed))
        got = _answer(verdict(decision), closed)
        if got != expected:
            asked = " ".join(str(query[part]) for part in ("subject", "direction", "peer"))
            asked += f" {query['protocol']}/{query['port']}"
            yield Failure(self.name, asked, expected, got, entry_text(decision))

    def _compare_map(self, subject: str, entries: list[dict[str, Any]]) -> Iterator[Failure]:
        """Compare a whole map by meaning: the verdict for every peer, protocol and telling port."""
        row = self._row(subject)
        reference = [_entry(entry) for entry in entries]
        for direction in Direction:
            for peer in {*self._numbers.values(), 0xFFFFFF}:
                near, theirs = _of_peer(row, row.entries, direction, peer), _of_peer(row, reference, direction, peer)
                for protocol, port in _telling(reference):
                    got = decide(near, direction, peer, protocol, port)
                    expected = verdict(decide(theirs, direction, peer, protocol, port))
                    if verdict(got) != expected:
                        asked = f"map of {subject} {direction.name.lower()} identity {peer} {protocol}/{port}"
                        yield Failure(self.name, asked, expected, verdict(got), entry_text(got))


def _answer(found: str, closed: object) -> str:
    return f"{found} ({'default deny' if closed else 'open'})"


def _read(document: Any, translation: Translation) -> Policy:
    """Return the policy of a document as an API server would hand it on: what is no part of it is left aside."""
    if not isinstance(document, dict):
        raise InvalidInput("a policy is an object")
    given = {name: document[name] for name in _FIELDS if name in document}
    return parse(from_builtins(given, PolicyObject), translation)


def _of_peer(
    row: PolicyRow, entries: list[PolicyEntry] | tuple[PolicyEntry, ...], direction: Direction, peer: int
) -> PolicyRow:
    mine = tuple(one for one in entries if one.direction == direction and one.identity in (peer, 0))
    return PolicyRow(identity=row.identity, entries=mine, origins=row.origins)


def _entry(entry: dict[str, Any]) -> PolicyEntry:
    """Return an entry of the reference; its blocks of ports are ranges here, and whoever redirects beats a plain allow."""
    everything = entry["protocol"] == "ANY"
    last = entry["port"] + (1 << (16 - entry["prefix_bits"])) - 1
    return from_builtins(
        (
            int(Direction[entry["direction"].upper()]),
            entry["identity"],
            0 if everything else PROTOCOLS[entry["protocol"]],
            0 if everything or not entry["prefix_bits"] else entry["port"],
            0 if everything or entry["prefix_bits"] in (0, 16) else last,
            entry["deny"],
            1 if entry["proxy"] else 0,
        ),
        PolicyEntry,
    )


def _telling(entries: list[PolicyEntry]) -> set[tuple[int, int]]:
    """Return protocol and port on both sides of every boundary in the map."""
    found = set(_PORTS_OF_NO_RULE)
    for entry in entries:
        last = max(entry.port, entry.end_port)
        near = (entry.port - 1, entry.port, last, last + 1) if entry.protocol else ()
        found.update((entry.protocol, port) for port in near if 0 < port < 65536)
    return found
