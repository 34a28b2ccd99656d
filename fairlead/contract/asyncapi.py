"""The AsyncAPI 3 document of the bus, from the registry of topics and buckets. Pure.

Seen from Fairlead: it *receives* what others ask and state, and *sends* replies, events, flows and rows.
"""

from __future__ import annotations

from typing import Any

import msgspec

from fairlead import __version__
from fairlead.address import Address, Prefix
from fairlead.errors import ERROR_BY_CODE
from fairlead.schema import BUCKETS, DEAD_STREAM, EVENTS_STREAM, TOPICS
from fairlead.schema.admission import START_NOW
from fairlead.schema.base import BucketSpec, Delivery, Empty, Message, Topic
from fairlead.schema.health import HEALTH, DeadLetter, dead_subject

Json = dict[str, Any]
_SCHEMAS = "#/components/schemas/"
_MSGPACK, _JSON = "application/msgpack", "application/json"
_PARAMETERS = {
    "node": {"description": "the node, as one subject token: a-z, 0-9 and dashes, at most 63"},
    "owner": {
        "description": "the first part of the message's `owner`, as one subject token: `compose` for `compose/shop`"
    },
    "service": {"description": "the service that could not use the message"},
    "key": {"description": "the row's key; the node's name in buckets that nodes write themselves"},
}
_HEADERS: Json = {
    "type": "object",
    "properties": {
        "traceparent": {
            "type": "string",
            "description": "W3C trace context; continued by every span this message causes",
        },
        "Content-Type": {"type": "string", "enum": [_MSGPACK, _JSON], "description": "absent: the first byte tells"},
        "Nats-Msg-Id": {"type": "string", "description": "events with an id that was seen already are dropped"},
        "Fairlead-Source": {"type": "string", "description": "who sent it, for people"},
    },
}
_ERROR_HEADERS: Json = {
    "type": "object",
    "required": ["Nats-Service-Error", "Nats-Service-Error-Code", "Fairlead-Error"],
    "properties": {
        "Nats-Service-Error": {"type": "string", "description": "names the field, what is wrong with it, and the fix"},
        "Nats-Service-Error-Code": {"type": "string", "description": "the numeric twin of Fairlead-Error"},
        "Fairlead-Error": {"type": "string", "enum": [*sorted(ERROR_BY_CODE), "internal"]},
    },
}


def document() -> Json:
    """Return the whole document, the same for the same schema."""
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Fairlead",
            "version": __version__,
            "description": "Requests, events and state of Fairlead on NATS. Prose and examples: protocol.md.",
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        },
        "defaultContentType": _MSGPACK,
        "servers": {"leaf": {"host": "127.0.0.1:4222", "protocol": "nats", "description": "the node's own NATS leaf"}},
        "channels": _channels(),
        "operations": {name: operation for topic in TOPICS for name, operation in _operations(topic)}
        | {f"keep-{spec.name}": _keep(spec) for spec in BUCKETS}
        | {"bury": {"action": "send", "channel": _ref("channels", "dead"), "summary": "keep what could not be used"}},
        "components": {
            "schemas": schemas() | {"Headers": _HEADERS, "ErrorHeaders": _ERROR_HEADERS},
            "messages": _messages(),
        },
    }


def schemas() -> Json:
    """Return the JSON Schema of every struct that travels, by name."""
    _, found = msgspec.json.schema_components(_kinds(), schema_hook=_custom, ref_template=_SCHEMAS + "{name}")
    return dict(sorted(found.items()))


def _kinds() -> list[type[Message]]:
    found: list[type[Message]] = [DeadLetter, *(spec.row for spec in BUCKETS)]
    for topic in TOPICS:
        found += [topic.message, topic.reply]
    return list(dict.fromkeys(found))


def _custom(kind: type) -> Json:
    if kind is Address:
        return {
            "type": "string",
            "description": "IPv4 or IPv6 address, canonical text",
            "examples": ["10.0.1.2", "fd00::2"],
        }
    if kind is Prefix:
        return {"type": "string", "description": "IPv4 or IPv6 prefix, host bits zero", "examples": ["10.0.1.0/24"]}
    raise NotImplementedError(f"no JSON schema for {kind.__name__}")


def topic_id(topic: Topic[Any, Any]) -> str:
    """Return the topic's name in the document, in operations and in file names: the subject without `fairlead.`."""
    return topic.subject.removeprefix("fairlead.")


def has_reply(topic: Topic[Any, Any]) -> bool:
    """Tell whether somebody answers: requests are answered, what is published is not."""
    return topic.delivery in (Delivery.COMMAND, Delivery.SNAPSHOT)


