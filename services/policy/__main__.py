"""Composition root of the policy service."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fairlead import memory, telemetry
from fairlead.announce import Follower
from fairlead.app import App, launch
from fairlead.bus import Bus
from fairlead.clock import Clock
from fairlead.kv import Kv
from fairlead.schema.policy import CIDRS as CIDR_BUCKET
from fairlead.schema.policy import POLICY_ROWS
from services.policy.editing import Editor
from services.policy.lead import Lead
from services.policy.owned import OwnedPolicies
from services.policy.projection import MOST_TOGETHER, Projection
from services.policy.service import PolicyService
from services.policy.settings import PolicySettings
from services.policy.store import CIDRS, POLICIES, PolicyStore
from services.policy.told import Report
from services.policy.upkeep import Upkeep
from services.policy.view import View
from services.policy.waiting import Waiting

Act = Callable[[], None]
Work = dict[str, Callable[[], Awaitable[None]]]
"""What must run in the background for ever, by name."""


def compose(
    settings: PolicySettings, kv: Kv, bus: Bus, clock: Clock, report: Report, *, at_rest: Act = lambda: None
) -> tuple[PolicyService, Work]:
    """Return the service and its background work, joined to this store and this bus; `at_rest` as in `Projection`."""
    store = PolicyStore(kv, settings.keep_versions)
    editor = Editor(store, clock, settings.owners)
    projection = Projection(
        lambda: View(settings.sources, settings.translation(), settings.enforcement()),
        store,
        *(bus.bucket(POLICY_ROWS), bus.bucket(CIDR_BUCKET)),
        clock=clock,
        report=report,
        accept_mass_change=settings.accept_mass_change,
        at_rest=at_rest,
    )
    waiting = Waiting(projection, bus, clock)
    trusting = not settings.nats_credentials
    service = PolicyService(store, editor, projection, settings.translation(), waiting, trusting=trusting)
    upkeep = Upkeep(projection, store, clock)
    lead = Lead(kv, projection.announce, connected=lambda: bus.connected, clock=clock)
    prefixes = (*settings.sources, CIDRS, POLICIES)  # documents last, so that the revision of the listing is theirs
    follower = Follower(
        *(kv, prefixes),
        on_snapshot=projection.on_snapshot,
        on_changes=projection.on_changes,
        clock=clock,
        together=MOST_TOGETHER,
    )
    return service, {
        "realised": service.waiting.realised.run,
        "addresses": service.waiting.addresses.run,
        "lead": lead.run,
        "keep time": upkeep.keep_time,
        "forget prefixes": lambda: upkeep.forget_prefixes(settings.prefix_grace_s),
        "follow": follower.run,
    }


async def serve(settings: PolicySettings) -> None:
    """Run until told to end."""
    async with App("policy", settings) as app:
        service, work = compose(settings, app.kv, app.bus, app.clock, app.condition, at_rest=memory.keep)
        telemetry.gauge(
            "fairlead.policy.audited",
            lambda: service.view.audited_by_kind(),  # noqa: PLW0108 - the view is another one after every listing
            unit="{audit}",
            summary="documents and workloads whose policy is reported and not enforced",
        )
        for name, run in work.items():
            app.spawn(name, run)
        await app.serve((*service.routes(), *OwnedPolicies(service).routes()))
        await app.run()


if __name__ == "__main__":
    launch("policy", PolicySettings, serve)
