"""What the rows decide for one connection, by the rule that the packet path follows.

All entries that match are candidates: peer or any peer, each with the port, a range around it, every port of the protocol, or all
traffic. The highest (deny, precedence) wins, then the more specific L4, then the specific peer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from msgspec.structs import replace

from fairlead.schema.policy import Direction, PolicyEntry, PolicyRow


@dataclass(frozen=True)
class Decision:
    """What one end's policy says, and which origins say it: of the deciding entry, or of the default deny."""

    allowed: bool
    entry: PolicyEntry | None = None
    origins: tuple[str, ...] = ()
    audited: bool = False
    """It would be denied, and passes because the workload is audited."""

    @property
    def redirected(self) -> bool:
        """Tell whether the connection is allowed to a proxy only."""
        return self.allowed and not self.audited and self.entry is not None and self.entry.precedence > 0


@dataclass(frozen=True)
class Simulation:
    """What both ends say; both must allow."""

    egress: Decision
    ingress: Decision

    @property
    def allowed(self) -> bool:
        """Tell whether the connection comes about."""
        return self.egress.allowed and self.ingress.allowed


UNENFORCED = Decision(allowed=True)


def simulate(rows: Mapping[int, PolicyRow], source: int, destination: int, protocol: int, port: int) -> Simulation:
    """Return what the source's egress and the destination's ingress say; an end without a row enforces nothing."""
    leaving, entering = rows.get(source), rows.get(destination)
    return Simulation(
        egress=decide(leaving, Direction.EGRESS, destination, protocol, port) if leaving else UNENFORCED,
        ingress=decide(entering, Direction.INGRESS, source, protocol, port) if entering else UNENFORCED,
    )


def rehearsed(row: PolicyRow) -> PolicyRow:
    """Return the row as it would be if all that is audited or staged were enforced."""
    row = replace(row, audit_ingress=False, audit_egress=False)
    if row.staged is None:
        return row
    return replace(
        row,
        entries=row.staged.entries,
        ingress_default_deny=row.staged.ingress_default_deny,
        egress_default_deny=row.staged.egress_default_deny,
        staged=None,
    )


def decide(row: PolicyRow, direction: Direction, peer: int, protocol: int, port: int) -> Decision:
    """Return what the subject of the row does with this traffic of the peer."""
    decision = _decide(row, direction, peer, protocol, port)
    if decision.allowed or not (row.audit_ingress if direction is Direction.INGRESS else row.audit_egress):
        return decision
    return Decision(allowed=True, entry=decision.entry, origins=decision.origins, audited=True)


def _decide(row: PolicyRow, direction: Direction, peer: int, protocol: int, port: int) -> Decision:
    candidates = [
        entry
        for entry in row.entries
        if entry.direction == direction and entry.identity in (peer, 0) and _matches(entry, protocol, port)
    ]
    winner = max(candidates, key=_rank, default=None)
    if winner is None:
        closing = row.ingress_default_deny if direction is Direction.INGRESS else row.egress_default_deny
        return Decision(allowed=False, origins=tuple(row.origins[index] for index in closing))
    return Decision(not winner.deny, winner, tuple(row.origins[index] for index in winner.origins))


def _matches(entry: PolicyEntry, protocol: int, port: int) -> bool:
    if entry.protocol == 0:
        return True
    return entry.protocol == protocol and (
        entry.port in (0, port) or entry.port <= port <= max(entry.port, entry.end_port)
    )


def _rank(entry: PolicyEntry) -> tuple[bool, int, int, bool]:
    """Order candidates; among ranges the narrower is the more specific."""
    if entry.protocol == 0:
        width = 1 << 17
    elif entry.port == 0:
        width = 1 << 16
    else:
        width = max(entry.end_port - entry.port, 0)
    return entry.deny, entry.precedence, -width, entry.identity != 0
