"""Cilium's own forms of labels, addresses and nodes, as they stand in etcd. Pure.

What Fairlead adds to a JSON value stands in the extra field `Fairlead`, which Cilium skips, so that one key holds a value together with
its owner and its trace, and one comparison guards both.
"""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import msgspec

from fairlead import labels as label_forms
from fairlead.address import Address, Family, Prefix
from fairlead.errors import InvalidInput
from fairlead.schema.base import NodeName
from fairlead.schema.identity import RegisterNode


def label_string(labels: Iterable[str]) -> str:
    """Return `source:key=value;...;`, sorted by key, with `=` and `;` always there."""
    parsed = sorted(map(label_forms.parse, labels), key=lambda label: (label.key, label.source))
    return "".join(f"{label.source}:{label.key}={label.value};" for label in parsed)


def labels_of(text: str) -> tuple[str, ...]:
    """Return the normal form of a label string. Raises InvalidInput."""
    parts = [part for part in text.strip().split(";") if part]
    if not parts:
        raise InvalidInput("there is no label in it: write it like container:app=web;")
    return label_forms.normalise(parts)


class Ownership(msgspec.Struct, frozen=True, kw_only=True):
    """Whose entry it is: the key of the owner's record, and that record's generation."""

    owner: str
    generation: int = 0
    trace: str = ""


