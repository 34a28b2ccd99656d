"""Which subjects each credential may use: all made from the registry of topics and buckets, nothing listed twice.

A node publishes what it states of itself, on subjects that end in its name, and its own rows; it hears what is asked of it. Everybody
hears answers below an inbox of its own name only. Answers may be sent to any inbox: nobody can guess one, and nobody can listen to
somebody else's.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from fairlead.schema import BUCKETS, DEAD_STREAM, EVENTS_STREAM, TOPICS
from fairlead.schema.admission import START_NOW
from fairlead.schema.base import BucketSpec, Delivery, NodeName, Topic
from fairlead.schema.datapath import ATTACH, DETACH, ENDPOINTS
from fairlead.schema.health import HEALTH, dead_subject
from fairlead.schema.ipam import ALLOCATE, LEASES, RELEASE
from fairlead.schema.owned import OWNED_APPLY, OWNED_DELETE

DOMAIN = "hub"
NODE_SERVICES = ("ipam", "datapath", "bgp")
CLUSTER_SERVICES = ("identity", "policy")
DOCKER = NodeName("docker")
"""The network plugin of a node, and the owner in whose name it states the policies of containers' shorthand."""
NODE_CLIENTS = (*NODE_SERVICES, "client", DOCKER)
"""Who has a credential of its own at a node's server: the services, the network plugin, and the node's other clients (command line, CNI)."""
INTENTS = ("workloads", "policies", "force")
"""What another system or an operator may be allowed to state; `force` passes over failing tests of policies, and over owners."""
OF_OWNER = "policies="
"""Before an owner's name: policies in this owner's name, and no others."""
_PLUGIN_ASKS = (ALLOCATE, RELEASE, LEASES, ATTACH, DETACH, ENDPOINTS)
_SERVICE_DISCOVERY = "$SRV.>"
_INBOXES = "_INBOX.>"
_FLOW_CONTROL = "$JS.FC.>"
_API = f"$JS.{DOMAIN}.API"


@dataclass(frozen=True)
class Rights:
    """Subjects that a credential may publish to and subscribe to, sorted."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]


def of_node(node: NodeName) -> Rights:
    """Return what a node's server may pass on to the hub: all that its services may, and what its clients ask of the fleet."""
    parts = [of_node_client(node, who) for who in NODE_CLIENTS]
    return _rights(_each("publish", parts), [f"_INBOX.{node}.>", *_each("subscribe", parts)])


def of_node_client(node: NodeName, who: str) -> Rights:
    """Return what one of the node's own services, the network plugin, or `client` may do at the node's server."""
    inbox = f"_INBOX.{node}.{who}.>"
    if who == DOCKER:
        stated = [topic.on(DOCKER) for topic in (OWNED_APPLY, OWNED_DELETE)]
        asked = [topic.on(node) for topic in _PLUGIN_ASKS]
        return _rights([*asked, *stated, _INBOXES], [HEALTH.subject, inbox])
    if who not in NODE_SERVICES:
        asked = [topic.on(node) for topic in TOPICS if topic.service in NODE_SERVICES and _is_asked(topic)]
        return _rights([*asked, HEALTH.subject, *_reads(BUCKETS)], [inbox])
    mine = [topic for topic in TOPICS if topic.service == who]
    heard = [topic.on(node) for topic in mine if _is_asked(topic)]
    told = [topic.on(node) for topic in mine if not _is_asked(topic)]
    stated = [topic.on(node) for topic in TOPICS if topic.service in CLUSTER_SERVICES and topic.per_node]
    rows = [_row(spec, node) for spec in BUCKETS if spec.owner == who]
    made = [f"{_API}.STREAM.CREATE.KV_{spec.name}" for spec in BUCKETS if spec.owner == who]
    asks = stated if who == "datapath" else []
    return _rights([*told, *asks, *rows, *made, *_reads(BUCKETS), *_buried(who), _INBOXES], [*_served(), *heard, inbox])


def of_service(name: str, service: str) -> Rights:
    """Return what a replica of a cluster service may do at the hub; its name is `<service>-<anything>`."""
    heard = [
        topic.on(NodeName("*")) if topic.names_speaker else topic.subject
        for topic in TOPICS
        if topic.service == service
    ]
    rows = [subject for spec in BUCKETS if spec.owner == service for subject in _writes(spec)]
    events = [
        f"$JS.ACK.{EVENTS_STREAM}.>",
        *(f"{_API}.{call}" for call in _consuming(service)),
        *(f"{_API}.STREAM.{verb}.{EVENTS_STREAM}" for verb in ("INFO", "CREATE")),
    ]
    return _at_hub([*rows, *_reads(BUCKETS), *events, *_buried(service), _INBOXES], [*_served(), *heard, _inbox(name)])


