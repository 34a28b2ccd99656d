"""Errors that a peer, a user or the world can cause, each with a stable code for the bus.

FairleadError
 +- InvalidInput      the sender is wrong: the message names the field and the fix
 +- NotFound          the named thing does not exist
 +- Conflict          somebody else was first, or the generation is older
 +- Exhausted         a pool, a map or a budget is full
 +- Denied            the sender may not do this
 +- Unavailable       something needed is away now; trying again later may work
"""

from __future__ import annotations


class FairleadError(Exception):
    """Something a caller must hear about; `code` is stable and travels on the bus, the text is for people."""

    code = "internal"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class InvalidInput(FairleadError):
    """The input is wrong; the message names the field, what is wrong with it, and the fix."""

    code = "invalid"


class NotFound(FairleadError):
    """The named object does not exist."""

    code = "not-found"


class Conflict(FairleadError):
    """Another writer was first, or holds what is asked for."""

    code = "conflict"


class Exhausted(FairleadError):
    """A pool, a map or a budget is full."""

    code = "exhausted"


class Denied(FairleadError):
    """The sender lacks the right to do this."""

    code = "denied"


class Unavailable(FairleadError):
    """A part that is needed cannot be reached now."""

    code = "unavailable"


ERROR_BY_CODE: dict[str, type[FairleadError]] = {
    kind.code: kind for kind in (InvalidInput, NotFound, Conflict, Exhausted, Denied, Unavailable)
}


def error_from_code(code: str, message: str) -> FairleadError:
    """Return the error that `code` names on the wire; an unknown code gives the base class."""
    return ERROR_BY_CODE.get(code, FairleadError)(message)
