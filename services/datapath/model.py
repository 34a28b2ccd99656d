"""Endpoints of one node: what was asked for, what may be known of them, and what should therefore stand in the kernel."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

import msgspec

from fairlead.address import Address
from fairlead.errors import Conflict, Exhausted
from fairlead.schema.datapath import AttachEndpoint, EndpointState
from fairlead.schema.identity import UNKNOWN
from services.datapath.failsafe import HOST_ENDPOINT
from services.datapath.operations import Link, PolicyKey, PolicyValue

LAST_ENDPOINT = HOST_ENDPOINT - 1
_NO_LABELS = "waiting for its labels: whoever attached it will tell them"


class EndpointRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One endpoint as it was asked for; what is kept on disk of it.

    `generation` grows with every change; identity has heard of the one in `acknowledged`. A `detached` record stays until the
    kernel is clean (`unplugged`) and identity knows (`withdrawn`).
    """

    endpoint: int
    name: str
    netns: str
    interface: str
    addresses: tuple[Address, ...]
    labels: tuple[str, ...]
    created: datetime
    generation: int
    mtu_bytes: int = 0
    unlabelled: bool = False
    """Its labels are not known yet; identity hears of it when they are."""
    identity: int = UNKNOWN
    """The number that identity gave to these labels; 0 before it answered."""
    acknowledged: int = 0
    detached: bool = False
    unplugged: bool = False
    withdrawn: bool = False

    @property
    def link(self) -> Link:
        """Return the plumbing that the endpoint needs."""
        return Link(self.endpoint, self.netns, self.interface, self.addresses, self.mtu_bytes)

    @property
    def is_registered(self) -> bool:
        """Tell whether identity has acknowledged the present generation."""
        return self.acknowledged >= self.generation

    @property
    def is_over(self) -> bool:
        """Tell whether nothing is left to do for a detached endpoint."""
        return self.detached and self.unplugged and self.withdrawn


@dataclass(frozen=True)
class PolicyMap:
    """The whole policy of one endpoint as its kernel map should hold it; provenance numbers stand for texts (see store.Origins)."""

    identity: int
    revision: int
    entries: Mapping[PolicyKey, PolicyValue]
    ingress_default_deny: int = 0
    egress_default_deny: int = 0
    trace: str = field(default="", compare=False)
    """The event that caused this revision; a new trace alone is no change."""
    audit_ingress: bool = False
    """What it denies in this direction passes, and is reported; the next one alike."""
    audit_egress: bool = False


@dataclass(frozen=True)
class EndpointWant:
    """What should stand in the kernel for one endpoint. Without a policy the endpoint is held: nothing passes."""

    link: Link
    policy: PolicyMap | None

    @property
    def held(self) -> bool:
        """Tell whether nothing may pass."""
        return self.policy is None

    @property
    def identity(self) -> int:
        """Return the identity under which it passes; 0 while it is held."""
        return self.policy.identity if self.policy else UNKNOWN


@dataclass(frozen=True)
class Decision:
    """What should stand in the kernel, and how far that gets the endpoint."""

    want: EndpointWant
    state: EndpointState
    identity: int
    """The identity of its labels, as far as it is known."""
    detail: str = ""
    hindrance: str = ""
    """Why the newest policy row of its identity is not wanted; empty when it is."""


@dataclass(frozen=True)
class Knowledge:
    """What the node knows that matters for one endpoint."""

    identity: int = UNKNOWN
    policy: PolicyMap | None = None
    """What the newest row of the identity comes to; None: no row, or one that was refused."""
    refusal: str = ""
    kept: PolicyMap | None = None
    """What stood in the kernel last, and is kept on disk."""


