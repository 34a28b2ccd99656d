"""Tests that documents carry: read them, and judge them by the code that makes rows.

A test names two ends, a port and what is expected. The ends need not exist: labels say enough, and a test means the same on every day.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from functools import cached_property
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from fairlead.codec import from_builtins
from fairlead.errors import InvalidInput
from fairlead.schema.identity import FIRST_CIDR_IDENTITY, FIRST_CLUSTER_IDENTITY, RESERVED_LABELS, WORLD
from fairlead.schema.policy import Direction, PolicyRow
from services.policy.documents import Part
from services.policy.groups import cidr_identity
from services.policy.labels import (
    COMPOSE_PROJECT_KEY,
    NAMESPACE_KEY,
    Identity,
    Label,
    Network,
    implied,
    make_identity,
    network,
    parse_label,
)
from services.policy.life import Life
from services.policy.ports import refuse
from services.policy.resolve import Enforcement, World, resolve
from services.policy.rules import POLICY_TESTS, Policy, Reader, Rule, Stage, Trial, title
from services.policy.selector import Selector
from services.policy.simulate import Decision, rehearsed, simulate

_PROTOCOLS = {"TCP": 6, "UDP": 17, "SCTP": 132, "ICMP": 1, "ICMPv6": 58}
_RESERVED = {labels[0].removeprefix("reserved:"): number for number, labels in RESERVED_LABELS.items()}
_SOURCE, _DESTINATION = 0, 1
MAX_TESTS = 200


class End(Part, frozen=True, kw_only=True):
    """One end: a workload by its labels, a reserved identity, or an address."""

    labels: Annotated[dict[str, str], Meta(min_length=1, max_length=64)] | None = None
    entity: str | None = None
    address: str | None = None


class Test(Part, frozen=True, kw_only=True):
    """One item of `tests`."""

    name: Annotated[str, Meta(max_length=253)] = ""
    from_: End = msgspec.field(name="from")
    to: End
    port: str
    expect: Literal["allow", "deny"]
    direction: Literal["ingress", "egress"] | None = None


class Tests(Part, frozen=True, kw_only=True):
    """The part of a document that this is about."""

    tests: Annotated[list[Test], Meta(max_length=MAX_TESTS)]


class TestsSpec(Part, frozen=True, kw_only=True):
    """`spec` of a document that holds tests and nothing else."""

    description: Annotated[str, Meta(max_length=1024)] = ""


class TestsDocument(Part, frozen=True, kw_only=True):
    """What a document of the kind PolicyTests holds beside its name and its tests."""

    spec: TestsSpec


def check_tests_only(_document: TestsDocument, tests: list[dict[str, Any]] | None, life: Life) -> None:
    """Raise InvalidInput if a document that is nothing but tests has none, or is staged or audited."""
    if not tests:
        refuse("tests", "a PolicyTests holds tests: give it some")
    if life.stage is not Stage.LIVE:
        refuse("metadata.annotations", "there is nothing in tests to be audited or staged")


def read(given: list[dict[str, Any]] | None, reader: Reader) -> tuple[Trial, ...]:
    """Return the tests of a document. Raises InvalidInput naming the field."""
    if given is None:
        return ()
    tests: list[Test] = from_builtins({"tests": given}, Tests).tests
    return tuple(_trial(test, number, reader) for number, test in enumerate(tests))


def _trial(test: Test, number: int, reader: Reader) -> Trial:
    path = f"tests[{number}]"
    source, destination = _end(test.from_, f"{path}.from", reader), _end(test.to, f"{path}.to", reader)
    digits, slash, name = test.port.partition("/")
    protocol = _PROTOCOLS.get(name if slash else "TCP")
    if protocol is None or not re.fullmatch(r"[0-9]{1,5}", digits) or int(digits) > (65535 if protocol > 1 else 255):
        refuse(f"{path}.port", f"{test.port!r} is no port: write 6379/TCP, 53/UDP, or a type like 8/ICMP")
    said = f"{test.name}: " if test.name else ""
    ends = f"{said}{_text(test.from_)} -> {_text(test.to)} {test.port}"
    told = test.name if test.name and reader.reference.kind == POLICY_TESTS else ends
    line = f"{path} of {title(reader.reference)} ({told})"
    asked = Direction[test.direction.upper()] if test.direction else None
    return Trial(line, source, destination, protocol, int(digits), test.expect == "allow", asked)


def _text(end: End) -> str:
    if end.labels is not None:
        return ",".join(f"{key}={value}" for key, value in sorted(end.labels.items()))
    return end.entity or end.address or ""


def _end(end: End, path: str, reader: Reader) -> Identity | Network:
    if sum(given is not None for given in (end.labels, end.entity, end.address)) != 1:
        refuse(path, "exactly one of `labels`, `entity` and `address` is needed")
    if end.address is not None:
        return network(reader.prefix(end.address, f"{path}.address"))
    if end.entity is not None:
        if end.entity not in _RESERVED:
            refuse(f"{path}.entity", f"{end.entity!r} is not one of {', '.join(sorted(_RESERVED))}")
        return make_identity(_RESERVED[end.entity], [parse_label(f"reserved:{end.entity}")])
    return _workload(end.labels or {}, f"{path}.labels", reader)


def _workload(labels: Mapping[str, str], path: str, reader: Reader) -> Identity:
    """Return a workload with these labels; without a project or a namespace of its own it lives in the document's."""
    try:
        found = {parse_label(f"{key}={value}") for key, value in labels.items()}
    except InvalidInput as error:
        refuse(path, error.message)
    if reader.namespace and not any(label.key in (NAMESPACE_KEY, COMPOSE_PROJECT_KEY) for label in found):
        found.add(Label("k8s", NAMESPACE_KEY, reader.namespace))
    return make_identity(FIRST_CLUSTER_IDENTITY, implied(found, reader.translation.cluster))


