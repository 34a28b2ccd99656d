"""What an agent's start remembers on disk of its turn in the fleet: written by the entrypoint, and read by people's commands where no bus is."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from fairlead.schema.admission import WaitingStart

FOLDER = "admission"
"""Below the state folder; one file per service."""
Seconds1970 = Annotated[float, Meta(ge=0, le=1e11)]
Count = Annotated[int, Meta(ge=0, le=1000)]
_LOG = logging.getLogger("admission")


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """What is remembered between starts, in seconds since 1970; 0: never."""

    boot: str = ""
    started_s: Seconds1970 = 0
    """When the newest start was admitted."""
    due_s: Seconds1970 = 0
    """When the start that is waiting now will be; 0: none is waiting."""
    held: Count = 0
    """How many starts in a row had been held back when that start was admitted."""
    due_held: Count = 0
    """The same for the start that is waiting."""
    node: str = ""
    """Whose start is waiting."""
    reason: str = ""
    """Why it waits."""


def recall(path: Path) -> Record:
    """Return what is remembered; nothing where the file is absent or unreadable."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Record)
    except FileNotFoundError:
        return Record()
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        _LOG.warning("%s: cannot be read (%s): counts as the first start", path, error)
        return Record()


def waiting_here(state_dir: Path, now: datetime) -> list[WaitingStart]:
    """Return the starts of this machine that wait, as their files say: also those that no bus hears of."""
    found = {path.stem: recall(path) for path in sorted((state_dir / FOLDER).glob("*.json"))}
    return [
        WaitingStart(
            node=record.node, service=service, due=datetime.fromtimestamp(record.due_s, UTC), reason=record.reason
        )
        for service, record in found.items()
        if record.due_s > now.timestamp()
    ]