def decide(record: EndpointRecord, known: Knowledge) -> Decision:
    """Return what should stand in the kernel.

    Unknown fails closed, known keeps serving: without identity or policy a new endpoint is held, and one that had a policy keeps
    that, also while its changed labels wait for their new identity.
    """
    if record.unlabelled:
        return Decision(EndpointWant(record.link, None), EndpointState.WAITING_FOR_LABELS, UNKNOWN, _NO_LABELS)
    if known.policy is not None:
        return Decision(EndpointWant(record.link, known.policy), EndpointState.READY, known.identity)
    kept, detail = known.kept, _missing(record, known)
    if kept is not None and kept.identity == known.identity:
        return Decision(EndpointWant(record.link, kept), EndpointState.READY, known.identity, detail, known.refusal)
    state = EndpointState.WAITING_FOR_POLICY if known.identity else EndpointState.WAITING_FOR_IDENTITY
    if kept is not None:
        detail = f"{detail}; identity {kept.identity} and its policy stay until then"
    return Decision(EndpointWant(record.link, kept), state, known.identity, detail, detail)


def _missing(record: EndpointRecord, known: Knowledge) -> str:
    if known.refusal:
        return f"the policy of identity {known.identity} cannot be realised: {known.refusal}"
    if known.identity and known.kept is not None and known.kept.identity == known.identity:
        return f"no policy row for identity {known.identity} any more; the last one stays"
    if known.identity:
        return f"waiting for the policy of identity {known.identity}"
    asked = "" if record.is_registered else " (identity has not answered yet)"
    return f"waiting for the identity of labels {', '.join(record.labels) or 'none'}{asked}"


def attach(
    ask: AttachEndpoint, labels: tuple[str, ...], records: Iterable[EndpointRecord], taken: Iterable[int], now: datetime
) -> EndpointRecord:
    """Return the record for the request: the old one when nothing changed, a newer generation of it, or a new endpoint.

    Raises Conflict when another endpoint has one of the addresses, Exhausted when all numbers are taken.
    """
    known = tuple(records)
    live = [record for record in known if not record.detached]
    old = _known(ask, live)
    wanted = set(ask.addresses)
    for other in live:
        if other is not old and (shared := wanted.intersection(other.addresses)):
            raise Conflict(f"`addresses`: {min(shared)} belongs to endpoint {other.name}: detach it first")
    place = {"netns": ask.netns, "interface": ask.interface, "mtu_bytes": ask.mtu_bytes}
    asked = {"name": ask.name, **place, "addresses": ask.addresses, "labels": labels, "unlabelled": ask.unlabelled}
    if old is not None and ask.unlabelled:  # a late repetition: what is known already stays known
        asked |= {"labels": old.labels, "unlabelled": old.unlabelled}
    last = max((record.generation for record in known if record is old or record.name == ask.name), default=0)
    newer = max(last + 1, int(now.timestamp() * 1_000_000) * 1000)  # grows even when the clock was set back
    if old is None:
        number = free_number(taken)
        return EndpointRecord(endpoint=number, created=now, generation=newer, **asked)  # type: ignore[arg-type] # merged
    if all(getattr(old, name) == value for name, value in asked.items()):
        return old
    identity = old.identity if asked["labels"] == old.labels else UNKNOWN
    return msgspec.structs.replace(old, identity=identity, generation=newer, **asked)


def _known(ask: AttachEndpoint, live: Iterable[EndpointRecord]) -> EndpointRecord | None:
    """Return the record of that name, else the one that was made ahead for it."""
    by_name = {record.name: record for record in live}
    ahead = by_name.get(ask.instead_of)
    return by_name.get(ask.name, ahead if ahead is not None and ahead.unlabelled else None)


def free_number(taken: Iterable[int]) -> int:
    """Return the number after the highest taken one, so that numbers are reused late. Raises Exhausted."""
    used = set(taken)
    after = max(used, default=0) + 1
    if after <= LAST_ENDPOINT:
        return after
    number = next((number for number in range(1, LAST_ENDPOINT + 1) if number not in used), None)
    if number is None:
        raise Exhausted(f"all {LAST_ENDPOINT} endpoint numbers are taken: detach endpoints that are gone")
    return number
