"""Starts ipam on a node."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from fairlead.address import Prefix
from fairlead.app import App, launch
from fairlead.config import CommonSettings
from fairlead.schema.base import NodeName
from services.ipam.claims import Claims
from services.ipam.model import pools_from
from services.ipam.service import Ipam
from services.ipam.store import StateFile


class Settings(CommonSettings, frozen=True, kw_only=True):
    """Options of ipam."""

    pools: Annotated[tuple[Prefix, ...], Meta(min_length=1)]
    """Where the node's prefixes come from, for instance `10.0.0.0/8,fd00::/48`; several of one family are tried in order."""
    claim_lengths: tuple[int, ...] = ()
    """Lengths of the claims, one per pool by position; without: 24 for IPv4, 80 for IPv6."""
    quarantine_s: Annotated[float, Meta(ge=0, le=86400)] = 60.0
    """How long a released address is kept from other owners."""


async def run(settings: Settings) -> None:
    """Serve until told to stop."""
    pools = pools_from(settings.pools, settings.claim_lengths)
    async with App("ipam", settings) as app:
        file = StateFile(app.state_dir / "leases.json", settings.node)
        ipam = Ipam(NodeName(settings.node), file, app.condition, app.clock, quarantine_s=settings.quarantine_s)
        claims = Claims(app.kv, app.bus, ipam, pools, app.condition, app.clock)
        app.spawn("claim", claims.run)
        app.spawn("announce", claims.projector.run)
        await app.serve(ipam.routes())
        await app.run()


if __name__ == "__main__":
    launch("ipam", Settings, run)
