"""Two versions of one document: whether rows can be amended from the one to the other, or must be made anew. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from services.policy.rules import Policy, Rule, Stage
from services.policy.selector import WILDCARD

Pairs = list[tuple[Rule, Rule]]


def exchanged(old: Policy, new: Policy) -> Pairs | None:
    """Return the rules that say something else of some peers now, old and new; None: more than that has changed.

    What a rule says of anybody, and whether it closes a direction, bears on all of a row; so does the origin of a new rule.
    """
    pairs = list(zip(old.rules, new.rules, strict=False))
    if len(old.rules) != len(new.rules) or any(_kept(one) != _kept(other) for one, other in pairs):
        return None
    if any(rule.stage is not Stage.LIVE for rule in new.rules):
        return None
    changed = [(one, other) for one, other in pairs if (one.peers, one.traffic) != (other.peers, other.traffic)]
    return None if any(WILDCARD in rule.peers for rule in _both(changed)) else changed


def _kept(rule: Rule) -> tuple[object, ...]:
    flags = rule.deny, rule.default_deny, rule.selects_hosts, rule.authenticates, rule.silent, rule.audits, rule.stage
    return rule.subject, rule.direction, rule.origin, *flags


def _both(pairs: Pairs) -> Iterable[Rule]:
    return (rule for pair in pairs for rule in pair)
