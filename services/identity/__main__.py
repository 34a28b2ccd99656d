"""Starts identity: any number of replicas, none of them special."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from fairlead.allowance import Allowance
from fairlead.app import App, launch
from fairlead.config import CommonSettings
from services.identity.announcer import Announcer, LeaseWatch
from services.identity.catalogue import Catalogue
from services.identity.keys import Keys
from services.identity.service import Identity


class Settings(CommonSettings, frozen=True, kw_only=True):
    """Options of identity."""

    identity_prefix: Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*$")] = "cilium"
    """Root of Cilium's key schema in etcd."""
    endpoint_tombstone_s: Annotated[int, Meta(ge=60, le=30 * 86400)] = 86400
    """How long a withdrawn endpoint is remembered, so that a late duplicate does not bring it back."""
    node_requests_per_s: Annotated[float, Meta(gt=0, le=100_000)] = 100.0
    """How often each node may ask in the long run; ten times as many at once, for a node that starts states all it has."""


_LIMIT_SHOWN_S = 60.0


async def _tell_limits(app: App, allowance: Allowance) -> None:
    """Say which nodes ask too much."""
    while True:
        refused = allowance.refused(_LIMIT_SHOWN_S)
        told = ", ".join(f"{node} ({count} refused)" for node, count in sorted(refused.items()))
        app.condition(
            "requests", ok=not refused, detail=f"over {allowance.rate_per_s:g} per second: {told}" if told else ""
        )
        await app.clock.sleep(1.0)


async def run(settings: Settings) -> None:
    """Serve until told to stop."""
    async with App("identity", settings) as app:
        names = Keys(settings.identity_prefix, settings.cluster)
        catalogue = Catalogue(names)
        announcer = Announcer(app.kv, app.bus, names, catalogue, app.condition, app.clock)
        leases = LeaseWatch(app.kv, app.condition, app.clock)
        allowance = Allowance(settings.node_requests_per_s, 10 * settings.node_requests_per_s, app.clock.monotonic_s)
        tombstone_s = settings.endpoint_tombstone_s
        identity = Identity(app.kv, names, catalogue, app.clock, tombstone_s=tombstone_s, allowance=allowance)
        app.spawn("tell limits", lambda: _tell_limits(app, allowance))
        app.spawn("follow", announcer.follower.run)
        app.spawn("announce identities", announcer.identities.run)
        app.spawn("announce addresses", announcer.addresses.run)
        app.spawn("announce nodes", announcer.nodes.run)
        app.spawn("follow externals", leases.follower.run)
        app.spawn("watch leases", leases.run)
        await app.serve(identity.routes())
        await app.run()


if __name__ == "__main__":
    launch("identity", Settings, run)
