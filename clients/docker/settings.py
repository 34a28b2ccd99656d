"""Options of the network plugin."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from clients.docker.state import Network
from fairlead.config import CommonSettings
from fairlead.containers import CHOSEN

_PATH = r"^/[^\x00-\x1f\x7f]+$"


class DockerSettings(CommonSettings, frozen=True, kw_only=True):
    """What the plugin needs beside what every process of a node does."""

    docker_plugin: Annotated[str, Meta(pattern=r"^/[^\x00-\x1f\x7f]*/[a-z0-9][a-z0-9_-]*\.sock$")] = (
        "/run/docker/plugins/fairlead.sock"
    )
    """Where the engine finds the plugin; the file's name without `.sock` is the driver's name."""
    docker_engine: Annotated[str, Meta(pattern=_PATH)] = "/var/run/docker.sock"
    docker_labels: tuple[str, ...] = CHOSEN
    """Keys of container labels that count for identity; `prefix*` for all that begin so. The fewer, the fewer identities."""
    docker_image_label: bool = False
    """Whether the image's name (without tag) counts for identity."""
    docker_isolation: Annotated[str, Meta(pattern="^(on|off)$")] = "off"
    """Whether networks are isolated from one another that do not say it themselves with `fairlead.isolation`."""
    docker_resync_s: Annotated[float, Meta(ge=1, le=3600)] = 30.0
    """How often all is compared with the engine, although its events tell every change."""
    docker_orphan_s: Annotated[float, Meta(ge=1, le=86400)] = 60.0
    """How long something must be unknown to the engine before it is removed."""

    def isolates(self, network: Network) -> bool:
        """Tell whether no workload outside the network reaches its members."""
        return (network.isolation or self.docker_isolation) == "on"

    @property
    def driver(self) -> str:
        """Return the name under which the engine knows us."""
        return self.docker_plugin.rpartition("/")[2].removesuffix(".sock")
