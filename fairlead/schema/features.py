"""What the kernel of one node can do."""

from __future__ import annotations

from fairlead.schema.base import Empty, Message, NodeNameField, Topic


class KernelFeature(Message, frozen=True, kw_only=True):
    """Something that kernels have or have not, as a node's start has found it."""

    name: str
    present: bool
    use: str
    """What the datapath does with it."""
    instead: str = ""
    """What is used where it is missing."""


class KernelFeatures(Message, frozen=True, kw_only=True):
    """What a node's kernel can do."""

    node: NodeNameField
    kernel: str
    """Its release, for instance `6.1.0-18-amd64`."""
    features: tuple[KernelFeature, ...] = ()


FEATURES = Topic(
    "fairlead.get.datapath.feature.list.v1",
    Empty,
    KernelFeatures,
    per_node=True,
    summary="what the kernel can do, and what is used where it cannot",
)