def _ref(kind: str, name: str) -> Json:
    return {"$ref": f"#/{kind}/{name.replace('/', '~1')}"}


def _channels() -> Json:
    found = {topic_id(topic): _channel(topic) for topic in TOPICS}
    rows = {f"bucket.{spec.name}": _bucket(spec) for spec in BUCKETS}
    replies = sorted({topic.reply.__name__ for topic in TOPICS if has_reply(topic)})
    named = {name: _ref("components/messages", name) for name in [*replies, "Error"]}
    inbox = {"address": None, "title": "the inbox that a request names", "messages": named}
    dead = {
        "address": dead_subject("{service}"),
        "title": f"dead letters, kept in the stream {DEAD_STREAM}",
        "messages": {"DeadLetter": _ref("components/messages", "DeadLetter")},
        "parameters": {"service": _PARAMETERS["service"]},
    }
    return found | rows | {"reply": inbox, "dead": dead}


def _channel(topic: Topic[Any, Any]) -> Json:
    name = topic.message.__name__
    made: Json = {
        "address": topic.subject,
        "title": topic.summary,
        "messages": {name: _ref("components/messages", name)},
    }
    if topic.delivery is Delivery.EVENT:
        made["description"] = f"Kept in the JetStream stream {EVENTS_STREAM}; delivered at least once."
    if topic.names_speaker:
        who = "owner" if topic.per_owner else "node"
        made |= {"address": f"{topic.subject}.{{{who}}}", "parameters": {who: _PARAMETERS[who]}}
    return made


def _bucket(spec: BucketSpec[Any]) -> Json:
    name = spec.row.__name__
    return {
        "address": f"$KV.{spec.name}.{{key}}",
        "title": spec.summary,
        "description": f"JetStream KV bucket `{spec.name}`, written by {spec.owner} alone; watch it, never write it.",
        "messages": {name: _ref("components/messages", name)},
        "parameters": {"key": _PARAMETERS["key"]},
    }


def _operations(topic: Topic[Any, Any]) -> list[tuple[str, Json]]:
    """Return what Fairlead does on the topic: answer it, take it, or announce on it."""
    name = topic_id(topic)
    channel = {"channel": _ref("channels", name), "summary": topic.summary}
    if has_reply(topic):
        answer = {"action": "receive", **channel, "reply": _reply(topic)}
        # every process answers for itself where there is no queue
        queue = (
            {}
            if topic in (HEALTH, START_NOW)
            else {"bindings": {"nats": {"queue": topic.service, "bindingVersion": "0.1.0"}}}
        )
        return [(f"answer-{name}", answer | queue | _tags(topic))]
    if topic.intent:
        return [(f"take-{name}", {"action": "receive", **channel, **_tags(topic)})]
    return [(f"announce-{name}", {"action": "send", **channel})]


def _reply(topic: Topic[Any, Any]) -> Json:
    messages = [{"$ref": f"#/channels/reply/messages/{name}"} for name in (topic.reply.__name__, "Error")]
    return {"channel": _ref("channels", "reply"), "messages": messages}


def _tags(topic: Topic[Any, Any]) -> Json:
    described = "other systems may use it; JSON and structured CloudEvents are accepted beside MessagePack"
    return {"tags": [{"name": "intent", "description": described}]} if topic.intent else {}


def _keep(spec: BucketSpec[Any]) -> Json:
    return {
        "action": "send",
        "channel": _ref("channels", f"bucket.{spec.name}"),
        "summary": f"{spec.owner}: {spec.summary}",
    }


def _messages() -> Json:
    found = {kind.__name__: _message(kind) for kind in sorted(_kinds(), key=lambda kind: kind.__name__)}
    error = {
        "title": "Why a request was refused",
        "headers": {"$ref": _SCHEMAS + "ErrorHeaders"},
        "payload": _ERROR_BODY,
        "contentType": _JSON,
    }
    return found | {"Error": error}


_ERROR_BODY: Json = {
    "type": "object",
    "required": ["error", "code"],
    "properties": {"error": {"type": "string"}, "code": {"type": "string"}},
}


def _message(kind: type[Message]) -> Json:
    title = (kind.__doc__ or kind.__name__).partition("\n")[0]
    payload = {"type": "object"} if kind is Empty else {"$ref": _SCHEMAS + kind.__name__}
    return {"name": kind.__name__, "title": title, "headers": {"$ref": _SCHEMAS + "Headers"}, "payload": payload}
