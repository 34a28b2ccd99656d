"""Which compose and which engine tests use: those of this machine, and others from a distribution's packages in the cache, installed nowhere.

`python -m tests.docker.tools` fetches compose v2 once, as scripts/setup.sh does; `FAIRLEAD_ENGINE=26.1` has tests use another engine.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

from tests.support.archive import CACHE, Apt, Archive, Unobtainable, origins, unpack

V1, V2 = "docker-compose", "docker compose"
"""Both generations of compose, as people type them."""
COMPOSE = Path("/usr/bin/docker-compose")
_WITHOUT_V1 = 25
"""The engine that no longer tells what docker-compose 1.29 asks of an image (`ContainerConfig`)."""
_PLUGINS = tuple(
    Path(base) / "docker/cli-plugins/docker-compose"
    for base in ("/usr/libexec", "/usr/lib", "/usr/local/libexec", "/usr/local/lib")
)
_CHOICE = "FAIRLEAD_ENGINE"
_BY_HAND = "lay {}'s *.deb into {}"


@dataclass(frozen=True)
class Engine:
    """Where an engine's programs are."""

    docker: Path = Path("/usr/bin/docker")
    dockerd: Path = Path("/usr/sbin/dockerd")
    containerd: Path = Path("/usr/bin/containerd")
    path: str = os.environ.get("PATH", "")
    """Where the engine looks for its helpers; runc is always this machine's, since a later one needs a later C library."""

    def missing(self) -> list[str]:
        """Return what is not there."""
        return [str(one) for one in (self.docker, self.dockerd, self.containerd) if not one.exists()]

    @cached_property
    def release(self) -> int:
        """Return the engine's major version."""
        said = subprocess.run([self.dockerd, "--version"], capture_output=True, text=True, check=True).stdout
        found = re.search(r"version (\d+)\.", said)
        assert found, said
        return int(found[1])

    def generations(self) -> dict[str, str]:
        """Return why a generation of compose is not used with the engine here, nothing if it is; the newest comes first."""
        why = {V2: "", V1: ""}
        try:
            compose_v2()
        except Unobtainable as error:
            why[V2] = str(error)
        if self.release >= _WITHOUT_V1:
            why[V1] = f"docker-compose 1.29 cannot recreate containers of Docker Engine {_WITHOUT_V1} and later"
        elif not COMPOSE.exists():
            why[V1] = f"{COMPOSE} is missing: run scripts/setup.sh"
        return why

    def generation(self) -> str:
        """Return what tests use where any compose will do; nothing if there is none."""
        return next((one for one, why in self.generations().items() if not why), "")


def command(generation: str) -> list[str]:
    """Return how a generation of compose is run where no engine is asked. Raises Unobtainable."""
    if generation == V1 and not COMPOSE.exists():
        raise Unobtainable(f"{COMPOSE} is missing: run scripts/setup.sh")
    return [str(COMPOSE if generation == V1 else compose_v2())]


def _archives(folder: Path) -> dict[str, tuple[Archive, str]]:
    """Return where each vendor has compose v2, and in which package: Debian since its 13th release."""
    return {
        "debian": (Archive("debian", ("trixie",), _BY_HAND.format("docker-compose of Debian 13", folder)), V1),
        "ubuntu": (
            Archive(
                "ubuntu",
                ("noble", "noble-updates"),
                _BY_HAND.format("docker-compose-v2 of Ubuntu", folder),
                "universe",
            ),
            "docker-compose-v2",
        ),
    }


def compose_v2(*, fetch: bool = False) -> Path:
    """Return the plugin that is `docker compose`: this machine's, else the cache's. Raises Unobtainable."""
    if found := next((one for one in _PLUGINS if one.exists()), None):
        return found
    folder = CACHE / "compose-v2"
    if not list(folder.glob("*.deb")):
        if not fetch:
            raise Unobtainable(
                "compose v2 is missing: run `python -m tests.docker.tools`, which says what is in the way"
            )
        _fetch_compose(folder)
    return next(unpack(folder)[0].glob("usr/lib*/docker/cli-plugins/docker-compose"))


def _fetch_compose(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    archives = _archives(folder)
    vendors = {origin.lower() for origin, _ in origins()}
    archive, package = next((found for vendor, found in archives.items() if vendor in vendors), archives["debian"])
    Apt(archive, folder).download([package])


def member(generation: str, service: str, number: int = 1) -> str:
    """Return what a generation of compose calls a container of `PROJECT/SERVICE`."""
    return ("_" if generation == V1 else "-").join([*service.split("/"), str(number)])


@cache
def engine() -> Engine:
    """Return the engine that is asked for, this machine's unless another is. Raises Unobtainable."""
    name = os.environ.get(_CHOICE, "")
    if not name:
        return Engine()
    folder = CACHE / f"engine-{name}"
    if name not in _ENGINES:
        raise Unobtainable(f"{_CHOICE}={name}: there are {', '.join(sorted(_ENGINES))}")
    if not list(folder.glob("*.deb")):
        folder.mkdir(parents=True, exist_ok=True)
        archive = Archive("debian", (_ENGINES[name],), _BY_HAND.format(" and ".join(_PACKAGES), folder))
        Apt(archive, folder).download(list(_PACKAGES))
    tree = unpack(folder)[0]
    path = f"{tree}/usr/sbin:{tree}/usr/bin:{os.environ.get('PATH', '')}"
    return Engine(tree / "usr/bin/docker", tree / "usr/sbin/dockerd", tree / "usr/bin/containerd", path)


_ENGINES = {"26.1": "trixie"}
_PACKAGES = ("docker.io", "docker-cli", "containerd")

if __name__ == "__main__":
    try:
        print(f"compose v2: {compose_v2(fetch=True)}")
    except Unobtainable as error:
        sys.exit(f"compose v2 cannot be had, and no test will use it: {error}")
