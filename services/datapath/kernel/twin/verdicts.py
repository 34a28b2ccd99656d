"""What both ends' policies say of a packet."""

from __future__ import annotations

from services.datapath.failsafe import HOST_ENDPOINT, FailsafePort
from services.datapath.kernel.twin.cases import Case, Told
from services.datapath.kernel.twin.policy import EGRESS, INGRESS
from services.datapath.kernel.twin.rows import Rows
from services.datapath.reports import DropReason, EventKind

_DROP, _NEW, _AUDIT = EventKind.DROP, EventKind.NEW_FLOW, EventKind.AUDIT
_DENIALS = frozenset((int(DropReason.POLICY), int(DropReason.POLICY_DENY)))


def held(rows: Rows, case: Case) -> Told | None:
    """Return what is told of a packet from or to an endpoint that is held; the node itself never is."""
    for endpoint, direction in ((case.source, EGRESS), (case.destination, INGRESS)):
        entry = rows.entry(endpoint)
        if endpoint and (entry is None or entry.held):
            return case.told(_DROP, int(DropReason.HELD), direction, endpoint)
    return None


def judge(rows: Rows, case: Case, now_s: float, *, reply: bool) -> tuple[Told, Told]:
    """Judge the direction in which the flow began: the initiator's egress, then the responder's ingress.

    Returns what is told, and what the last policy that was asked has said.
    """
    packet, told = case.packet, case.told(_NEW, 0, INGRESS, case.destination)
    if case.source == case.destination:
        return told, told  # a pod may always reach itself
    initiator, responder = (case.source, case.source_identity), (case.destination, case.destination_identity)
    port = packet.policy_port
    if reply:
        initiator, responder, port = responder, initiator, packet.ports[0]
    exempt, would, by_glass = _exempt(rows, case, port, reply=reply), None, False
    for (endpoint, _), (_, peer), direction in ((initiator, responder, EGRESS), (responder, initiator, INGRESS)):
        if endpoint and endpoint != exempt:
            told = _judge_one(rows, case, endpoint, peer, port, direction)
            if told.reason in _DENIALS and told.kind is _DROP and rows.is_glass_broken(endpoint, now_s):
                told = told._replace(kind=_AUDIT, by_glass=True)
            if told.kind is _DROP:
                return told, told
            by_glass = by_glass or told.by_glass
            would = would or (told if told.kind is _AUDIT else None)
    return (would or told)._replace(by_glass=by_glass), told


def _exempt(rows: Rows, case: Case, port: int, *, reply: bool) -> int:
    """Return the endpoint whose policy has no say: this node, if its port of the flow is failsafe; else 0."""
    if rows.host is None or HOST_ENDPOINT not in {case.source, case.destination}:
        return 0
    direction = EGRESS if (case.source == HOST_ENDPOINT) != reply else INGRESS
    is_failsafe = FailsafePort(direction, case.packet.protocol, port) in rows.host.failsafe
    return HOST_ENDPOINT if is_failsafe else 0


def _judge_one(rows: Rows, case: Case, endpoint: int, peer: int, port: int, direction: int) -> Told:
    policy, entry = rows.policies.get(endpoint), rows.standing(endpoint)
    match = policy.best(peer, case.packet.protocol, port, direction) if policy else None
    denial = _AUDIT if (entry.audit_egress if direction == EGRESS else entry.audit_ingress) else _DROP
    if match is None:
        silent = entry.egress_default_deny if direction == EGRESS else entry.ingress_default_deny
        return case.told(denial, int(DropReason.POLICY), direction, endpoint, silent)
    value = match[1]
    if value.deny:
        return case.told(denial, int(DropReason.POLICY_DENY), direction, endpoint, value.provenance)
    reason = int(DropReason.NO_PROXY) if value.proxy_port else 0
    return case.told(_DROP if reason else _NEW, reason, direction, endpoint, value.provenance)
