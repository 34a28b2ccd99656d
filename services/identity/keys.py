"""The names of every key that identity reads or writes. Pure.

Beside Cilium's own trees stands `<prefix>/state/fairlead/v1/`, which Cilium does not read. It lies under the same root on purpose: one
watch then sees a commit as one batch, values together with the trace that caused them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote

from fairlead.address import Prefix
from services.identity.cilium import address_name, label_string

ENDPOINTS = "fairlead/endpoints/"
EXTERNALS = "fairlead/externals/"
SHARDS = 16


@dataclass(frozen=True)
class Keys:
    """Key names for one root (usually `cilium`) and one cluster."""

    root: str
    cluster: str

    @property
    def state(self) -> str:
        """Return the prefix that holds everything announced."""
        return f"{self.root}/state/"

    @property
    def ids(self) -> str:
        """Return the prefix of number to labels."""
        return f"{self.root}/state/identities/v1/id/"

    @property
    def addresses(self) -> str:
        """Return the prefix of address to identity, of our cluster."""
        return f"{self.root}/state/ip/v1/{self.cluster}/"

    @property
    def nodes(self) -> str:
        """Return the prefix of our cluster's nodes."""
        return f"{self.root}/state/nodes/v1/{self.cluster}/"

    @property
    def guards(self) -> str:
        """Return the prefix of the keys that make a label set unique."""
        return f"{self.root}/state/fairlead/v1/identities/"

    @property
    def notes(self) -> str:
        """Return the prefix of the keys that tell what last changed a group of addresses."""
        return f"{self.root}/state/fairlead/v1/groups/"

    @property
    def accept_loss(self) -> str:
        """Return the key that a person sets to let a mass loss take effect."""
        return f"{self.root}/state/fairlead/v1/accept-loss"

    def id(self, number: int) -> str:
        """Return the key that holds the labels of a number."""
        return f"{self.ids}{number}"

    def values(self, labels: Sequence[str]) -> str:
        """Return the prefix under which users of a label set note its number."""
        return f"{self.root}/state/identities/v1/value/{label_string(labels)}/"

    def guard(self, labels: Sequence[str]) -> str:
        """Return the key that only one writer can create for a label set."""
        return self.guards + hashlib.sha256(label_string(labels).encode()).hexdigest()

    def address(self, prefix: Prefix) -> str:
        """Return the key of one address or prefix."""
        return self.addresses + address_name(prefix)

    def node(self, node: str) -> str:
        """Return the key of one node."""
        return self.nodes + node

    def note(self, group: str) -> str:
        """Return the key that tells what last changed a group."""
        return self.notes + group


def endpoint_record(node: str, endpoint: str) -> str:
    """Return the key of an endpoint's record; it is the owner named in the endpoint's addresses."""
    return f"{ENDPOINTS}{node}/{quote(endpoint, safe='')}"


def external_record(source: str, source_id: str) -> str:
    """Return the key of an external workload's record."""
    return f"{EXTERNALS}{quote(source, safe='')}/{quote(source_id, safe='')}"


def node_of(owner: str) -> str:
    """Return the node of an endpoint's record key, or nothing."""
    return owner.removeprefix(ENDPOINTS).partition("/")[0] if owner.startswith(ENDPOINTS) else ""


def shard(prefix: Prefix) -> str:
    """Return the group of an address that belongs to no node."""
    return f"external-{hashlib.sha256(prefix.encode()).digest()[0] % SHARDS}"
