"""CiliumCIDRGroup: prefixes under a name and labels, for rules to refer to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from services.policy.documents import Part
from services.policy.labels import GROUP_NAME, Identity, Label, cidr_label, make_identity, network, parse_label
from services.policy.ports import refuse
from services.policy.rules import CidrGroup, Reader


class CidrGroupSpec(Part, frozen=True, kw_only=True):
    """`spec` of a CiliumCIDRGroup."""

    external_cidrs: Annotated[list[str], Meta(max_length=4000)] = msgspec.field(name="externalCIDRs")


class CidrGroupDocument(Part, frozen=True, kw_only=True):
    """What a CiliumCIDRGroup holds beside its name."""

    spec: CidrGroupSpec


def read(spec: CidrGroupSpec, metadata: Mapping[str, Any], reader: Reader) -> CidrGroup:
    """Return the group in a document. Raises InvalidInput naming the field."""
    labels = metadata.get("labels") or {}
    if not isinstance(labels, dict) or not all(isinstance(part, str) for pair in labels.items() for part in pair):
        refuse("metadata.labels", "labels are names with texts")
    prefixes = [reader.prefix(text, f"spec.externalCIDRs[{number}]") for number, text in enumerate(spec.external_cidrs)]
    name = reader.reference.name
    own = {Label("cidrgroup", key, value) for key, value in labels.items()} | {
        Label("cidrgroup", GROUP_NAME + name, "")
    }
    return CidrGroup(name, frozenset(own), tuple(dict.fromkeys(prefixes)))


def cidr_identity(number: int, prefix: str, groups: Iterable[CidrGroup] = ()) -> Identity:
    """Return the identity of a prefix: part of the world, and of every group that covers it."""
    own = network(prefix)
    inherited = [group.labels for group in groups if any(network(outer).covers(own) for outer in group.prefixes)]
    return make_identity(number, {cidr_label(prefix), parse_label("reserved:world")}.union(*inherited))
