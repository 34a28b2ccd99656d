"""Messages to NATS headers and bodies, and errors to NATS service errors (ADR-32) and back."""

from __future__ import annotations

import uuid
from typing import TypeVar

from nats.aio.msg import Msg

from fairlead import codec, telemetry
from fairlead.errors import FairleadError, error_from_code
from fairlead.schema.base import Message

R = TypeVar("R", bound=Message)

MSGPACK = "application/msgpack"
JSON = "application/json"
ERROR = "Nats-Service-Error"
ERROR_CODE = "Nats-Service-Error-Code"
FAIRLEAD_CODE = "Fairlead-Error"
"""Our stable error code in words; the numeric twin stands in Nats-Service-Error-Code."""

_NUMBER_BY_CODE = {
    "invalid": "400",
    "denied": "403",
    "not-found": "404",
    "conflict": "409",
    "unavailable": "503",
    "exhausted": "507",
}


def headers(source: str) -> dict[str, str]:
    """Return the headers of an outgoing message: type, sender, trace, and an id that JetStream deduplicates by."""
    trace = telemetry.traceparent()
    ours = {"Content-Type": MSGPACK, "Fairlead-Source": source, "Nats-Msg-Id": uuid.uuid4().hex}
    return {**ours, "traceparent": trace} if trace else ours


def header(message: Msg, name: str) -> str:
    """Return a header, whatever the case of its name; empty when absent."""
    found = message.headers or {}
    return next((value for key, value in found.items() if key.lower() == name.lower()), "")


def body_for(request: Msg, reply: Message) -> tuple[bytes, dict[str, str]]:
    """Return body and headers of a reply, in the form in which the request came."""
    kind = header(request, "Content-Type")
    if "json" in kind or (not kind and request.data[:1] in (b"{", b"[")):
        return codec.encode_json(reply), {"Content-Type": JSON}
    return codec.encode(reply), {"Content-Type": MSGPACK}


def error_headers(error: FairleadError) -> dict[str, str]:
    """Return the headers of an error reply."""
    text = " ".join(error.message.split())[:1024].encode("ascii", "replace").decode()
    return {ERROR: text, ERROR_CODE: _NUMBER_BY_CODE.get(error.code, "500"), FAIRLEAD_CODE: error.code}


def read_reply(message: Msg, kind: type[R]) -> R:
    """Return the reply. Raises the error that the handler raised."""
    text = header(message, ERROR)
    if text:
        raise error_from_code(header(message, FAIRLEAD_CODE), text)
    return codec.decode(message.data, kind, content_type=header(message, "Content-Type"))
