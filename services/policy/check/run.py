"""One offline check from its options to its output."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence

from fairlead import codec
from fairlead.errors import InvalidInput
from fairlead.schema.policy import PolicyObject
from services.policy.check import change, question, replay
from services.policy.check.world import Fleet, put_all, read_policies, read_workloads
from services.policy.offline import World
from services.policy.resolve import Enforcement, Mode
from services.policy.rules import Policy, Stage, Translation
from services.policy.trials import Court

_MOST_LINES = 1000
Documents = list[tuple[str, PolicyObject]]


def run(options: argparse.Namespace) -> int:
    """Run the check that the options ask for, print its answer, and return the exit status. Raises InvalidInput."""
    asked = (options.source, options.destination, options.port)
    if any(asked) and not all(asked):
        raise InvalidInput("--from, --to and --port belong together")
    if options.base and not options.diff:
        raise InvalidInput("--base is for --diff: name the policies in force there, and the change with -f")
    world = World(Translation(options.cluster), _enforcement(options))
    fleet = Fleet(world, [one for path in options.workloads for one in read_workloads(path)])
    documents, base = read_policies(options.file), read_policies(options.base)
    if options.diff:
        return _diff(options, fleet, base, documents)
    policies = put_all(world, documents)
    if options.flows:
        recorded = list(replay.decidable(replay.read(options.flows), fleet))
        return _show_changes(options, replay.differing(recorded, fleet), f"of {len(recorded)} recorded flows")
    if all(asked):
        return _question(options, fleet)
    return _understood(options, documents, policies)


def _question(options: argparse.Namespace, fleet: Fleet) -> int:
    protocol, port = question.traffic(options.port)
    answer = question.ask(fleet, fleet.party(options.source), fleet.party(options.destination), protocol, port)
    _show(options, answer, str(answer))
    return 0 if answer.allowed else 1


def _diff(options: argparse.Namespace, fleet: Fleet, base: Documents, proposed: Documents) -> int:
    recorded = list(replay.decidable(replay.read(options.flows), fleet)) if options.flows else []
    before = put_all(fleet.world, base)
    policies = put_all(
        _scratch(options, base), proposed
    )  # read once for its prefixes: the world must not know them yet
    prefixes = {prefix for policy in (*before, *policies) for prefix in policy.prefixes}
    everyone = change.parties(fleet, prefixes)
    ends = [end for _, source, destination, _ in recorded for end in (source, destination)]
    old = change.state(fleet, everyone + ends)
    after = put_all(fleet.world, proposed)
    _warn(after)
    failing = _failing({policy.reference: policy for policy in (*before, *after)}.values(), options)
    new = change.state(fleet, everyone + ends)
    if options.flows:
        status = _show_changes(options, replay.altered(recorded, old, new), f"of {len(recorded)} recorded flows")
    else:
        status = _show_changes(options, change.changes(old, new, everyone), f"among {len(everyone)} parties")
    for line in failing:
        print(f"fairlead: {line}", file=sys.stderr)
    return 1 if failing else status


def _failing(policies: Iterable[Policy], options: argparse.Namespace) -> list[str]:
    """Return the tests in documents that these policies together fail, each in one line; as at publication."""
    everything = tuple(policies)
    court = Court(everything, _enforcement(options))
    judged = ((trial, policy.stage is not Stage.LIVE) for policy in everything for trial in policy.trials)
    return [text for trial, rehearse in judged if (text := court.failure(trial, rehearse=rehearse))]


def _enforcement(options: argparse.Namespace) -> Enforcement:
    """Return the settings of the service: what needs a proxy or an authenticator is closed here."""
    return Enforcement(Mode(options.mode), proxies=frozenset(), authenticator=False)


def _scratch(options: argparse.Namespace, base: Documents) -> World:
    world = World(Translation(options.cluster))
    put_all(world, base)
    return world


def _show_changes(options: argparse.Namespace, changes: Iterable[change.Change], among: str) -> int:
    """Print the changes, the first thousand of them, and how many there are."""
    found = list(changes)
    if options.output == "json":
        _show(options, found, "")
    else:
        for one in found[:_MOST_LINES]:
            print(one)
        if len(found) > _MOST_LINES:
            print(f"... and {len(found) - _MOST_LINES} more (-o json shows all)")
        print(f"{len(found)} verdicts change {among}")
    return 1 if found else 0


def _understood(options: argparse.Namespace, documents: Documents, policies: Sequence[Policy]) -> int:
    _warn(policies)
    failing = _failing(policies, options)
    lines = [f"{policy.reference.kind} {_name(policy)}: understood, {len(policy.rules)} rules" for policy in policies]
    lines += [f"{len(documents)} documents understood", *failing]
    tests = sum(len(policy.trials) for policy in policies)
    if tests:
        lines.append(f"{tests} tests: {tests - len(failing)} passed, {len(failing)} failed")
    if options.output == "json":
        for line in failing:
            print(f"fairlead: {line}", file=sys.stderr)
    _show(options, [policy.reference for policy in policies], "\n".join(lines))
    return 1 if failing else 0


def _warn(policies: Iterable[Policy]) -> None:
    for policy in policies:
        for warning in policy.warnings:
            print(f"fairlead: {policy.reference.kind} {_name(policy)}: {warning}", file=sys.stderr)


def _name(policy: Policy) -> str:
    return "/".join(part for part in (policy.reference.namespace, policy.reference.name) if part)


def _show(options: argparse.Namespace, value: object, text: str) -> None:
    print(json.dumps(codec.to_builtins(value), indent=2, ensure_ascii=False) if options.output == "json" else text)
