"""May A reach B on this port, and why: both directions, each with what decides it."""

from __future__ import annotations

import re
from dataclasses import replace

from fairlead.errors import InvalidInput
from fairlead.schema.base import Message
from fairlead.schema.policy import Direction
from services.policy.check.words import PROTOCOLS, match_text, traffic_text, verdict
from services.policy.check.world import Fleet, Party
from services.policy.simulate import Decision

_BY_UPPER = {name.upper(): number for name, number in PROTOCOLS.items()}


class Side(Message, frozen=True, kw_only=True):
    """What one end's policy says. `by` names the deciding rules, or who turned default deny on."""

    direction: str
    subject: str
    verdict: str
    why: str
    by: tuple[str, ...] = ()
    default_deny: bool = False


class Reply(Message, frozen=True, kw_only=True):
    """The whole answer; both sides must allow."""

    source: str
    destination: str
    traffic: str
    allowed: bool
    egress: Side
    ingress: Side

    def __str__(self) -> str:
        """Return the answer for people: overall, then each side."""
        head = f"{self.source} -> {self.destination} {self.traffic}: {'allowed' if self.allowed else 'denied'}"
        sides = (f"  {side.direction} of {side.subject}: {side.why}" for side in (self.egress, self.ingress))
        return "\n".join((head, *sides))


def traffic(text: str) -> tuple[int, int]:
    """Return protocol and port of `6379/TCP`, `53/udp`, `8/ICMP` (a type) or `6379` (TCP). Raises InvalidInput."""
    match = re.fullmatch(r"([0-9]{1,5})(?:/([A-Za-z0-9]{1,6}))?", text)
    protocol = _BY_UPPER.get((match[2] or "TCP").upper()) if match else None
    if match is None or protocol is None:
        raise InvalidInput(f"{text!r} is no port: write it like 6379/TCP; protocols are {', '.join(PROTOCOLS)}")
    port = int(match[1])
    if not port and protocol not in (1, 58):
        raise InvalidInput(f"{text!r}: a connection goes to a port from 1 to 65535")
    if port > (255 if protocol in (1, 58) else 65535):
        raise InvalidInput(f"{text!r}: the number is too large")
    return protocol, port


def ask(fleet: Fleet, source: Party, destination: Party, protocol: int, port: int) -> Reply:
    """Return what both ends say of one connection."""
    found = fleet.world.simulate(source.identity, destination.identity, protocol, port)
    return Reply(
        source=source.name,
        destination=destination.name,
        traffic=traffic_text(protocol, port),
        allowed=found.allowed,
        egress=_side(fleet, source, Direction.EGRESS, found.egress),
        ingress=_side(fleet, destination, Direction.INGRESS, found.ingress),
    )


def _side(fleet: Fleet, subject: Party, direction: Direction, decision: Decision) -> Side:
    row = fleet.world.rows().get(subject.identity)
    closing = () if row is None else (row.egress_default_deny, row.ingress_default_deny)[direction is Direction.INGRESS]
    return Side(
        direction=direction.name.lower(),
        subject=subject.name,
        verdict=verdict(decision),
        why=why(decision, enforced=row is not None),
        by=decision.origins,
        default_deny=bool(closing),
    )


def why(decision: Decision, *, enforced: bool = True) -> str:
    """Return one sentence: the verdict and its cause."""
    if decision.audited:
        return f"allowed because the workload is audited; else {why(replace(decision, allowed=False, audited=False))}"
    behind = ", ".join(decision.origins)
    entry = decision.entry
    if entry is None:
        if decision.allowed:
            return "allowed: nothing is enforced there" if not enforced else "allowed"
        return f"denied: no rule allows it, and default deny was turned on by {behind}"
    matched = f" (entry: {match_text(entry)})"
    if entry.deny:
        return f"denied by {behind}{matched}"
    if not behind:
        return "allowed: no rule closes this direction"
    return f"allowed{' to a proxy' if decision.redirected else ''} by {behind}{matched}"
