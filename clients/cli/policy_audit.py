"""`fairlead policy audit`: let workloads, or nodes, do for a while what their policy denies, and see in flows what that is."""

from __future__ import annotations

import argparse
import getpass
import re
from datetime import timedelta
from typing import Any

from clients.cli import command, output, stored
from clients.cli.output import Answer
from clients.cli.session import Session
from fairlead.errors import InvalidInput
from fairlead.schema.base import Empty
from fairlead.schema.policy import APPLY, DELETE, POLICIES, ApplyPolicy, DeletePolicy, PolicyObject, PolicyReference

KIND = "WorkloadAudit"
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_LONGEST_S = 90 * 86400
_DEFAULT_S = 3600.0


def duration(text: str) -> float:
    """Return seconds from a text like 30m, 2h or 1d."""
    match = re.fullmatch(r"([0-9]{1,7})([smhd])", text)
    if match is None or not 0 < int(match[1]) * _UNITS[match[2]] <= _LONGEST_S:
        raise argparse.ArgumentTypeError(f"{text!r}: write 30m, 2h or 1d, at most 90d")
    return float(int(match[1]) * _UNITS[match[2]])


async def run(session: Session) -> Answer:
    """Begin an audit, end one, or list those that stand."""
    options = session.options
    if options.end:
        ask = DeletePolicy(policy=PolicyReference(kind=KIND, name=options.end), wait_s=stored.wait_s(session))
        result = await session.bus.request(DELETE, ask, timeout_s=stored.answer_s(session))
        return stored.changed([result], waited=bool(options.wait), verb="ended")
    if not options.labels and not options.everything:
        return await _list(session)
    document = _document(session)
    begin = ApplyPolicy(document=document, wait_s=stored.wait_s(session), author=getpass.getuser())
    result = await session.bus.request(APPLY, begin, timeout_s=stored.answer_s(session))
    return stored.changed([result], waited=bool(options.wait), verb=f"until {(document.spec or {})['until']}")


async def _list(session: Session) -> Answer:
    found = [one for one in (await session.ask(POLICIES, Empty())).policies if one.stage == "audit"]
    now = session.clock.now()
    rows = [
        (stored.title(one.policy), output.span((one.audit_until - now).total_seconds()), one.author)
        for one in found
        if one.audit_until
    ]
    return Answer(found, output.table(("AUDITED", "ENDS IN", "AUTHOR"), rows))


def _document(session: Session) -> PolicyObject:
    options = session.options
    labels = dict(_label(text) for text in options.labels)
    if labels and options.everything:
        raise InvalidInput("give labels or --all, not both")
    until = (session.clock.now() + timedelta(seconds=options.duration_s)).isoformat(timespec="seconds")
    spec: dict[str, Any] = {"nodeSelector" if options.nodes else "endpointSelector": {"matchLabels": labels}}
    spec["until"] = until
    if options.direction:
        spec |= {"ingress": options.direction == "ingress", "egress": options.direction == "egress"}
    name = options.name or _name([*sorted(labels.items())], nodes=options.nodes)
    return PolicyObject(apiVersion="fairlead.dev/v1", kind=KIND, metadata={"name": name}, spec=spec)


def _label(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise InvalidInput(f"{text!r} is no label: write it like app=web")
    return key, value


def _name(labels: list[tuple[str, str]], *, nodes: bool) -> str:
    """Return a name made of the labels, so that the same audit again replaces the first."""
    text = "-".join(part for pair in labels for part in pair) or "all"
    plain = re.sub(r"[^a-z0-9.]+", "-", f"{'nodes-' if nodes else ''}{text}".lower()).strip("-.")
    return plain[:200] or "audit"


def register(group: command.Subcommands) -> None:
    """Declare `policy audit`."""
    example = "fairlead policy audit app=web --for 2h"
    parser = command.add(group, "audit", run, "report what policy would deny, and deny nothing, for a while", example)
    parser.add_argument(
        "labels", nargs="*", metavar="LABEL", help="workloads that have all of these; none: list audits"
    )
    parser.add_argument("--all", dest="everything", action="store_true", help="every workload")
    parser.add_argument("--nodes", action="store_true", help="nodes by their labels, instead of workloads")
    parser.add_argument(
        "--for", dest="duration_s", type=duration, default=_DEFAULT_S, metavar="TIME", help="30m, 2h, 1d (1h)"
    )
    parser.add_argument("--direction", choices=("ingress", "egress"), help="this one only")
    parser.add_argument("--name", metavar="NAME", help="name of the audit; made of the labels unless given")
    parser.add_argument("--end", metavar="NAME", help="end this audit now")
    parser.add_argument(
        "--wait", action="store_true", help="return when every affected node has confirmed, as in apply"
    )
