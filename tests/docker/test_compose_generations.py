"""Both generations of compose as people type them: Fairlead comes up, stacks get their policies and go; each by the same files."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from clients.cli.__main__ import main
from fairlead.schema.datapath import EndpointStatus
from tests.docker import images, tools
from tests.docker.composed import Composed, composed
from tests.docker.machine import skip_unless_possible, until

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]
PORTS = {"shop": 8081, "desk": 8083}


@pytest.fixture(scope="module", params=[tools.V1, tools.V2])
def machine(request: pytest.FixtureRequest) -> Iterator[Composed]:
    skip_unless_possible(images.why_not())
    if why := tools.engine().generations()[request.param]:
        pytest.skip(f"FAIRLEAD IS NOT BROUGHT UP BY {request.param}: {why}")
    with composed(images.images(), generation=request.param) as made:
        yield made


@pytest.fixture(autouse=True)
def clean() -> None:
    """Nothing to be cleaned between these tests: one story on one machine."""


def fairlead(machine: Composed, monkeypatch: pytest.MonkeyPatch, stack: str, *words: str) -> int:
    """Run `fairlead compose` on an example, with this generation of compose."""
    for name, value in machine.engine.environment.items():
        monkeypatch.setenv(name, value)
    action, *rest = words
    files = ("-p", stack, "-f", str(images.EXAMPLES / f"{stack}.yaml"), "--compose", machine.engine.generation)
    return main(["--nats", machine.bus_url, "--domain", "hub", "compose", action, *files, *rest])


def members(machine: Composed, stack: str) -> dict[str, list[EndpointStatus]]:
    """Return the ready endpoints of a stack by service, as the labels of compose name both."""
    found: dict[str, list[EndpointStatus]] = {}
    for one in machine.endpoints():
        labels = dict(label.partition("=")[::2] for label in one.labels)
        if labels.get("container:com.docker.compose.project") == stack and one.state == "ready":
            found.setdefault(labels["container:com.docker.compose.service"], []).append(one)
    return found


def count(machine: Composed, stack: str) -> dict[str, int]:
    return {service: len(ones) for service, ones in members(machine, stack).items()}


ONE_EACH = {"web": 1, "api": 1, "redis": 1, "postgres": 1}


def test_files_are_checked_applied_and_brought_up(machine: Composed, monkeypatch: pytest.MonkeyPatch) -> None:
    for stack, port in PORTS.items():
        assert fairlead(machine, monkeypatch, stack, "check") == 0
        assert fairlead(machine, monkeypatch, stack, "apply", "--wait") == 0
        machine.example(stack, "up", "-d", "--no-build")
        until(lambda port=port: "stack" in machine.visit(port), 90, what=stack, tell=machine.tell)  # type: ignore[misc] # bound now
        assert count(machine, stack) == ONE_EACH
    families = {len(one.addresses) for ones in members(machine, "shop").values() for one in ones}
    assert families == {2}, "the file asks for both"
    assert machine.connects("desk/api", "postgres", 5432)
    assert not machine.connects("desk/api", "web", 80)
    database = machine.address(machine.engine.member("desk/postgres"), "desk_default")
    assert not machine.connects("shop/api", database, 5432)


def test_containers_that_are_made_anew_are_who_they_were(machine: Composed) -> None:
    before = {service: ones[0].identity for service, ones in members(machine, "shop").items()}
    machine.example("shop", "up", "-d", "--no-build", "--force-recreate", "-t", "0")
    until(lambda: count(machine, "shop") == ONE_EACH, 60, what="all of the shop", tell=machine.endpoints)
    assert {service: ones[0].identity for service, ones in members(machine, "shop").items()} == before
    until(lambda: "stack" in machine.visit(PORTS["shop"]), 60, what="the shop", tell=machine.tell)


def test_a_service_has_as_many_members_as_it_is_told(machine: Composed) -> None:
    machine.example("shop", "up", "-d", "--no-build", "--scale", "api=3")
    until(lambda: count(machine, "shop") == {**ONE_EACH, "api": 3}, 60, what="three", tell=machine.endpoints)
    assert len({one.identity for one in members(machine, "shop")["api"]}) == 1
    second = machine.engine.member("shop/api", 2)
    assert machine.engine.said("inspect", "-f", "{{.State.Running}}", second) == "true"
    machine.example("shop", "up", "-d", "--no-build", "--scale", "api=1")
    until(lambda: count(machine, "shop") == ONE_EACH, 60, what="one again", tell=machine.endpoints)
    assert "stack" in machine.visit(PORTS["shop"])


def test_down_ends_stacks_and_fairlead(machine: Composed, monkeypatch: pytest.MonkeyPatch) -> None:
    for stack in PORTS:
        machine.example(stack, "down", "-v", "-t", "0")
        assert fairlead(machine, monkeypatch, stack, "delete") == 0
    machine.settled_empty()
    networks = machine.engine.said("network", "ls", "--format", "{{.Name}}").split()
    assert not {f"{stack}_default" for stack in PORTS}.intersection(networks)
    machine.remove()
    assert machine.engine.said("ps", "-aq") == ""
    assert machine.pins() == []
