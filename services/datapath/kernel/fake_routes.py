"""Where the node's own stack, and its programs, send packets that are for pods: the part of `fake.FakeKernel` about ways."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from fairlead.address import Address, Prefix


@dataclass
class FakeWays:
    """What outlives a process of it."""

    prefixes: tuple[Prefix, ...] = ()
    tunnels: dict[Prefix, Address] = field(default_factory=dict)


class FakeRoutes:
    """The operations on it."""

    world: FakeWays

    def _enter(self, operation: str, endpoint: int = 0) -> None:
        raise NotImplementedError

    def set_prefixes(self, prefixes: Iterable[Prefix]) -> None:
        """Remember the node's workload prefixes."""
        self._enter("set_prefixes")
        self.world.prefixes = tuple(sorted(set(prefixes)))

    def tunnels(self) -> dict[Prefix, Address]:
        """Return prefix to the node that has it."""
        self._enter("tunnels")
        return dict(self.world.tunnels)

    def apply_tunnels(self, puts: Mapping[Prefix, Address], deletes: Iterable[Prefix]) -> None:
        """Change prefix to node."""
        self._enter("apply_tunnels")
        for prefix in deletes:
            self.world.tunnels.pop(prefix, None)
        self.world.tunnels.update(puts)
