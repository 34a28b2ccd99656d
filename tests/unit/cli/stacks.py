"""Compose files for tests, in a folder called `shop` that is the working folder."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from tests.docker import tools
from tests.support.archive import Unobtainable

TOOLS = ("none", tools.V1, tools.V2)
"""What may resolve compose files; all must see the same stack."""
SHOP = """
x-fairlead:
  policies:
    - name: db
      spec:
        endpointSelector: {service: db}
        ingress:
          - fromEndpoints: [{service: api}]
            toPorts: [{ports: [{port: "5432", protocol: TCP}]}]
  tests:
    allow:
      - api -> db:5432
      - world -> web:80
      - web -> api:8080
    deny:
      - web -> db:5432
      - blog/web -> db:5432
      - web -> 192.0.2.7:443
      - world -> web:81
services:
  web: {image: web, x-fairlead: {ingress: ["world:80"], egress: ["api:8080", dns]}}
  api: {image: api}
  db: {image: db}
networks:
  default: {driver: fairlead, ipam: {driver: fairlead}}
"""


def tool_or_skip(name: str) -> str:
    """Return what `--compose` is given for one of TOOLS."""
    try:
        return name if name == "none" else tools.command(name)[0]
    except Unobtainable as error:
        pytest.skip(f"COMPOSE ITSELF IS NOT ASKED: {error}")


class Folder:
    """Where the files are. Compose itself is not asked, unless a test says so."""

    def __init__(self, parent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path = parent / "shop"
        self.path.mkdir()
        monkeypatch.chdir(self.path)
        for name in ("COMPOSE_FILE", "COMPOSE_PROJECT_NAME", "FAIRLEAD_DOCKER_ISOLATION", "FAIRLEAD_DOCKER_LABELS"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("FAIRLEAD_COMPOSE", "none")

    def write(self, text: str, name: str = "compose.yaml") -> None:
        (self.path / name).write_text(textwrap.dedent(text))
