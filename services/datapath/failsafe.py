"""The node itself under a host policy, and the ports of it that no policy can close, so that nobody locks himself out. Pure.

A port is written `protocol/port` or `protocol/first-last`, for instance `tcp/22`, `udp/3784-3785`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from fairlead.address import Address
from fairlead.errors import InvalidInput

HOST_ENDPOINT = 65535
"""The number of the node itself; workloads have those below."""


class FailsafePort(NamedTuple):
    """A port of this node that no policy can close."""

    direction: int
    """0: others reach the node there; 1: the node reaches others there."""
    protocol: int
    port: int


@dataclass(frozen=True)
class HostEntry:
    """What the programs need to know of the node itself while a host policy is in force."""

    addresses: tuple[Address, ...]
    """All of the node's own addresses, sorted."""
    failsafe: frozenset[FailsafePort] = frozenset()
    ingress_default_deny: int = 0
    """Provenance number, as in EndpointEntry."""
    egress_default_deny: int = 0
    audit_ingress: bool = False
    """What the policy of this direction denies passes, and is reported as AUDIT; the next one alike."""
    audit_egress: bool = False


INGRESS, EGRESS = 0, 1
PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}
MOST_PORTS = 2048
"""In one direction; the programs' map holds each port by itself."""

INBOUND = (
    "tcp/22",  # SSH
    "udp/68",  # DHCP's client; neighbour discovery passes anyway
    "udp/546",
    "tcp/179",  # BGP
    "udp/3784-3785",  # BFD
    "udp/4784",  # BFD over several hops
    "tcp/2379-2380",  # etcd
    "tcp/4222",  # NATS: clients, routes between servers, leaf nodes
    "tcp/6222",
    "tcp/7422",
    "udp/8472",  # VXLAN
    "udp/6081",  # Geneve
)
OUTBOUND = (
    "tcp/53",  # DNS
    "udp/53",
    "udp/67",  # DHCP's server
    "udp/547",
    "udp/123",  # NTP: certificates and leases need the time
    *INBOUND[3:],
)
_FORM = re.compile(r"([a-z]+)/(\d{1,5})(?:-(\d{1,5}))?")


def failsafe(inbound: Iterable[str], outbound: Iterable[str]) -> frozenset[FailsafePort]:
    """Return the ports that the two options name. Raises InvalidInput."""
    return frozenset((*_ports("failsafe_inbound", INGRESS, inbound), *_ports("failsafe_outbound", EGRESS, outbound)))


def tunnel_ports(port: int) -> frozenset[FailsafePort]:
    """Return what tunnels at this UDP port need: without it all workloads of the node were cut off."""
    return frozenset(FailsafePort(direction, PROTOCOLS["udp"], port) for direction in (INGRESS, EGRESS))


def _ports(option: str, direction: int, texts: Iterable[str]) -> set[FailsafePort]:
    found: set[FailsafePort] = set()
    for text in texts:
        protocol, first, last = _parse(option, text)
        found.update(FailsafePort(direction, protocol, port) for port in range(first, last + 1))
    if len(found) > MOST_PORTS:
        raise InvalidInput(
            f"`{option}`: {len(found)} ports are too many, {MOST_PORTS} fit: write a host policy instead"
        )
    return found


def _parse(option: str, text: str) -> tuple[int, int, int]:
    match = _FORM.fullmatch(text)
    if match is None or match[1] not in PROTOCOLS:
        raise InvalidInput(
            f"`{option}`: {text!r} is no port: write protocol/port or protocol/first-last, such as tcp/22 or udp/3784-3785; "
            f"protocols are {', '.join(PROTOCOLS)}"
        )
    first, last = int(match[2]), int(match[3] or match[2])
    if not 1 <= first <= last <= 65535:
        raise InvalidInput(f"`{option}`: {text!r}: ports go from 1 to 65535, the smaller one first")
    return PROTOCOLS[match[1]], first, last


def shown(ports: Iterable[FailsafePort], direction: int) -> tuple[str, ...]:
    """Return one direction's ports as they are written, neighbours joined."""
    names = {number: name for name, number in PROTOCOLS.items()}
    spans: list[list[int]] = []
    for _, protocol, port in sorted(one for one in ports if one.direction == direction):
        if spans and spans[-1][0] == protocol and spans[-1][2] == port - 1:
            spans[-1][2] = port
        else:
            spans.append([protocol, port, port])
    return tuple(f"{names[protocol]}/{a}" + (f"-{b}" if b > a else "") for protocol, a, b in spans)
