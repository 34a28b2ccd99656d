"""Starts that wait for their turn in the fleet, and a person who does not want them to."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from msgspec import Meta

from fairlead.schema.base import Message, Topic

_NAME_OR_ALL = Annotated[str, Meta(max_length=63, pattern=r"^[a-z0-9-]*$")]


class StartNow(Message, frozen=True, kw_only=True):
    """Which waiting starts are meant; every start that waits at this moment hears it, nobody keeps it for later ones."""

    node: _NAME_OR_ALL = ""
    """Empty: every node, and every instance of a cluster service."""
    service: _NAME_OR_ALL = ""
    """Empty: every service."""

    def means(self, node: str, service: str) -> bool:
        """Tell whether that start is meant."""
        return self.node in ("", node) and self.service in ("", service)


class WaitingStart(Message, frozen=True, kw_only=True):
    """A start that waits, as its entrypoint says itself."""

    node: str
    """The node, or the instance name of a cluster service."""
    service: str
    due: datetime
    """When it starts by itself."""
    reason: str
    """Why it waits."""
    starts: bool = False
    """It was meant, and starts now."""


START_NOW = Topic(
    "fairlead.cmd.fairlead.admission.start.v1", StartNow, WaitingStart, summary="starts that wait are wanted now"
)
