"""`fairlead status`: every service as it says itself, and those that should answer and do not."""

from __future__ import annotations

import os
from collections import Counter
from datetime import datetime
from pathlib import Path

from clients.cli import command, output
from clients.cli.output import Answer, Exit
from clients.cli.session import Session
from fairlead.admission import waiting_here
from fairlead.config import STATE_DIR
from fairlead.errors import FairleadError, Unavailable
from fairlead.schema.admission import WaitingStart
from fairlead.schema.base import Empty, NodeName
from fairlead.schema.health import HEALTH, Health
from fairlead.schema.metrics import METRICS

_EXPECTED = ("ipam", "datapath")
"""What each node must have; bgp is an option of the site."""


async def run(session: Session) -> Answer:
    """Ask everybody how they are. Starts of this machine that wait are shown without the bus, too."""
    here = waiting_here(Path(os.environ.get("FAIRLEAD_STATE_DIR", STATE_DIR)), session.clock.now())
    found, nodes = await _asked(session, alone=bool(here))
    here = [one for one in here if (one.service, one.node) not in {(who.service, who.node) for who in found}]
    absent = [one for one in missing(found, nodes) if one not in {(start.service, start.node) for start in here}]
    rows = [_start_row(one) for one in here]
    rows += [_row(one, session.clock.now()) for one in sorted(found, key=lambda one: (one.service, one.node))]
    rows += [(service, node, "no answer", "-", "-", "is it running?") for service, node in absent]
    good = bool(found) and not absent and not here and all(one.ok for one in found)
    text = output.table(("SERVICE", "NODE", "STATE", "UP", "MEMORY", "DETAIL"), rows) if rows else "no service answers"
    answering = sorted(
        {NodeName(one.node) for one in found if one.service == "datapath" and not waits(one)} & set(nodes)
    )
    drops = {node: counted for node in answering if (counted := await dropped(session, node))}
    text = "\n".join([*banners(found), text, *(f"dropped on {node}: {_counted(drops[node])}" for node in drops)])
    value = {"services": found, "absent": [{"service": service, "node": node} for service, node in absent], "ok": good}
    value |= {"dropped": drops, "waiting_here": here}
    return Answer(value, text, Exit.OK if good else Exit.NO)


async def _asked(session: Session, *, alone: bool) -> tuple[list[Health], tuple[NodeName, ...]]:
    """Return who answered and the nodes that there are; nothing of both where no bus is and there is something to show without."""
    try:
        found = await session.bus.gather(HEALTH, Empty(), wait_s=min(session.timeout_s, 0.7))
        return found, await session.nodes()
    except Unavailable:
        if not alone:
            raise
        return [], ()


async def dropped(session: Session, node: NodeName) -> dict[str, int]:
    """Return how many packets the node's programs have dropped, by reason; nothing if it does not say."""
    try:
        found = await session.bus.request(METRICS, Empty(), node=node, timeout_s=min(session.timeout_s, 1.0))
    except FairleadError:
        return {}  # that it does not answer stands in its row
    packets: Counter[str] = Counter()
    for one in found.packets:
        packets.update({one.reason: one.packets} if one.code else {})
    return dict(packets.most_common())


def _counted(drops: dict[str, int]) -> str:
    return output.plain("; ".join(f"{packets} {reason}" for reason, packets in drops.items()))


def missing(found: list[Health], nodes: tuple[str, ...]) -> list[tuple[str, str]]:
    """Return the services that known nodes must have and that did not answer."""
    answered = {(one.service, one.node) for one in found}
    return [(service, node) for service in _EXPECTED for node in nodes if (service, node) not in answered]


def waits(one: Health) -> bool:
    """Tell whether the service has not started yet: its entrypoint answers for it."""
    return any(aspect.name == "admission" and not aspect.ok for aspect in one.conditions)


def banners(found: list[Health]) -> list[str]:
    """Return what nobody may overlook, each once: policy that is not enforced."""
    opened = [
        (one.node, aspect.detail)
        for one in found
        for aspect in one.conditions
        if aspect.name == "break-glass open" and not aspect.ok
    ]
    audits = {aspect.detail for one in found for aspect in one.conditions if aspect.name == "audit" and not aspect.ok}
    told = [f"!!! POLICY IS AUDITED, NOT ENFORCED: {output.plain(detail)}" for detail in sorted(audits)]
    return [*told, *(f"!!! BREAK-GLASS IS OPEN on {node}: {output.plain(detail)}" for node, detail in sorted(opened))]


def _row(one: Health, now: datetime) -> tuple[object, ...]:
    wrong = "; ".join(f"{aspect.name}: {aspect.detail or 'not ok'}" for aspect in one.conditions if not aspect.ok)
    state = "ok" if one.ok else "waiting" if waits(one) else "degraded"
    return one.service, one.node, state, output.age(one.since, now), output.mebibytes(one.rss_bytes), wrong


def _start_row(one: WaitingStart) -> tuple[object, ...]:
    """Return what this machine's disk says of a start that nobody hears of on the bus."""
    words = (
        f"admission: not started: waits until {one.due:%Y-%m-%dT%H:%M:%SZ} ({one.reason}); it is not heard on the bus"
    )
    return one.service, one.node, "waiting", "-", "-", words


def register(commands: command.Subcommands) -> None:
    """Declare `status`."""
    summary = "show how every service is; exit status 1 if one is degraded or does not answer"
    command.node_option(command.add(commands, "status", run, summary, "fairlead status"))