class Court:
    """Judges tests by a set of policies; nothing else of the world matters."""

    def __init__(self, policies: Iterable[Policy], enforcement: Enforcement) -> None:
        self._policies = tuple(policies)
        self._enforcement = enforcement

    def failure(self, trial: Trial, *, rehearse: bool = False) -> str:
        """Return what is wrong, in one line; empty when the test passes. `rehearse`: as if all that is audited were enforced."""
        ends = [self._identity(trial.source, _SOURCE), self._identity(trial.destination, _DESTINATION)]
        identities = {identity.number: identity for identity in ends}
        world = World(lambda wanted: [n for n, one in identities.items() if wanted.matches(one)], identities)
        rows = {
            identity.number: self._row(identity, world, rehearse=rehearse)
            for end, identity in zip((trial.source, trial.destination), ends, strict=True)
            if _is_workload(end)
        }
        said = simulate(rows, ends[0].number, ends[1].number, trial.protocol, trial.port)
        asked = {
            None: (said.egress, said.ingress),
            Direction.EGRESS: (said.egress,),
            Direction.INGRESS: (said.ingress,),
        }
        decisions = asked[trial.direction]
        if all(decision.allowed for decision in decisions) == trial.allowed:
            return ""
        expected, got = ("allow", "deny") if trial.allowed else ("deny", "allow")
        return f"{trial.line} expects {expected} and gets {got}: {_why(decisions)}"

    def _row(self, subject: Identity, world: World, *, rehearse: bool) -> PolicyRow:
        rules = [rule for rule in self._rules_of(subject) if not rule.audits]
        row = resolve(subject, rules, world, self._enforcement)
        return rehearsed(row) if rehearse else row

    @cached_property
    def _by_subject(self) -> dict[Selector, list[Rule]]:
        found: dict[Selector, list[Rule]] = {}
        for policy in self._policies:
            for rule in policy.workload_rules:
                found.setdefault(rule.subject, []).append(rule)
        return found

    def _rules_of(self, subject: Identity) -> list[Rule]:
        return [rule for selector, rules in self._by_subject.items() if selector.matches(subject) for rule in rules]

    def _identity(self, end: Identity | Network, which: int) -> Identity:
        """Return who the end is; two workloads are two, even with the same labels."""
        if isinstance(end, Identity):
            return make_identity(end.number + which, end.labels) if _is_workload(end) else end
        covering = [prefix for policy in self._policies for prefix in policy.prefixes if network(prefix).covers(end)]
        longest = max(covering, key=lambda prefix: network(prefix).length, default=None)
        if longest is None:
            return make_identity(WORLD, [parse_label("reserved:world")])
        groups = [policy.group for policy in self._policies if policy.group]
        return cidr_identity(FIRST_CIDR_IDENTITY + which, longest, groups)


def broken(
    before: Mapping[str, Policy], after: Mapping[str, Policy], keys: Collection[str], enforcement: Enforcement
) -> list[str]:
    """Return the tests that a change of these documents fails: all of their own, and those of others that passed before."""
    changed = [one for key in keys for one in (before.get(key), after.get(key)) if one]
    then, now = Court(before.values(), enforcement), Court(after.values(), enforcement)
    new = [after[key] for key in keys if key in after]
    own = [now.failure(trial, rehearse=one.stage is not Stage.LIVE) for one in new for trial in one.trials]
    others = (trial for name, policy in after.items() if name not in keys for trial in policy.trials)
    failing = (
        (trial, text)
        for trial in others
        if any(_concerns(policy, trial) for policy in changed) and (text := now.failure(trial))
    )
    return [*filter(None, own), *(text for trial, text in failing if not then.failure(trial))]


def _concerns(policy: Policy, trial: Trial) -> bool:
    """Tell whether a change of the policy can change what the test gets."""
    if policy.group is not None:
        return True
    ends = [end for end in (trial.source, trial.destination) if isinstance(end, Identity)]
    return any(subject.matches(end) for subject in {rule.subject for rule in policy.workload_rules} for end in ends)


def _is_workload(end: Identity | Network) -> bool:
    return isinstance(end, Identity) and end.number == FIRST_CLUSTER_IDENTITY


def _why(decisions: Iterable[Decision]) -> str:
    refusing = [decision for decision in decisions if not decision.allowed]
    if not refusing:
        return "every end that is asked allows it"
    origins = ", ".join(refusing[0].origins) or "no document"
    return f"denied by {origins}" if refusing[0].entry else f"no entry allows it, closed by {origins}"
