"""Two compose stacks on one host, kept apart: names, shorthand, published ports, recreation."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docker import tools
from tests.docker.dockerd import IMAGE
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


@pytest.fixture(params=[tools.V1, tools.V2])
def generation(request: pytest.FixtureRequest, host: Host) -> Iterator[str]:
    """Have the engine's stacks made by one generation of compose."""
    if why := host.engine.programs.generations()[request.param]:
        pytest.skip(f"STACKS ARE NOT MADE BY {request.param}: {why}")
    before, host.engine.generation = host.engine.generation, request.param
    yield request.param
    host.engine.generation = before


def _compose(host: Host, folder: Path, project: str, *arguments: str) -> None:
    host.engine.compose(folder, "-p", project, "-f", f"{project}.yaml", *arguments)


def _reaches(host: Host, source: str, target: str) -> bool:
    """Tell whether a container gets another one's page by a name that Docker's resolver knows."""
    script = f"(echo 'GET / HTTP/1.0'; echo) | timeout 2 nc {target} 80"
    return host.inside(host.engine.member(source), "sh", "-c", script).stdout.strip().endswith(target)


def _fetch(host: Host, source: str, target: str) -> str:
    """The same by the target's address, from any stack; return what comes."""
    address = host.address(host.engine.member(target), f"{target.partition('/')[0]}_default")
    return host.fetch(host.engine.member(source), address)


def test_a_stack_goes_from_one_generation_to_the_other(host: Host, tmp_path: Path) -> None:
    (tmp_path / "shop.yaml").write_text(_STACK.replace("PORT", "8081"))
    reasons = host.engine.programs.generations()
    if why := "".join(reasons.values()):
        pytest.skip(f"STACKS STAY WITH ONE GENERATION OF COMPOSE: {why}")
    before = host.engine.generation
    try:
        for host.engine.generation in (tools.V1, tools.V2):
            _compose(host, tmp_path, "shop", "up", "-d", "-t", "0")
            host.ready(3)
            assert _reaches(host, "shop/api", "db")
            assert not _reaches(host, "shop/web", "db")
            host.answers(8081)
    finally:
        _compose(host, tmp_path, "shop", "down", "-t", "0")
        host.engine.generation = before


@pytest.mark.usefixtures("generation")
def test_stacks_are_apart_and_shorthand_rules_within(host: Host, tmp_path: Path) -> None:
    for project, port in (("shop", "8081"), ("blog", "8082")):
        (tmp_path / f"{project}.yaml").write_text(_STACK.replace("PORT", port))
        _compose(host, tmp_path, project, "up", "-d")
    try:
        host.ready(6)
        assert _reaches(host, "shop/api", "db")
        assert _reaches(host, "shop/web", "api")
        assert not _reaches(host, "shop/web", "db")
        assert [_fetch(host, one, "shop/db") for one in ("shop/api", "shop/web", "blog/api")] == ["db", "", ""]
        assert _fetch(host, "blog/web", "shop/api") == ""
        host.answers(8081, 8082)
        _compose(host, tmp_path, "shop", "up", "-d", "--force-recreate", "-t", "0")
        host.ready(6)
        assert _reaches(host, "shop/api", "db")
        assert not _reaches(host, "shop/web", "db")
        host.answers(8081)
    finally:
        for project in ("shop", "blog"):
            _compose(host, tmp_path, project, "down", "-t", "0")
