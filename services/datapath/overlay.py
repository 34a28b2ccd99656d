"""How packets travel between nodes inside tunnels, and which tunnel leads to which prefix. All functions are pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from fairlead.address import Address, Prefix
from fairlead.schema.identity import NodeRow


@dataclass(frozen=True)
class Overlay:
    """How packets travel to other nodes, if not as they are."""

    kind: str
    """`vxlan` or `geneve`."""
    addresses: tuple[Address, ...]
    """This node's own. Tunnels prefer the first one's family; the first of a family is what the node's stack speaks from."""
    port: int = 0
    """UDP; 0: the usual one of its kind."""

    @property
    def udp_port(self) -> int:
        """Return the UDP port, the same on every node of the fleet."""
        return self.port or {"vxlan": 8472, "geneve": 6081}[self.kind]

    @property
    def overhead_bytes(self) -> int:
        """Return what the tunnel's headers take of the uplinks' MTU: outer IP, UDP, tunnel, inner Ethernet."""
        return (40 if self.addresses and self.addresses[0].family == 6 else 20) + 8 + 8 + 14

    def source(self, family: int) -> Address | None:
        """Return the address of that family that the node's own stack speaks from, if it has one."""
        return next((address for address in self.addresses if address.family == family), None)


def far_address(node: NodeRow, overlay: Overlay) -> Address | None:
    """Return where the tunnel to the node ends: its first address of the family that this node prefers, else of one it has."""
    families = dict.fromkeys(int(address.family) for address in overlay.addresses)
    found = (address for family in families for address in node.addresses if address.family == family)
    return next(found, None)


def tunnels_of(nodes: Iterable[NodeRow], overlay: Overlay) -> dict[Prefix, Address]:
    """Return prefix to the far end of its tunnel. Of two nodes that say they have a prefix, the one that said it last has it.

    A prefix of workloads that holds a node's own address is left out: what carries the tunnels would be led into them.
    """
    rows = sorted(nodes, key=lambda row: (row.revision, row.node))
    outside = {*overlay.addresses, *(address for row in rows for address in row.addresses)}
    found: dict[Prefix, Address] = {}
    for row in rows:
        far = far_address(row, overlay)
        if far is not None:
            found |= dict.fromkeys((prefix for prefix in row.prefixes if not _holds(prefix, outside)), far)
            found |= dict.fromkeys((address.prefix for address in row.addresses), far)
    return {prefix: far for prefix, far in found.items() if prefix not in {own.prefix for own in overlay.addresses}}


def _holds(prefix: Prefix, addresses: Iterable[Address]) -> bool:
    return any(address in prefix for address in addresses)


def trouble(row: NodeRow, overlay: Overlay) -> str:
    """Return why the node cannot be reached as it should; empty when it can."""
    far = far_address(row, overlay)
    if far is None:
        return f"{row.node} and this node have no address of one family: correct the option `node_addresses`"
    inside = [str(prefix) for prefix in row.prefixes if _holds(prefix, (*overlay.addresses, *row.addresses))]
    if inside:
        return f"{', '.join(inside)} of {row.node} holds addresses of nodes: give workloads other `pools`"
    if far.family != overlay.addresses[0].family:
        return f"{row.node} has no IPv{int(overlay.addresses[0].family)} address: its tunnel is not what the MTU was made for"
    return ""
