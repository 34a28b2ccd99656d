"""Identities as the policy engine sees them: a number and labels, ready to be matched.

The store and the bus carry labels as text; here they are parsed once. What an identity's labels imply outside Kubernetes (namespace
and cluster) is added by `implied`, at this edge only: it is never stored.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

from fairlead.errors import InvalidInput
from fairlead.labels import ParsedLabel as Label
from fairlead.labels import parse as parse_label

__all__ = ["Identity", "Label", "NamedPort", "Network", "make_identity", "parse_label"]

ANY_SOURCE = "any"
NAMESPACE_KEY = "io.kubernetes.pod.namespace"
CLUSTER_KEY = "io.cilium.k8s.policy.cluster"
NAMESPACE_LABELS = "io.cilium.k8s.namespace.labels."
NAMESPACE_NAME_KEY = NAMESPACE_LABELS + "kubernetes.io/metadata.name"
SERVICE_ACCOUNT_KEY = "io.cilium.k8s.policy.serviceaccount"
COMPOSE_PROJECT_KEY = "com.docker.compose.project"
COMPOSE_SERVICE_KEY = "com.docker.compose.service"
GROUP_NAME = "io.cilium.policy.cidrgroupname/"
PORT_LABEL = "fairlead.port."
DEFAULT_NAMESPACE = "default"
_NOT_A_WORKLOAD = frozenset({"reserved", "cidr", "cidrgroup", "fqdn"})
PROTOCOL_NUMBERS: Mapping[str, int] = {"TCP": 6, "UDP": 17, "SCTP": 132}


class Network(NamedTuple):
    """A prefix as numbers, ordered so that everything inside a prefix stands directly behind it."""

    version: int
    first: int
    length: int

    @property
    def last(self) -> int:
        """Return the last address."""
        bits = 32 if self.version == 4 else 128
        return int(self.first | ((1 << (bits - self.length)) - 1))

    def covers(self, other: Network) -> bool:
        """Tell whether `other` lies inside."""
        if self.version != other.version or self.length > other.length:
            return False
        bits = 32 if self.version == 4 else 128
        return (self.first ^ other.first) >> (bits - self.length) == 0


class NamedPort(NamedTuple):
    """A port that a workload gives a name."""

    port: int
    protocol: int


@dataclass(frozen=True)
class Identity:
    """A number and the labels behind it, with the views that matching needs."""

    number: int
    labels: frozenset[Label]
    ports: Mapping[str, NamedPort] = field(default_factory=dict)
    by_key: Mapping[str, tuple[Label, ...]] = field(default_factory=dict)
    network: Network | None = None

    def values(self, source: str, key: str) -> list[str]:
        """Return the values under `key`, of one source or of any."""
        found = self.by_key.get(key, ())
        return [label.value for label in found if source in (ANY_SOURCE, label.source)]

    def reserved(self, name: str) -> bool:
        """Tell whether this is the reserved identity `name`, or carries its label."""
        return Label("reserved", name, "") in self.labels


@lru_cache(maxsize=65536)
def network(prefix: str) -> Network:
    """Return the numbers of a prefix in canonical text. Raises InvalidInput."""
    try:
        value = ipaddress.ip_network(prefix, strict=False)
    except ValueError as error:
        raise InvalidInput(f"{prefix!r} is not a prefix: write it like 10.1.0.0/16 or fd00::/8") from error
    return Network(value.version, int(value.network_address), value.prefixlen)


def parse_label_string(text: str) -> tuple[Label, ...]:
    """Return the labels in the store's form, `source:key=value;source:key=value;`. Raises InvalidInput."""
    labels = tuple(parse_label(part) for part in text.split(";") if part)
    if not labels:
        raise InvalidInput(f"{text!r} holds no label: write `source:key=value;`")
    return labels


def implied(labels: Iterable[Label], cluster: str) -> frozenset[Label]:
    """Return the labels together with the namespace and the cluster that they imply.

    A workload without a namespace label belongs to its compose project, or to `default`; without a cluster label it belongs to
    the local cluster. Reserved, CIDR and FQDN identities belong to neither. See docs/adr/0003.
    """
    own = frozenset(labels)
    if any(label.source in _NOT_A_WORKLOAD for label in own):
        return own
    values = {label.key: label.value for label in sorted(own, key=lambda label: label.source == "k8s")}
    namespace = values.get(NAMESPACE_KEY) or values.get(COMPOSE_PROJECT_KEY) or DEFAULT_NAMESPACE
    wanted = {NAMESPACE_KEY: namespace, CLUSTER_KEY: cluster, NAMESPACE_NAME_KEY: namespace}
    present = {label.key for label in own if label.source == "k8s"}
    return own | {Label("k8s", key, values.get(key, value)) for key, value in wanted.items() if key not in present}


def declared_ports(labels: Iterable[Label]) -> dict[str, NamedPort]:
    """Return the ports that labels `fairlead.port.<name>=<number>[/<protocol>]` name; what cannot be read names nothing."""
    ports: dict[str, NamedPort] = {}
    for label in sorted(labels):
        if not label.key.startswith(PORT_LABEL):
            continue
        number, _, protocol = label.value.partition("/")
        known = PROTOCOL_NUMBERS.get(protocol.upper() or "TCP")
        if known is not None and number.isascii() and number.isdigit() and 0 < int(number) < 65536:
            ports[label.key.removeprefix(PORT_LABEL).lower()] = NamedPort(int(number), known)
    return ports


def make_identity(number: int, labels: Iterable[Label], ports: Mapping[str, NamedPort] | None = None) -> Identity:
    """Return the identity with its views filled in; ports come from its labels unless they are given."""
    own = frozenset(labels)
    by_key: dict[str, tuple[Label, ...]] = {}
    for label in sorted(own):
        by_key[label.key] = (*by_key.get(label.key, ()), label)
    prefix = next((label.key for label in sorted(own) if label.source == "cidr"), None)
    covered = network(prefix_of_label(prefix)) if prefix else None
    return Identity(number, own, declared_ports(own) if ports is None else ports, by_key, covered)


def cidr_label(prefix: str) -> Label:
    """Return the label that an identity of this prefix carries: `-` stands for `:`, with 0 at an open end."""
    address, _, length = prefix.partition("/")
    text = address.replace(":", "-")
    text = f"0{text}" if text.startswith("-") else text
    return Label("cidr", f"{text}0/{length}" if text.endswith("-") else f"{text}/{length}", "")


def prefix_of_label(key: str) -> str:
    """Return the prefix that the key of a `cidr:` label means."""
    return key.replace("-", ":")