def of_system(name: str, may: Iterable[str]) -> Rights:
    """Return what another system may do: state its intent, and ask what became of it."""
    return _at_hub([*_intents(may), *_shown()], [_inbox(name)])


def of_operator(name: str, may: Iterable[str]) -> Rights:
    """Return what a person may do: state intent, ask every node, and follow flows."""
    everywhere = NodeName("*")
    asked = [topic for topic in TOPICS if topic.service in NODE_SERVICES and _is_asked(topic)]
    flows = [topic.on(everywhere) for topic in TOPICS if topic.delivery is Delivery.FLOW]
    publish = [topic.on(everywhere) for topic in asked] + [
        *_intents(may),
        *_shown(),
        *_reads(BUCKETS),
        START_NOW.subject,
        _SERVICE_DISCOVERY,
    ]
    return _at_hub(publish, [_inbox(name), *flows, "fairlead.evt.>", "fairlead.dead.>"])


def _rights(publish: Iterable[str], subscribe: Iterable[str]) -> Rights:
    return Rights(tuple(sorted(set(publish))), tuple(sorted(set(subscribe))))


def _at_hub(publish: Iterable[str], subscribe: Iterable[str]) -> Rights:
    """Return the rights of somebody connected to the hub itself, which takes its domain out of subjects before it asks who may."""
    given = list(publish)
    plain = [subject.replace(f"{_API}.$KV.", "$KV.").replace(_API, "$JS.API") for subject in given]
    return _rights([*given, *plain], subscribe)


def _each(side: str, parts: Iterable[Rights]) -> list[str]:
    return [subject for part in parts for subject in getattr(part, side)]


def _inbox(name: str) -> str:
    return f"_INBOX.{name}.>"


def _is_asked(topic: Topic[Any, Any]) -> bool:
    """Tell whether the topic's service answers it, rather than telling it."""
    return topic.delivery in {Delivery.COMMAND, Delivery.SNAPSHOT}


def _served() -> list[str]:
    return [HEALTH.subject, START_NOW.subject, _SERVICE_DISCOVERY]


def _shown() -> list[str]:
    """Return what the cluster services answer to everybody."""
    topics = [topic for topic in TOPICS if topic.service in CLUSTER_SERVICES and topic.delivery is Delivery.SNAPSHOT]
    return [HEALTH.subject, *(topic.subject for topic in topics if not topic.per_node)]


def _intents(may: Iterable[str]) -> list[str]:
    granted = set(may)
    owners = [NodeName(one.removeprefix(OF_OWNER)) for one in sorted(granted) if one.startswith(OF_OWNER)]
    owned = [topic.on(owner) for topic in TOPICS if topic.per_owner for owner in owners]
    return owned + [
        topic.subject for topic in TOPICS if topic.intent and not topic.per_owner and _kind(topic) in granted
    ]


def _kind(topic: Topic[Any, Any]) -> str:
    _, _, service, _, verb, _ = topic.subject.split(".")
    return "workloads" if service == "identity" else "force" if verb.startswith("force") else "policies"


def _row(spec: BucketSpec[Any], key: str) -> str:
    return f"{_API}.$KV.{spec.name}.{key}"


def _writes(spec: BucketSpec[Any]) -> list[str]:
    return [_row(spec, ">"), *(f"{_API}.STREAM.{verb}.KV_{spec.name}" for verb in ("CREATE", "INFO"))]


def _reads(buckets: Iterable[BucketSpec[Any]]) -> list[str]:
    """Return what it takes to list and follow buckets (nodes do it through the hub's domain)."""
    calls = (
        "STREAM.INFO.{0}",
        "CONSUMER.CREATE.{0}",
        "CONSUMER.CREATE.{0}.>",
        "CONSUMER.DELETE.{0}.>",
        "DIRECT.GET.{0}",
    )
    subjects = [f"{_API}.{call.format(f'KV_{spec.name}')}" for spec in buckets for call in (*calls, "DIRECT.GET.{0}.>")]
    return [*subjects, _FLOW_CONTROL]


def _consuming(service: str) -> Iterable[str]:
    """Yield the calls with which a service takes events from their stream; its durable consumers begin with its name."""
    topics = [topic for topic in TOPICS if topic.service == service and topic.delivery is Delivery.EVENT]
    for topic in topics:
        durable = f"{service}-" + "-".join(topic.subject.split(".")[3:])
        for call in ("INFO", "CREATE", "DURABLE.CREATE", "MSG.NEXT"):
            yield f"CONSUMER.{call}.{EVENTS_STREAM}.{durable}"
        yield f"CONSUMER.CREATE.{EVENTS_STREAM}.{durable}.>"


def _buried(service: str) -> list[str]:
    """Return what it takes to keep what could not be understood."""
    return [dead_subject(service), *(f"{_API}.STREAM.{verb}.{DEAD_STREAM}" for verb in ("INFO", "CREATE"))]
