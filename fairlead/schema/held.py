"""Deletions that a node holds back because they would be too many at once."""

from __future__ import annotations

import msgspec

from fairlead.schema.base import Empty, Message, NodeNameField, Topic


class HeldRows(Message, frozen=True, kw_only=True):
    """How many rows a node held when it was told to let them go."""

    node: NodeNameField
    rows: dict[str, int] = msgspec.field(default_factory=dict)
    """By what they are rows of; empty: none were held."""


RELEASE_HELD = Topic(
    "fairlead.cmd.datapath.held.release.v1",
    Empty,
    HeldRows,
    per_node=True,
    summary="let the deletions that are held back happen",
)
