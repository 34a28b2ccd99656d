"""Two compose stacks on one host, kept apart: names, shorthand, published ports, recreation."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.docker.dockerd import COMPOSE, IMAGE
from tests.docker.host import Host

pytestmark = [pytest.mark.docker, pytest.mark.timeout(600)]

_STACK = f"""
version: "3.7"
x-server: &server
  image: {IMAGE}
  command: ["sh", "-c", "echo $$PLACE > /www/index.html; exec httpd -f -h /www"]
services:
  web:
    <<: *server
    environment: {{PLACE: web}}
    ports: ["PORT:80"]
  api:
    <<: *server
    environment: {{PLACE: api}}
  db:
    <<: *server
    environment: {{PLACE: db}}
    labels: {{fairlead.ingress.from: "api:80"}}
networks:
  default:
    driver: fairlead
    driver_opts: {{fairlead.isolation: "on"}}
    ipam: {{driver: fairlead}}
"""


def _compose(host: Host, folder: Path, project: str, *arguments: str) -> None:
    command = [COMPOSE, "-p", project, "-f", str(folder / f"{project}.yaml"), *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=200, env=host.engine.environment, cwd=folder
    )
    assert done.returncode == 0, done.stderr


def _reaches(host: Host, source: str, target: str) -> bool:
    """Tell whether a container gets another one's page by a name that Docker's resolver knows."""
    script = f"(echo 'GET / HTTP/1.0'; echo) | timeout 2 nc {target} 80"
    return host.inside(source, "sh", "-c", script).stdout.strip().endswith(target)


def test_stacks_are_apart_and_shorthand_rules_within(host: Host, tmp_path: Path) -> None:
    for project, port in (("shop", "8081"), ("blog", "8082")):
        (tmp_path / f"{project}.yaml").write_text(_STACK.replace("PORT", port))
        _compose(host, tmp_path, project, "up", "-d")
    try:
        host.ready(6)
        assert _reaches(host, "shop_api_1", "db")
        assert _reaches(host, "shop_web_1", "api")
        assert not _reaches(host, "shop_web_1", "db")
        database = host.address("shop_db_1", "shop_default")
        assert host.fetch("shop_api_1", database) == "db"
        assert [host.fetch(f"{name}_1", database) for name in ("shop_web", "blog_api")] == ["", ""]
        assert host.fetch("blog_web_1", host.address("shop_api_1", "shop_default")) == ""
        host.answers(8081, 8082)
        _compose(host, tmp_path, "shop", "up", "-d", "--force-recreate", "-t", "0")
        host.ready(6)
        assert _reaches(host, "shop_api_1", "db")
        assert not _reaches(host, "shop_web_1", "db")
        host.answers(8081)
    finally:
        for project in ("shop", "blog"):
            _compose(host, tmp_path, project, "down", "-t", "0")
