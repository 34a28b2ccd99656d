"""Which nodes have the wanted rows in their kernels; pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from fairlead.schema.base import NodeName
from fairlead.schema.datapath import RealisedRow
from fairlead.schema.identity import HOST, AddressGroup
from fairlead.schema.policy import HOST_ROWS, NodeRealised

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
    wanted: Mapping[str, int], hosting: Hosting, realised: Mapping[str, RealisedRow]
) -> tuple[NodeRealised, ...]:
    """Return each node that needs a row of `wanted` (row key to revision), and whether it has confirmed them all.

    A node needs its own row, those of the identities that it has an address for, and what it says it has realised or failed to realise.
    """
    found = []
    hosts = {key.removeprefix(HOST_ROWS) for key in wanted if key.startswith(HOST_ROWS)}
    for node in sorted({*hosting.nodes, *realised, *hosts}):
        own = realised.get(node)
        said = {*own.rows, *own.failed} if own else set()
        concerned = sorted(wanted.keys() & {*said, *map(str, hosting.hosted(node)), f"{HOST_ROWS}{node}"})
        if concerned:
            missing = [text for key in concerned if (text := _missing(key, wanted[key], own))]
            found.append(NodeRealised(node=NodeName(node), realised=not missing, detail="; ".join(missing[:5])))
    return tuple(found)


def identities_of(keys: Iterable[str]) -> tuple[int, ...]:
    """Return the identities whose rows have these keys, sorted."""
    return tuple(sorted({int(HOST) if key.startswith(HOST_ROWS) else int(key) for key in keys}))


def _missing(key: str, revision: int, own: RealisedRow | None) -> str:
    """Return what is missing of one row on one node; empty when it is confirmed."""
    what = "the node itself" if key.startswith(HOST_ROWS) else f"identity {key}"
    if own is None:
        return f"{what}: the node has confirmed nothing yet"
    stands = own.rows.get(key)
    if stands is not None and stands >= revision:
        return ""
    reason = own.failed.get(key)
    if reason:
        return f"{what}: {reason}"
    return f"{what}: at revision {stands if stands is not None else 'none'}, wanted {revision}"
