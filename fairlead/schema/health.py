"""How a service is, as it says itself; and what it could not understand."""

from __future__ import annotations

from datetime import datetime

from fairlead.schema.base import Empty, Message, Topic


class Condition(Message, frozen=True, kw_only=True):
    """One aspect of a service; `ok` false means degraded, never dead."""

    name: str
    ok: bool
    detail: str = ""


class Health(Message, frozen=True, kw_only=True):
    """One running service process."""

    service: str
    node: str
    """The node it serves, or the instance name of a cluster service."""
    version: str
    since: datetime
    pid: int
    rss_bytes: int
    conditions: tuple[Condition, ...] = ()

    @property
    def ok(self) -> bool:
        """Tell whether nothing is degraded."""
        return all(condition.ok for condition in self.conditions)


class DeadLetter(Message, frozen=True, kw_only=True):
    """A message that could not be understood or acted on, and why."""

    subject: str
    reason: str
    code: str
    time: datetime
    data: bytes
    """The first 64 KiB of the body."""
    trace: str = ""


HEALTH = Topic("fairlead.get.fairlead.health.show.v1", Empty, Health, summary="every service answers for itself")


def dead_subject(service: str) -> str:
    """Return where messages that `service` could not use are kept."""
    return f"fairlead.dead.{service}"
