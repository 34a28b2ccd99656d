"""What the service asks of a BGP engine. An engine is a process of its own: neither end of this interface dies with the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from fairlead.address import Address, Prefix
from services.bgp.model import Routes, Speaker


@dataclass(frozen=True)
class Applied:
    """What became of the wanted state; `running` is False when it only stands on disk, for the engine's next start."""

    changed: bool
    running: bool


@dataclass(frozen=True)
class Session:
    """One neighbour as the engine sees it."""

    name: str
    address: Address
    peer_asn: int
    local_asn: int
    state: str
    since: str
    exported: int
    imported: int
    detail: str = ""

    @property
    def established(self) -> bool:
        """Tell whether routes travel now."""
        return self.state == "Established"


@dataclass(frozen=True)
class Status:
    """The engine's own view."""

    version: str
    sessions: tuple[Session, ...]
    announced: dict[Prefix, tuple[str, ...]]
    """Each prefix that the engine holds, with the names of the established sessions that carry it."""


class Engine(Protocol):
    """Full desired state in, never single steps. Every call may be repeated."""

    async def apply(self, routes: Routes) -> Applied:
        """Announce exactly `routes`. Calls that come while one is at work are done together, the newest wins."""

    async def configure(self, speaker: Speaker) -> tuple[str, ...]:
        """Set neighbours, timers and drain; return the names of the sessions that flap for it."""

    async def status(self) -> Status:
        """Return sessions and announced prefixes. Raises Unavailable when the engine does not answer."""

    async def in_step(self) -> bool:
        """Compare the engine's routes with those wanted, all of them. Raises Unavailable."""

    async def shutdown(self, *, graceful: bool) -> None:
        """End the engine: `graceful` leaves the routes with the neighbours, otherwise they are withdrawn at once."""
