"""Addresses: who has claimed which prefix, and who uses which address."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from fairlead.address import Address, Family, Prefix
from fairlead.schema.base import BucketSpec, Empty, Message, Name, NodeNameField, Row, Topic


class Claim(Row, frozen=True, kw_only=True):
    """The prefixes that a node has claimed for its workloads, at most one per family."""

    node: NodeNameField
    prefixes: tuple[Prefix, ...]


class AllocateAddress(Message, frozen=True, kw_only=True):
    """Ask for one address per family of the node. The same owner asking again gets the same addresses."""

    owner: Name
    """The workload, by a name that outlives its container."""
    addresses: tuple[Address, ...] = ()
    """Addresses wanted, at most one per family; empty lets ipam choose."""
    families: tuple[Family, ...] = ()
    """Lease of these families only; empty: of all that the node has."""


class AddressAllocated(Message, frozen=True, kw_only=True):
    """What the owner may use until it releases it."""

    owner: str
    addresses: tuple[Address, ...]


class ReleaseAddress(Message, frozen=True, kw_only=True):
    """Give the owner's addresses back; they stay in quarantine before anyone else gets them."""

    owner: Name
    unused: bool = False
    """No packet ever carried them: anyone may have them at once."""


class AddressReleased(Message, frozen=True, kw_only=True):
    """What was given back; empty when the owner held nothing."""

    owner: str
    addresses: tuple[Address, ...]


class LeaseState(StrEnum):
    """Where an address is in its life."""

    LEASED = "leased"
    QUARANTINED = "quarantined"


class Lease(Message, frozen=True, kw_only=True):
    """One address and its owner, present or last."""

    address: Address
    owner: str
    state: LeaseState
    since: datetime


class Leases(Message, frozen=True, kw_only=True):
    """What one node's ipam holds; `free` counts addresses that could be leased now, over all its prefixes."""

    node: NodeNameField
    prefixes: tuple[Prefix, ...]
    leases: tuple[Lease, ...]
    free: int


CLAIMS = BucketSpec("claims", Claim, owner="ipam", node_keyed=True, summary="prefixes by node")

ALLOCATE = Topic(
    "fairlead.cmd.ipam.address.allocate.v1", AllocateAddress, AddressAllocated, per_node=True, summary="lease addresses"
)
RELEASE = Topic(
    "fairlead.cmd.ipam.address.release.v1",
    ReleaseAddress,
    AddressReleased,
    per_node=True,
    summary="give addresses back",
)
LEASES = Topic("fairlead.get.ipam.lease.list.v1", Empty, Leases, per_node=True, summary="leases of one node")
