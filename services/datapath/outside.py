"""How pods' flows look from outside: what is masqueraded, and the ends that such flows have there. Part of `operations.Kernel`."""

from __future__ import annotations

from dataclasses import dataclass

from fairlead.address import Address, Family, Prefix


@dataclass(frozen=True)
class Masquerade:
    """What of the pods' traffic to the world leaves as this node's own."""

    families: frozenset[Family] = frozenset()
    """Empty: none."""
    first_port: int = 61000
    """Of the ports that flows have outside: above those that the node's own sockets choose from."""
    last_port: int = 65535
    exclusions: frozenset[Prefix] = frozenset()
    """Destinations that see the pods' own addresses."""
    addresses: tuple[Address, ...] = ()
    """This node's own, for uplinks that have none; an uplink's own ones among them come before its others."""


@dataclass(frozen=True, order=True)
class MasqueradedFlow:
    """An outer end that is held for a flow. For ICMP echo a port is the identifier, and the remote port its type."""

    protocol: int
    pod: Address
    pod_port: int
    own: Address
    own_port: int
    remote: Address
    remote_port: int
    idle_s: float
    """Since something came back, or the flow was looked after."""
