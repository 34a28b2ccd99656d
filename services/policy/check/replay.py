"""Recorded flows, decided again by other policies. Flows come as `fairlead flows -o json` prints them: a list, or one on each line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from fairlead import codec
from fairlead.errors import InvalidInput
from fairlead.labels import RESERVED_SOURCE, parse
from fairlead.schema.flow import Flow, FlowEnd, Verdict
from services.policy.check.change import Change, State, compare
from services.policy.check.question import ask
from services.policy.check.words import PROTOCOLS
from services.policy.check.world import RESERVED, Fleet, Party

_BY_UPPER = {name.upper(): number for name, number in PROTOCOLS.items()}
_NO_WORKLOAD = frozenset({RESERVED_SOURCE, "cidr", "cidrgroup", "fqdn"})
Recorded = tuple[Flow, Party, Party, int]
"""A flow, both ends, and the protocol's number."""


def read(path: str) -> list[Flow]:
    """Return the flows of a file. Raises InvalidInput naming the line."""
    try:
        text = Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path}: cannot be read: {error}") from error
    if text.lstrip().startswith("["):
        return [_flow(one, f"{path}, flow {number}") for number, one in enumerate(_json(text, path), 1)]
    lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    return [_flow(_json(line, f"{path}, line {number}"), f"{path}, line {number}") for number, line in lines]


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{where}: no JSON: {error}") from error


def _flow(plain: Any, where: str) -> Flow:
    try:
        return codec.from_builtins(plain, Flow)
    except InvalidInput as error:
        raise InvalidInput(f"{where}: {error.message}: print flows with `fairlead flows -o json`") from error


def decidable(flows: Iterable[Flow], fleet: Fleet) -> Iterator[Recorded]:
    """Return the flows that policy decided: not those dropped for another reason, and not of protocols without rules."""
    for flow in flows:
        protocol = _BY_UPPER.get(flow.protocol.upper())
        by_policy = flow.verdict != Verdict.DROPPED or "policy denied" in flow.drop_reason_desc.lower()
        if protocol is not None and by_policy and flow.destination.port >= 0:
            yield flow, _party(flow.source, fleet), _party(flow.destination, fleet), protocol


def _party(end: FlowEnd, fleet: Fleet) -> Party:
    """Return who the end is: a workload by its labels, a reserved one by its word; else identity 0, to be told by the address."""
    sources = {parse(label).source: parse(label).key for label in end.labels}
    if end.labels and not _NO_WORKLOAD & sources.keys():
        return Party(end.name or str(end.address), fleet.identity_of_labels(end.labels))
    if sources.get(RESERVED_SOURCE) in RESERVED.keys() - {"world"}:
        return Party(str(end.address), RESERVED[sources[RESERVED_SOURCE]])
    known = fleet.at(end.address)
    return known or Party(str(end.address), 0)


def differing(recorded: Iterable[Recorded], fleet: Fleet) -> Iterator[Change]:
    """Return the flows that the policies would decide otherwise than was recorded, each connection once."""
    seen: set[tuple[str, str, int, int]] = set()
    for flow, source, destination, protocol in recorded:
        port = flow.destination.port
        key = (source.name, destination.name, protocol, port)
        allowed = flow.verdict != Verdict.DROPPED
        sender, receiver = (end if end.identity else fleet.party(end.name) for end in (source, destination))
        answer = ask(fleet, sender, receiver, protocol, port)
        if key not in seen and answer.allowed != allowed:
            seen.add(key)
            telling = answer.egress if answer.egress.verdict == "deny" else answer.ingress
            yield Change(
                source=source.name,
                destination=destination.name,
                traffic=answer.traffic,
                allowed=answer.allowed,
                why=f"{telling.direction} {telling.why}",
                was=f"recorded {flow.verdict} at {flow.time.isoformat()}",
            )


def altered(recorded: Iterable[Recorded], old: State, new: State) -> Iterator[Change]:
    """Return the recorded connections that a change would decide otherwise, each once."""
    seen: set[tuple[str, str, int, int]] = set()
    for flow, source, destination, protocol in recorded:
        key = (source.name, destination.name, protocol, flow.destination.port)
        if key not in seen:
            seen.add(key)
            yield from compare(old, new, source, destination, protocol, flow.destination.port)
