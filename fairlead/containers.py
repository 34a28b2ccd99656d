"""Which labels of a container count for its identity, and what shorthand comes to, on a container or in a compose file: pure.

Shorthand is for those who write no policies:

    fairlead.ingress.from: web:5432, shop/api, world:80     who may reach the container, and on which of its ports
    fairlead.egress.allow: db:5432, dns, 192.0.2.0/24:443   whom the container may reach

Each item is PEER, PEER:PORT or PEER:PORT/PROTOCOL. A peer is a compose service of the same project, PROJECT/SERVICE, PROJECT/*, a prefix
(IPv6 in brackets), `world`, `host`, `all`, or `dns` (every peer, port 53). Containers that write the same shorthand in the same project share
a policy, whose name is made from its text: hosts that never heard of each other come to the same document.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from msgspec import Meta

from fairlead.address import Prefix
from fairlead.config import CommonSettings
from fairlead.errors import InvalidInput
from fairlead.labels import normalise
from fairlead.schema.policy import PolicyObject

PROJECT, SERVICE = "com.docker.compose.project", "com.docker.compose.service"
INGRESS, EGRESS = "fairlead.ingress.from", "fairlead.egress.allow"
POLICY, NETWORK = "fairlead.policy", "fairlead.network"
CHOSEN = (PROJECT, SERVICE, "app", "role", "tier")
"""Keys of container labels that count for identity unless an operator chooses others."""
SWITCH: Mapping[str, bool] = {"on": True, "true": True, "1": True, "off": False, "false": False, "0": False}
MTU, ISOLATION = "fairlead.mtu", "fairlead.isolation"
"""Options of a network."""
_OWN = "fairlead.label."
_SOCKET = r"^/[^\x00-\x1f\x7f]*/[a-z0-9][a-z0-9_-]*\.sock$"
_NAMESPACE = "k8s:io.kubernetes.pod.namespace"
_WORKLOAD = "k8s:io.cilium.k8s.policy.cluster"
"""A label that is implied for every workload, and for nothing else."""
_NAMED_PORT = "fairlead.port."
_ITEM = re.compile(
    r"(?P<peer>\[[^\]]+\](?:/\d+)?|[^:\s]+)(?::(?P<port>\d{1,5})(?:/(?P<protocol>tcp|udp))?)?", re.IGNORECASE
)
_ENTITIES = {"world": "world", "host": "host", "all": "all"}
WORDS = frozenset({*_ENTITIES, "dns"})
"""Peers that are no service."""
_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
_FORBIDDEN = re.compile(r"[;,\x00-\x1f]")
_KIND = "CiliumClusterwideNetworkPolicy"


class ContainerSettings(CommonSettings, frozen=True, kw_only=True):
    """Options of the network plugin by which containers get their labels: the same on every host of a stack."""

    docker_plugin: Annotated[str, Meta(pattern=_SOCKET)] = "/run/docker/plugins/fairlead.sock"
    """Where the engine finds the plugin; the file's name without `.sock` is the driver's name."""
    docker_labels: tuple[str, ...] = CHOSEN
    """Keys of container labels that count for identity; `prefix*` for all that begin so. The fewer, the fewer identities."""
    docker_image_label: bool = False
    """Whether the image's name (without tag) counts for identity."""
    docker_isolation: Annotated[str, Meta(pattern="^(on|off)$")] = "off"
    """Whether networks are isolated from one another that do not say it themselves with `fairlead.isolation`."""

    @property
    def driver(self) -> str:
        """Return the name under which the engine knows the plugin."""
        return self.docker_plugin.rpartition("/")[2].removesuffix(".sock")


def identity_labels(
    labels: Mapping[str, str], chosen: Iterable[str], *, image: str = "", network: str = ""
) -> tuple[str, ...]:
    """Return the labels that make the identity: the chosen keys, `fairlead.label.<key>` as `<key>`, and what shorthand adds."""
    exact = set(chosen)
    prefixes = tuple(key[:-1] for key in exact if key.endswith("*"))
    found = {key: value for key, value in labels.items() if key in exact or (prefixes and key.startswith(prefixes))}
    found |= {key: value for key, value in labels.items() if key.startswith(_NAMED_PORT)}
    found |= {key.removeprefix(_OWN): value for key, value in labels.items() if key.startswith(_OWN) and key != _OWN}
    if image:
        found["image"] = image_name(image)
    if network:
        found[NETWORK] = network
    if policy := shorthand_policy(labels):
        found[POLICY] = policy.metadata["name"]
    usable = {key: _FORBIDDEN.sub("_", value)[:400] for key, value in found.items() if not _FORBIDDEN.search(key)}
    return normalise(f"container:{key}={value}" if value else f"container:{key}" for key, value in usable.items())


def image_name(image: str) -> str:
    """Return an image's name without tag and digest: they change with every build, and identities must not."""
    name = image.partition("@")[0]
    head, slash, last = name.rpartition("/")
    return f"{head}{slash}{last.partition(':')[0]}"


