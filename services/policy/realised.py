"""Which nodes have the wanted rows in their kernels; pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from fairlead.schema.base import NodeName
from fairlead.schema.datapath import RealisedRow
from fairlead.schema.identity import AddressGroup
from fairlead.schema.policy import NodeRealised

_NO_NODE = "external-"
"""Groups whose names begin so hold addresses that no node of ours hosts."""


class Hosting:
    """Which nodes host which identities, kept from the address groups."""

    def __init__(self) -> None:
        self._identities: dict[str, frozenset[int]] = {}

    def take(self, group: str, row: AddressGroup | None) -> None:
        """Take in a node's addresses."""
        if row is None or group.startswith(_NO_NODE):
            self._identities.pop(group, None)
        else:
            self._identities[group] = frozenset(entry.identity for entry in row.entries if entry.host is not None)

    def hosted(self, node: str) -> frozenset[int]:
        """Return the identities that have an address on the node."""
        return self._identities.get(node, frozenset())

    @property
    def nodes(self) -> Iterable[str]:
        """Return the nodes that have addresses."""
        return self._identities.keys()


def confirmations(
    wanted: Mapping[int, int], hosting: Hosting, realised: Mapping[str, RealisedRow]
) -> tuple[NodeRealised, ...]:
    """Return each node that hosts an identity of `wanted` (identity to row revision), and whether it has confirmed them all.

    A node hosts what it has an address for, and what it says it has realised or failed to realise.
    """
    found = []
    for node in sorted({*hosting.nodes, *realised}):
        own = realised.get(node)
        said = {int(key) for key in (*own.rows, *own.failed) if key.isdigit()} if own else set()
        concerned = sorted(wanted.keys() & (said | hosting.hosted(node)))
        if concerned:
            missing = [text for number in concerned if (text := _missing(number, wanted[number], own))]
            found.append(NodeRealised(node=NodeName(node), realised=not missing, detail="; ".join(missing[:5])))
    return tuple(found)


def _missing(number: int, revision: int, own: RealisedRow | None) -> str:
    """Return what is missing of one identity on one node; empty when it is confirmed."""
    if own is None:
        return f"identity {number}: the node has confirmed nothing yet"
    stands = own.rows.get(str(number))
    if stands is not None and stands >= revision:
        return ""
    reason = own.failed.get(str(number))
    if reason:
        return f"identity {number}: {reason}"
    return f"identity {number}: at revision {stands if stands is not None else 'none'}, wanted {revision}"
