"""What a document's annotations say of its own life: whether it is enforced yet, and until when it stands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from services.policy.ports import refuse
from services.policy.rules import Stage

PREFIX = "fairlead.dev/"
AUDIT = f"{PREFIX}audit"
AUDIT_UNTIL = f"{PREFIX}audit-until"
STAGED = f"{PREFIX}staged"
EXPIRES = f"{PREFIX}expires"
_KNOWN = (AUDIT, AUDIT_UNTIL, STAGED, EXPIRES)


@dataclass(frozen=True)
class Life:
    """How a document lives."""

    stage: Stage = Stage.LIVE
    audit_until: datetime | None = None
    expires: datetime | None = None


def read_life(metadata: Mapping[str, Any]) -> Life:
    """Return what the annotations say; those of others are skipped. Raises InvalidInput naming the field."""
    given = metadata.get("annotations")
    if given is None:
        return Life()
    if not isinstance(given, dict) or not all(isinstance(part, str) for pair in given.items() for part in pair):
        refuse("metadata.annotations", "annotations are names with texts")
    unknown = [name for name in given if name.startswith(PREFIX) and name not in _KNOWN]
    if unknown:
        refuse(_path(unknown[0]), f"not one of {', '.join(_KNOWN)}")
    stage, expires = _stage(given), _time(given, EXPIRES)
    return Life(stage, _audit_until(given, stage), expires)


def _stage(given: Mapping[str, str]) -> Stage:
    audit, staged = (_flag(given, name) for name in (AUDIT, STAGED))
    if audit and staged:
        refuse(_path(STAGED), "a document is audited or staged, not both: leave one out")
    if audit:
        return Stage.AUDIT
    return Stage.STAGED if staged else Stage.LIVE


def _audit_until(given: Mapping[str, str], stage: Stage) -> datetime | None:
    until = _time(given, AUDIT_UNTIL)
    if stage is Stage.AUDIT and until is None:
        refuse(_path(AUDIT), f"an audit that never ends is forgotten: add {AUDIT_UNTIL}, from when on it is enforced")
    if stage is not Stage.AUDIT and until is not None:
        refuse(_path(AUDIT_UNTIL), f'it has no effect without {AUDIT}: "true"')
    return until


def _flag(given: Mapping[str, str], name: str) -> bool:
    text = given.get(name, "false")
    if text not in ("true", "false"):
        refuse(_path(name), f'{text!r} is neither "true" nor "false"')
    return text == "true"


def _time(given: Mapping[str, str], name: str) -> datetime | None:
    text = given.get(name)
    return None if text is None else as_time(text, _path(name))


def as_time(text: str, path: str) -> datetime:
    """Return the moment that a text means. Raises InvalidInput naming the field."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        time = None
    if time is None or time.tzinfo is None:
        refuse(path, f'{text!r} is no time: write it like "2026-01-31T18:00:00Z"')
    return time


def _path(name: str) -> str:
    return f"metadata.annotations[{name}]"