def shorthand_policy(labels: Mapping[str, str]) -> PolicyObject | None:
    """Return the policy that a container's shorthand comes to, or None without any. Raises InvalidInput naming label and item."""
    given = {key: labels[key].strip() for key in (INGRESS, EGRESS) if key in labels}
    if not given:
        return None
    project = labels.get(PROJECT, "")
    digest = hashlib.sha256(repr((project, sorted(given.items()))).encode()).hexdigest()[:16]
    spec: dict[str, Any] = {"endpointSelector": {"matchLabels": {f"container:{POLICY}": f"docker-{digest}"}}}
    if INGRESS in given:
        spec["ingress"] = rules(f"`{INGRESS}`", given[INGRESS].split(","), project, "from")
    if EGRESS in given:
        spec["egress"] = rules(f"`{EGRESS}`", given[EGRESS].split(","), project, "to")
    return _document(f"docker-{digest}", spec)


def isolation_policy(network: str) -> PolicyObject:
    """Return the policy by which no workload outside the network reaches its members.

    It denies, since permissions add up: one that lets members in would open what other policies leave closed within the network.
    """
    label = f"container:{NETWORK}"
    outside = [
        {"key": _WORKLOAD, "operator": "Exists"},  # else hosts and the world would be outside too
        {"key": label, "operator": "NotIn", "values": [network]},
    ]
    spec = {
        "endpointSelector": {"matchLabels": {label: network}},
        "enableDefaultDeny": {"ingress": False},
        "ingressDeny": [{"fromEndpoints": [{"matchExpressions": outside}]}],
    }
    return _document(f"docker-isolation-{hashlib.sha256(network.encode()).hexdigest()[:16]}", spec)


def marked(labels: Iterable[str]) -> bool:
    """Tell whether an endpoint with these labels is a member of an isolated network."""
    return any(label.startswith(f"container:{NETWORK}=") for label in labels)


def _document(name: str, spec: dict[str, Any]) -> PolicyObject:
    return PolicyObject(apiVersion="cilium.io/v2", kind=_KIND, metadata={"name": name}, spec=spec)


def rules(
    where: str, items: Iterable[str], project: str, way: str, *, namespaced: bool = False
) -> list[dict[str, Any]]:
    """Return what shorthand's items come to; none at all allows nobody. Raises InvalidInput that begins with `where`.

    `way` is `from` or `to`; `namespaced`: for a policy that lives in the project's namespace, and not in all of them.
    """
    given = [item.strip() for item in items if item.strip()]
    return [_rule(where, item, project, way, namespaced=namespaced) for item in given] or [{}]


def _rule(where: str, item: str, project: str, way: str, *, namespaced: bool) -> dict[str, Any]:
    match = _ITEM.fullmatch(item)
    if match is None:
        match = _ITEM.fullmatch(f"[{item}]") if item.count(":") > 1 else None
    if match is None:
        raise InvalidInput(f"{where}: {item!r} is no PEER, PEER:PORT or PEER:PORT/PROTOCOL")
    peer, port, protocol = match["peer"], match["port"], (match["protocol"] or "").upper()
    if peer == "dns":
        ports = [{"port": port or "53", "protocol": name} for name in ("UDP", "TCP")]
        return {f"{way}Entities": ["all"], "toPorts": [{"ports": ports}]}
    rule = _peer(where, item, peer, project, way, namespaced=namespaced)
    if port is not None:
        if not 0 < int(port) <= 65535:
            raise InvalidInput(f"{where}: {item!r}: ports go from 1 to 65535")
        rule["toPorts"] = [{"ports": [{"port": port, "protocol": protocol or "TCP"}]}]
    return rule


def _peer(where: str, item: str, peer: str, project: str, way: str, *, namespaced: bool) -> dict[str, Any]:
    if peer in _ENTITIES:
        return {f"{way}Entities": [_ENTITIES[peer]]}
    if peer[0] == "[" or re.fullmatch(r"[0-9.]+(/\d+)?", peer):
        try:
            return {f"{way}CIDR": [str(Prefix(_with_length(peer.replace("[", "").replace("]", ""))))]}
        except InvalidInput as error:
            raise InvalidInput(f"{where}: {item!r}: {error.message}") from error
    owner, slash, service = peer.rpartition("/")
    owner = owner if slash else project
    if not _NAME.match(owner or "x") or not (_NAME.match(service) or (slash and service == "*")):
        raise InvalidInput(
            f"{where}: {item!r}: a peer is a service, PROJECT/SERVICE, PROJECT/*, a prefix, world, host, all or dns"
        )
    if not owner:
        raise InvalidInput(f"{where}: {item!r}: outside a compose project say PROJECT/SERVICE")
    if namespaced:
        return {f"{way}Endpoints": [{"matchLabels": service_labels(owner, service, project)}]}
    wanted = {f"container:{PROJECT}": owner}
    if service != "*":
        wanted[f"container:{SERVICE}"] = service
    return {f"{way}Endpoints": [{"matchLabels": wanted}]}


def service_labels(owner: str, service: str, home: str) -> dict[str, str]:
    """Return by what a policy in the namespace `home` selects a service of a project; `*` is all of them."""
    wanted = {} if owner == home and service != "*" else {_NAMESPACE: owner}
    return wanted if service == "*" else {**wanted, f"container:{SERVICE}": service}


def _with_length(text: str) -> str:
    return text if "/" in text else f"{text}/{128 if ':' in text else 32}"
