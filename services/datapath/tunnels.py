"""The tunnels to other nodes: the desired rows, and the reconciler's operations."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping

from fairlead.address import Address, Prefix
from fairlead.errors import FairleadError
from fairlead.schema.identity import NodeRow
from fairlead.table import Table
from services.datapath.operations import Kernel
from services.datapath.overlay import Overlay, trouble, tunnels_of
from services.datapath.plan import plan, too_many
from services.datapath.worker import KernelThread

_LOG = logging.getLogger("datapath.tunnels")


class Tunnels:
    """The tunnels that this node wants; none, when packets travel as they are."""

    def __init__(self, overlay: Overlay | None) -> None:
        self._overlay = overlay
        self._nodes: dict[str, NodeRow] = {}
        self.table: Table[Prefix, Address] = Table("tunnels")
        self.held: set[Prefix] = set()
        """Removals that were not executed, because they were too many at once."""

    def hear(self, key: str, row: NodeRow | None) -> None:
        """Take a node's word, or that it left the fleet."""
        if row is None:
            self._nodes.pop(key, None)
        else:
            self._nodes[key] = row
        if self._overlay is None:
            return
        wanted, before = tunnels_of(self._nodes.values(), self._overlay), self.table.desired()
        for prefix, far in wanted.items():
            self.held.discard(prefix)
            self.table.put(prefix, far)
        gone = before.keys() - wanted.keys()
        if gone - self.held and not self.hold(gone, len(before)):
            for prefix in gone:
                self.table.remove(prefix)

    def hold(self, gone: Collection[Prefix], present: int) -> bool:
        """Tell whether these removals are too many at once; then they are held."""
        if self._overlay is None or not too_many(gone, present):
            return False
        _LOG.error("%d of %d tunnels would go at once: they are held", len(gone), present)
        self.held.update(gone)
        return True

    def release(self) -> None:
        """Let the held removals happen."""
        for prefix in self.held:
            self.table.put(prefix, Address("::"))  # it may stand in the kernel alone, from an earlier process
            self.table.remove(prefix)
        self.held.clear()

    @property
    def troubles(self) -> list[str]:
        """Return which nodes cannot be reached as they should, and why."""
        if self._overlay is None:
            return []
        return [text for row in self._nodes.values() if (text := trouble(row, self._overlay))]


class TunnelOperations:
    """What the reconciler does about tunnels."""

    def __init__(self, tunnels: Tunnels, kernel: Kernel, thread: KernelThread) -> None:
        self._tunnels = tunnels
        self._kernel = kernel
        self._thread = thread

    async def update(self, rows: Mapping[Prefix, Address]) -> Mapping[Prefix, str]:
        """Write what differs from what stands."""
        return await self._change(rows, ())

    async def delete(self, rows: Mapping[Prefix, Address]) -> Mapping[Prefix, str]:
        """Remove these rows."""
        return await self._change({}, tuple(rows))

    async def _change(self, puts: Mapping[Prefix, Address], deletes: Collection[Prefix]) -> Mapping[Prefix, str]:
        try:
            await self._thread.call(self._apply, puts, deletes)
        except FairleadError as error:
            return dict.fromkeys([*puts, *deletes], error.message)
        return {}

    async def prune(self, desired: Mapping[Prefix, Address]) -> None:
        """Remove what no node has (but never too much at once), and write what is missing."""
        have = await self._thread.call(self._kernel.tunnels)
        change = plan(desired, have)
        self._tunnels.table.touch([prefix for prefix in change.puts if self._tunnels.table.get(prefix)])
        gone = {prefix for prefix in change.deletes if prefix not in self._tunnels.held}
        if gone and not self._tunnels.hold(gone, len(have)):
            _LOG.info("%d tunnels in the kernel lead to no node: removing", len(gone))
            await self._thread.call(self._apply, {}, gone)

    def _apply(self, puts: Mapping[Prefix, Address], deletes: Collection[Prefix]) -> None:
        """Change nothing that stands already: flows would be judged anew for nothing."""
        stands = self._kernel.tunnels()
        new = {prefix: far for prefix, far in puts.items() if stands.get(prefix) != far}
        gone = [prefix for prefix in deletes if prefix in stands]
        if new or gone:
            self._kernel.apply_tunnels(new, gone)
