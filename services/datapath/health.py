"""How the datapath of this node is, condition by condition. Texts stay the same while nothing changes: changes are logged."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from fairlead.schema.datapath import EndpointState
from services.datapath import host
from services.datapath.masquerade import trouble

if TYPE_CHECKING:
    from services.datapath.service import Datapath

Report = Callable[[str, bool, str], None]
Condition = tuple[str, bool, str]
_NAMED = 5


def conditions(datapath: Datapath, alarm_s: float) -> Iterator[Condition]:
    """Yield every condition: name, whether it is well, and what to know about it."""
    yield "kernel", not datapath.kernel_error, datapath.kernel_error
    yield "kernel features", True, datapath.capabilities.lacking
    yield _endpoints(datapath)
    yield _reconcilers(datapath)
    yield _known(datapath)
    quiet, found = datapath.breakglass.condition(alarm_s)
    yield "breakglass", quiet, found
    yield "break-glass open", *datapath.glass.condition()
    yield _held_deletes(datapath)
    yield datapath.collector.collection.condition()
    yield "overlay", not (troubles := datapath.node.tunnels.troubles), _some(troubles)
    yield "host policy", not datapath.node.host.hindrance, datapath.node.host.words
    text = trouble(datapath.node.masquerade.base, host.local_ports())
    yield "masquerade", not text, text
    yield _state(datapath)


def _endpoints(datapath: Datapath) -> Condition:
    endpoints = datapath.node.endpoints
    bad = [endpoints.status(record.endpoint) for record in endpoints.live() if record.endpoint in endpoints.decisions]
    bad = [status for status in bad if status.state is not EndpointState.READY]
    texts = [f"{status.name}: {status.state} ({status.detail})" for status in bad]
    return "endpoints", not bad, _some(texts)


def _reconcilers(datapath: Datapath) -> Condition:
    node = datapath.node
    tables = (node.endpoints.table, node.addresses.table, node.prefixes, node.registration.table, node.host.table)
    texts = [f"{table.name} {key}: {text}" for table in tables for key, text in table.failed().items()]
    texts += [f"{name}: {loop.prune_error}" for name, loop in datapath.reconcilers.items() if loop.prune_error]
    return "reconcile", not texts, _some(sorted(texts))


def _known(datapath: Datapath) -> Condition:
    unknown = datapath.mirrors.unknown
    return "known", not unknown, f"not heard yet: {', '.join(unknown)}" if unknown else ""


def _held_deletes(datapath: Datapath) -> Condition:
    texts = [f"{count} rows of {name}" for name, count in datapath.held_rows.items()]
    hint = "; `fairlead datapath release-held --node NODE` lets them go, and so does the file `release-held` in the state folder"
    return "held deletes", not texts, ", ".join(texts) + hint if texts else ""


def _state(datapath: Datapath) -> Condition:
    texts = [f"{name} could not be read and is set aside" for name in datapath.unreadable]
    strangers = sorted(datapath.node.endpoints.strangers)
    texts += [f"endpoint {number} stands in the kernel, nothing on disk explains it; kept" for number in strangers]
    return "state", not texts, _some(texts)


def _some(texts: list[str]) -> str:
    more = f" and {len(texts) - _NAMED} more" if len(texts) > _NAMED else ""
    return "; ".join(texts[:_NAMED]) + more
