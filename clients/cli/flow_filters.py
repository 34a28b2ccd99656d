"""The filters of `fairlead flows`, named as those of `hubble observe`: one kind given twice means either, two kinds mean both.

`--not` turns the filter behind it into its opposite.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from fairlead import codec
from fairlead.errors import InvalidInput
from fairlead.schema.flow import FlowFilter, FlowQuery, FlowType, Verdict

MOST = 4096
_ENDS = {"from": "source", "to": "destination", "": "either"}
_KINDS = {
    "": ("name", "NAME", "a workload's name, or its beginning and *"),
    "ip": ("ip", "IP", "an address or a prefix"),
    "identity": ("identity", "N", "a numeric identity"),
    "label": ("label", "LABEL", "key=value, key, or source:key=value"),
    "port": ("port", "PORT", "a port"),
}
_OTHERS: Mapping[str, tuple[str, str, tuple[str, ...]]] = {
    "protocol": ("protocol", "tcp, udp, sctp, icmp, icmpv4, icmpv6", ()),
    "verdict": ("verdict", "what became of it", tuple(Verdict)),
    "type": ("event_type", "why it was reported", tuple(FlowType)),
    "drop-reason": ("drop_reason", "a code, or words of the reason", ()),
    "traffic-direction": ("traffic_direction", "seen from the endpoint whose policy decided", ("ingress", "egress")),
    "ip-version": ("ip_version", "4 or 6", ("4", "6")),
    "tcp-flags": ("tcp_flags", "flags that all were seen, for instance SYN,ACK", ()),
    "interface": ("interface", "the device where it was met", ()),
    "uuid": ("uuid", "how the uuid begins", ()),
}
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}

Given = list[tuple[str, str, str]]
"""End or nothing, field, value."""


class _Filter(argparse.Action):
    """Notes a filter among those that must hold, or behind `--not` among those that must not."""

    def __call__(self, _parser: Any, options: argparse.Namespace, value: Any, _option: str | None = None) -> None:
        where = "never" if getattr(options, "negated", False) else "only"
        options.negated = False
        end, field = self.dest.split(".")
        setattr(options, where, [*getattr(options, where), (end, field, str(value))])


class _Not(argparse.Action):
    def __call__(self, parser: Any, options: argparse.Namespace, *_: Any) -> None:
        if getattr(options, "negated", False):
            parser.error("--not --not: one is enough")
        options.negated = True


def declare(parser: argparse.ArgumentParser) -> None:
    """Give the command all filters."""
    parser.set_defaults(only=[], never=[], negated=False)
    group = parser.add_argument_group("filters")
    group.add_argument("--not", nargs=0, action=_Not, help="the next filter must not hold")
    for kind, (field, shown, told) in _KINDS.items():
        for prefix, end in _ENDS.items():
            name = "-".join(filter(None, (prefix, kind))) or "workload"
            side = f"{end} end" if prefix == "" else end
            group.add_argument(
                f"--{name}", dest=f"{end}.{field}", action=_Filter, metavar=shown, help=f"{side}: {told}"
            )
    for name, (field, told, choices) in _OTHERS.items():
        more: dict[str, Any] = {"choices": choices, "type": _case(choices)} if choices else {"metavar": "TEXT"}
        group.add_argument(f"--{name}", dest=f".{field}", action=_Filter, help=told, **more)


def _case(choices: Sequence[str]) -> Any:
    """Return what makes the spelling of a choice its own, whatever the case."""
    known = {choice.lower(): choice for choice in choices}
    return lambda text: known.get(text.lower(), text)


def query(options: argparse.Namespace, now: datetime) -> FlowQuery:
    """Return what is asked for. Raises InvalidInput naming the option."""
    if options.negated:
        raise InvalidInput("--not: no filter follows it")
    return FlowQuery(
        first=options.first or 0,
        last=MOST if options.all or options.first else options.last or 20,
        since=moment(options.since, now, "since"),
        until=moment(options.until, now, "until"),
        only=(_filter(options.only),) if options.only else (),
        never=tuple(_filter([one]) for one in options.never),
    )


def _filter(given: Given) -> FlowFilter:
    fields: dict[str, Any] = {}
    for end, field, value in given:
        place = fields.setdefault(end, {}) if end else fields
        text = value.upper() if field == "traffic_direction" else value
        number = field in {"port", "identity", "ip_version"}
        if number and not value.isdecimal():
            raise InvalidInput(f"--{field.replace('_', '-')} {value}: give a number")
        place.setdefault(field, []).append(int(value) if number else text)
    return codec.from_builtins(fields, FlowFilter)


def moment(text: str | None, now: datetime, name: str) -> datetime | None:
    """Return the moment that a text such as 90s, 5m, 2h, 1d (ago) or 2026-01-02T03:04:05Z means."""
    if not text:
        return None
    ago = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text)
    if ago:
        return now - timedelta(seconds=float(ago[1]) * _UNITS[ago[2]])
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidInput(f"--{name} {text}: give 90s, 5m, 2h, 1d, or a time like 2026-01-02T03:04:05Z") from error
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def check(options: argparse.Namespace) -> None:
    """Raise InvalidInput for options that exclude each other."""
    for one, other in (("first", "last"), ("first", "follow"), ("first", "all"), ("last", "all")):
        if getattr(options, one) and getattr(options, other):
            raise InvalidInput(f"--{one} and --{other} exclude each other: give one of them")
