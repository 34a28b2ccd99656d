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
from services.policy.rules import Policy, Translation

_MOST_LINES = 1000
Documents = list[tuple[str, PolicyObject]]


def run(options: argparse.Namespace) -> int:
    """Run the check that the options ask for, print its answer, and return the exit status. Raises InvalidInput."""
    asked = (options.source, options.destination, options.port)
    if any(asked) and not all(asked):
        raise InvalidInput("--from, --to and --port belong together")
    if options.base and not options.diff:
        raise InvalidInput("--base is for --diff: name the policies in force there, and the change with -f")
    # As the service: what needs a proxy or an authenticator is closed here.
    enforcement = Enforcement(Mode(options.mode), proxies=frozenset(), authenticator=False)
    world = World(Translation(options.cluster), enforcement)
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
    _warn(put_all(fleet.world, proposed))
    new = change.state(fleet, everyone + ends)
    if options.flows:
        return _show_changes(options, replay.altered(recorded, old, new), f"of {len(recorded)} recorded flows")
    return _show_changes(options, change.changes(old, new, everyone), f"among {len(everyone)} parties")


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
    lines = [f"{policy.reference.kind} {_name(policy)}: understood, {len(policy.rules)} rules" for policy in policies]
    _show(
        options,
        [policy.reference for policy in policies],
        "\n".join([*lines, f"{len(documents)} documents understood"]),
    )
    return 0


def _warn(policies: Iterable[Policy]) -> None:
    for policy in policies:
        for warning in policy.warnings:
            print(f"fairlead: {policy.reference.kind} {_name(policy)}: {warning}", file=sys.stderr)


def _name(policy: Policy) -> str:
    return "/".join(part for part in (policy.reference.namespace, policy.reference.name) if part)


def _show(options: argparse.Namespace, value: object, text: str) -> None:
    print(json.dumps(codec.to_builtins(value), indent=2, ensure_ascii=False) if options.output == "json" else text)
