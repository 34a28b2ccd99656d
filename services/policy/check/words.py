"""How decisions are put into words, and words into numbers."""

from __future__ import annotations

from collections.abc import Mapping

from fairlead.schema.policy import PolicyEntry
from services.policy.simulate import Decision

PROTOCOLS: Mapping[str, int] = {"ICMP": 1, "TCP": 6, "UDP": 17, "ICMPv6": 58, "SCTP": 132}
_NAMES = {number: name for name, number in PROTOCOLS.items()}


def verdict(decision: Decision) -> str:
    """Return `allow`, `deny` or `redirect`."""
    if not decision.allowed:
        return "deny"
    return "redirect" if decision.redirected else "allow"


def traffic_text(protocol: int, port: int) -> str:
    """Return traffic as people write it: `6379/TCP`."""
    return f"{port}/{_NAMES.get(protocol, protocol)}"


def match_text(entry: PolicyEntry) -> str:
    """Return what an entry matches."""
    peer = f"identity {entry.identity}" if entry.identity else "any peer"
    if not entry.protocol:
        return f"{peer}, all traffic"
    ports = f"{entry.port}-{entry.end_port}" if entry.end_port > entry.port else str(entry.port or "every port")
    return f"{peer}, {ports}/{_NAMES.get(entry.protocol, entry.protocol)}"


def entry_text(decision: Decision) -> str:
    """Return the entry that decided and the rules behind it."""
    behind = ", ".join(decision.origins) or "no rule"
    if decision.entry is None:
        return f"no entry; default deny turned on by {behind}" if not decision.allowed else "no policy"
    kind = "deny" if decision.entry.deny else "redirect" if decision.redirected else "allow"
    return f"entry [{match_text(decision.entry)}: {kind}] of {behind}"
