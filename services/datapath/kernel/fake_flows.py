"""The flow table of the kernel in dicts, as far as its collector goes: tests say which flows are over."""

from __future__ import annotations

from dataclasses import dataclass, field

from services.datapath.reports import Event, Sweep


@dataclass
class FakeTable:
    """What outlives a process of it."""

    standing: int = 0
    """Flows that are valid."""
    over: list[Event] = field(default_factory=list)
    """Ends of flows that nobody has taken out yet."""
    places: int = 4096


class FakeFlows:
    """The operation on it."""

    world: FakeTable

    def _enter(self, operation: str, endpoint: int = 0) -> None:
        raise NotImplementedError

    def sweep(self) -> Sweep:
        """Take out what is over, all at once."""
        self._enter("sweep")
        ended, self.world.over = tuple(self.world.over), []
        return Sweep(True, self.world.standing, len(ended), self.world.places, ended)
