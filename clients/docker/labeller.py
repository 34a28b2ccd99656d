"""Gives an endpoint its container's labels, and publishes the policies that labels stand for before they count."""

from __future__ import annotations

import logging

from clients.docker.engine import Container
from clients.docker.node import NodeServices
from clients.docker.settings import DockerSettings
from clients.docker.state import Network, State
from fairlead import containers
from fairlead.bus import Bus
from fairlead.errors import FairleadError, Unavailable
from fairlead.schema.base import NodeName
from fairlead.schema.owned import OWNED_APPLY
from fairlead.schema.policy import ApplyPolicy, PolicyObject

_LOG = logging.getLogger("docker.labels")
_RESOLVED_S = 2.0
OWNER = NodeName("docker")
"""On whose behalf shorthand's policies are stored."""


class Labeller:
    """Labels endpoints."""

    def __init__(self, bus: Bus, node: NodeServices, state: State, settings: DockerSettings) -> None:
        self._bus, self._node, self._state, self._settings = bus, node, state, settings
        self._fresh: set[str] = set()
        """Policies that were stored since the last recheck."""
        self._known: set[str] = set()
        """Policies that were stored at all."""
        self.refused: dict[str, str] = {}
        """Why a container's endpoint stays held, by the container's name."""

    async def label(self, endpoint: str, container: Container) -> None:
        """Give the endpoint the container's labels. What fails is told in `refused`, and the endpoint stays held."""
        try:
            await self._label(endpoint, container)
        except FairleadError as error:
            if self.refused.get(container.name) != error.message:
                _LOG.warning("%s stays held: %s", container.name, error.message)
            self.refused[container.name] = error.message
            return
        self.refused.pop(container.name, None)

    async def _label(self, endpoint: str, container: Container) -> None:
        known = self._state.endpoints.get(endpoint)
        if known is None or known.doomed:
            return
        network = self._state.networks.get(known.network, Network(id=known.network))
        given = container.labels or {}
        image = container.image if self._settings.docker_image_label else ""
        isolated = self._settings.isolates(network)
        name = network.name if isolated else ""
        found = containers.identity_labels(given, self._settings.docker_labels, image=image, network=name)
        if policy := containers.shorthand_policy(given):
            await self._apply(policy)
        if isolated:
            await self.isolate(network.name)
        labelled = await self._state.change(endpoint, container=container.id, labels=found)
        if labelled is None or labelled.doomed:
            return
        try:
            await self._node.attach(labelled, network.mtu_bytes)
        except FairleadError:
            await self._state.change(endpoint, container="", labels=())
            raise

    async def isolate(self, network: str) -> None:
        """Publish the policy of an isolated network. Raises Unavailable."""
        await self._apply(containers.isolation_policy(network))

    async def _apply(self, policy: PolicyObject) -> None:
        """Store a policy, and return when it counts. One that we stored before need not be stored again while the bus is away."""
        name = policy.metadata["name"]
        if name in self._fresh:
            return
        ask = ApplyPolicy(document=policy, owner=OWNER, author=f"docker on {self._settings.node}", wait_s=_RESOLVED_S)
        try:
            await self._bus.request(OWNED_APPLY, ask, node=OWNER, timeout_s=_RESOLVED_S + 2)
        except Unavailable as error:
            if name in self._known:
                return
            raise Unavailable(f"its policy {name} cannot be stored: {error.message}") from error
        self._fresh.add(name)
        self._known.add(name)

    def recheck(self) -> None:
        """Store policies again when they are next needed: somebody may have removed them."""
        self._fresh.clear()