class AddressValue(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """The value of one `ip` key. `mask` is base64, or None for a host."""

    ip: str = msgspec.field(name="IP")
    mask: str | None = None
    host_ip: str | None = msgspec.field(name="HostIP", default=None)
    id: int = msgspec.field(name="ID")
    key: int = 0
    metadata: Any = ""
    namespace: str = msgspec.field(name="K8sNamespace", default="")
    pod_name: str = msgspec.field(name="K8sPodName", default="")
    fairlead: Ownership | None = None

    @property
    def prefix(self) -> Prefix:
        """Return the prefix that the value speaks of. Raises InvalidInput."""
        return _prefix_of(self.ip, self.mask)

    @property
    def host(self) -> Address | None:
        """Return the node's address, or None. Raises InvalidInput."""
        return _node_address(self.host_ip) if self.host_ip else None

    @property
    def owner(self) -> str:
        """Return the key of the record that owns the entry; empty for entries that people and others made."""
        return self.fairlead.owner if self.fairlead else ""


def address_value(
    prefix: Prefix, identity: int, *, host: Address | None, name: str, ownership: Ownership
) -> AddressValue:
    """Return the value that we write for a prefix."""
    return AddressValue(
        ip=str(prefix.address),
        mask=None if prefix.is_host else _mask(prefix),
        host_ip=str(host) if host else "",
        id=identity,
        pod_name=name,
        fairlead=ownership,
    )


def address_name(prefix: Prefix) -> str:
    """Return the last part of the key: the address, or for real prefixes the prefix with its slash."""
    host_suffix = "/128" if ":" in str(prefix) else "/32"
    return str(prefix).removesuffix(host_suffix)


def read_address(name: str, data: bytes) -> AddressValue:
    """Return the value under the key that ends in `name`. Raises InvalidInput when it cannot be used."""
    try:
        value = msgspec.json.decode(data, type=AddressValue)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(f"not an address entry: {error}") from error
    if not 0 < value.id <= 0xFFFFFFFF:
        raise InvalidInput(f"`ID`: {value.id} is no identity")
    prefix = value.prefix
    if name != address_name(prefix):
        raise InvalidInput(
            f"`IP`: the value speaks of {prefix}, the key of {name}: write the key as {address_name(prefix)}"
        )
    value.host  # noqa: B018 - raises when it is no address
    return value


@lru_cache(maxsize=1024)
def _prefix_of(ip: str, mask: str | None) -> Prefix:
    """Return the prefix of an entry; the last ones are kept, since every entry is asked twice. Raises InvalidInput."""
    address = Address(ip)
    return address.prefix if mask is None else Prefix(f"{address}/{_length(mask, address.family)}")


@lru_cache(maxsize=65536)
def _node_address(text: str) -> Address:
    """Return the address of a node, one object for its many workloads. Raises InvalidInput."""
    return Address(text)


def _mask(prefix: Prefix) -> str:
    return base64.b64encode(prefix.network.netmask.packed).decode()


def _length(mask: str, family: Family) -> int:
    """Return the prefix length in a base64 mask. Raises InvalidInput."""
    try:
        packed = base64.b64decode(mask, validate=True)
        bits = int.from_bytes(packed)
    except ValueError as error:
        raise InvalidInput(f"`Mask`: {mask!r} is not base64") from error
    length = bits.bit_count()
    if len(packed) * 8 != family.bits or bits != ((1 << length) - 1) << (family.bits - length):
        raise InvalidInput(f"`Mask`: {mask!r} is no mask of IPv{family.value}")
    return length


class NodeAddress(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """One address of a node."""

    type: str = "InternalIP"
    ip: str = msgspec.field(name="IP")


class Cidr(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """A prefix as Go writes it."""

    ip: str = msgspec.field(name="IP")
    mask: str

    @property
    def prefix(self) -> Prefix:
        """Return the prefix. Raises InvalidInput."""
        address = Address(self.ip)
        return Prefix(str(ipaddress.ip_network(f"{address}/{_length(self.mask, address.family)}", strict=False)))


class NodeValue(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """The value of one `nodes` key."""

    name: str
    cluster: str
    addresses: tuple[NodeAddress, ...] | None = msgspec.field(name="IPAddresses", default=None)
    ipv4: Cidr | None = msgspec.field(name="IPv4AllocCIDR", default=None)
    ipv4_more: tuple[Cidr, ...] | None = msgspec.field(name="IPv4SecondaryAllocCIDRs", default=None)
    ipv6: Cidr | None = msgspec.field(name="IPv6AllocCIDR", default=None)
    ipv6_more: tuple[Cidr, ...] | None = msgspec.field(name="IPv6SecondaryAllocCIDRs", default=None)
    cluster_id: int = msgspec.field(name="ClusterID", default=0)
    source: str = "kvstore"
    labels: dict[str, str] | None = None
    """A key without a source is Kubernetes'."""
    fairlead: Ownership | None = None

    def node_labels(self) -> tuple[str, ...]:
        """Return the node's labels in normal form. Raises InvalidInput."""
        named = ((key if ":" in key else f"k8s:{key}", value) for key, value in (self.labels or {}).items())
        return label_forms.normalise(f"{key}={value}" for key, value in named)

    def node_addresses(self) -> tuple[Address, ...]:
        """Return the node's own addresses. Raises InvalidInput."""
        return tuple(Address(entry.ip) for entry in self.addresses or ())

    def prefixes(self) -> tuple[Prefix, ...]:
        """Return the prefixes of the node's workloads. Raises InvalidInput."""
        groups = ((self.ipv4,), self.ipv4_more or (), (self.ipv6,), self.ipv6_more or ())
        return tuple(cidr.prefix for group in groups for cidr in group if cidr is not None)


def node_value(ask: RegisterNode, cluster: str, trace: str) -> NodeValue:
    """Return the value that we write for a node."""
    cidrs = {
        family: [Cidr(ip=str(prefix.address), mask=_mask(prefix)) for prefix in ask.prefixes if prefix.family is family]
        for family in Family
    }
    first = {family: found[0] if found else None for family, found in cidrs.items()}
    return NodeValue(
        name=ask.node,
        cluster=cluster,
        addresses=tuple(NodeAddress(ip=str(address)) for address in ask.addresses),
        ipv4=first[Family.IPV4],
        ipv4_more=tuple(cidrs[Family.IPV4][1:]),
        ipv6=first[Family.IPV6],
        ipv6_more=tuple(cidrs[Family.IPV6][1:]),
        labels={f"{source}:{key}": value for source, key, value in map(label_forms.parse, ask.labels)} or None,
        fairlead=Ownership(owner=f"node/{ask.node}", trace=trace),
    )


def read_node(name: NodeName, cluster: str, data: bytes) -> NodeValue:
    """Return the node under the key that ends in `name`. Raises InvalidInput when it cannot be used."""
    try:
        value = msgspec.json.decode(data, type=NodeValue)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(f"not a node entry: {error}") from error
    if (value.name, value.cluster) != (name, cluster):
        raise InvalidInput(f"`Name`: the value speaks of {value.cluster}/{value.name}, the key of {cluster}/{name}")
    value.node_addresses()
    value.prefixes()
    value.node_labels()
    return value
