"""Options of the network plugin."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from clients.docker.state import Network
from fairlead.containers import ContainerSettings

_PATH = r"^/[^\x00-\x1f\x7f]+$"


class DockerSettings(ContainerSettings, frozen=True, kw_only=True):
    """What the plugin needs beside what every process of a node does."""

    docker_engine: Annotated[str, Meta(pattern=_PATH)] = "/var/run/docker.sock"
    docker_resync_s: Annotated[float, Meta(ge=1, le=3600)] = 30.0
    """How often all is compared with the engine, although its events tell every change."""
    docker_spares: Annotated[int, Meta(ge=0, le=64)] = 4
    """How many endpoints are made ahead, so that containers need not wait for theirs; each holds addresses of this node."""
    docker_orphan_s: Annotated[float, Meta(ge=1, le=86400)] = 60.0
    """How long something must be unknown to the engine before it is removed."""

    def isolates(self, network: Network) -> bool:
        """Tell whether no workload outside the network reaches its members."""
        return (network.isolation or self.docker_isolation) == "on"
