"""`fairlead why`: what became of a packet, and which policy says so."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime
from typing import NamedTuple

from clients.cli import command, flow, identity, output
from clients.cli.output import Answer, Exit
from clients.cli.session import Session
from fairlead.address import Address
from fairlead.errors import InvalidInput, NotFound
from fairlead.schema.flow import Flow, FlowEnd, FlowQuery, Verdict

_SEARCHED = 500
_UUID = re.compile(r"^[0-9a-fA-F-]{32,36}$")


class Wanted(NamedTuple):
    """One end as it was given: address, name or label; port 0 is any."""

    who: str
    port: int = 0


def end(text: str) -> Wanted:
    """Return an end from `WHO`, `WHO:PORT` or `[IPv6]:PORT`. Raises InvalidInput."""
    match = re.fullmatch(
        r"\[(?P<six>[^\]]+)\](?::(?P<sixport>[0-9]+))?|(?P<who>[^:]+|.*=[^:]*)(?::(?P<port>[0-9]+))?", text
    )
    if _is_address(text) or match is None:
        return Wanted(_who(text))
    port = int(match["sixport"] or match["port"] or 0)
    if port > 65535:
        raise InvalidInput(f"{text!r}: ports end at 65535")
    return Wanted(_who(match["six"] or match["who"]), port)


def _is_address(text: str) -> bool:
    try:
        Address(text)
    except InvalidInput:
        return False
    return True


def _who(text: str) -> str:
    return Address(text) if _is_address(text) else text


def is_meant(one: FlowEnd, wanted: Wanted) -> bool:
    """Tell whether this end of a flow is the one that was asked for."""
    named = wanted.who in (one.address, one.name) or any(identity.fits(label, wanted.who) for label in one.labels)
    return named and wanted.port in (0, one.port)


def newest(flows: Iterable[Flow], source: Wanted, destination: Wanted) -> Flow | None:
    """Return the newest flow between two ends."""
    between = (one for one in flows if is_meant(one.source, source) and is_meant(one.destination, destination))
    return max(between, key=lambda one: one.time, default=None)


async def run(session: Session) -> Answer:
    """Find the flow, and say what decided over it."""
    given = session.options.flow
    if len(given) == 1 and _UUID.match(given[0]):
        found = await _by_uuid(session, given[0])
    elif len(given) == 2:
        found = await _between(session, end(given[0]), end(given[1]))
    else:
        raise InvalidInput("give the uuid of a flow (see `fairlead flows`), or SRC and DST[:PORT]")
    return Answer(found, explain(found, session.clock.now()), Exit.OK)


async def _by_uuid(session: Session, uuid: str) -> Flow:
    flows, _ = await flow.recorded(session, FlowQuery(last=1, uuid=uuid))
    if not flows:
        raise NotFound(f"no flow {uuid} is recorded any more: nodes keep the newest only, see `fairlead flows`")
    return flows[-1]


async def _between(session: Session, source: Wanted, destination: Wanted) -> Flow:
    # asked for by themselves, so that many forwarded flows cannot crowd out the drop
    dropped, _ = await flow.recorded(session, FlowQuery(last=_SEARCHED, verdict=Verdict.DROPPED))
    passed, _ = await flow.recorded(session, FlowQuery(last=_SEARCHED, never=flow.WHOLE))
    found = newest([*dropped, *passed], source, destination)
    if found is None:
        hint = "send a packet and ask again; established connections are not reported anew"
        raise NotFound(f"no flow from {source.who} to {destination.who} is recorded: {hint}")
    return found


def explain(one: Flow, now: datetime) -> str:
    """Return the cause in words: verdict, both ends, the policies that decided."""
    policies = one.allowed_by if one.verdict is Verdict.FORWARDED else one.denied_by
    subject = one.destination if one.traffic_direction == "INGRESS" else one.source
    head = f"{one.verdict} {output.age(one.time, now)} ago on {one.node_name}, {one.protocol}, by the {one.traffic_direction.lower()} rules of {_who_is(subject)}"
    lines = [head, f"  from    {_end(one.source)}", f"  to      {_end(one.destination)}"]
    if one.explanation or one.drop_reason_desc:
        lines.append(f"  because {one.explanation or one.drop_reason_desc}")
    lines += [f"  policy  {text}" for text in policies] or [f"  policy  {_no_policy(one)}"]
    lines.append(f"  in the kernel: policy revision {one.policy_revision}")
    if one.lost_before:
        lines.append(f"  {one.lost_before} events were lost before this one")
    return "\n".join(output.plain(line) for line in lines)


def _no_policy(one: Flow) -> str:
    return "none names it" if one.verdict is Verdict.DROPPED else "none is needed: nothing enforces this direction"


def _end(one: FlowEnd) -> str:
    age = f"known for {output.span(one.identity_age_s)}" if one.identity_age_s >= 0 else "not known to the node"
    return f"{flow.end(one)}, identity {one.identity} {age}: {output.labels(one.labels) or 'no labels'}"


def _who_is(one: FlowEnd) -> str:
    return one.name or one.address


def register(commands: command.Subcommands) -> None:
    """Declare `why`."""
    summary = "say what dropped a packet, and which policy says so"
    parser = command.add(commands, "why", run, summary, "fairlead why intern-1 protected-db:6379")
    parser.add_argument(
        "flow", nargs="+", metavar="UUID | SRC DST[:PORT]", help="ends by address, endpoint name, or label"
    )
    command.node_option(parser)
