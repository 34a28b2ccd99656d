"""deploy/fairlead-docker.service under a real systemd as first process: boot, order, deaths, an end that is clean."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.docker import images
from tests.docker.booted import UNIT, Booted
from tests.docker.dockerd import IMAGE
from tests.docker.host import Host
from tests.docker.machine import NETWORK_OPTIONS, skip_unless_possible, until

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def machine() -> Iterator[Booted]:
    skip_unless_possible(images.why_not())
    file = images.with_systemd()
    with ExitStack() as stack:
        host = Host(stack)
        host.start_services()
        host.engine.start()
        made = Booted(stack, host, file)
        made.said("systemctl", "enable", "--now", UNIT)
        made.said("docker", "network", "create", *NETWORK_OPTIONS, "fl")
        yield made


@pytest.fixture(autouse=True)
def clean() -> None:
    """Nothing to be cleaned between these tests: one story on one machine."""


def pinged(machine: Booted, source: str, target: str) -> bool:
    return machine.run("docker", "exec", source, "ping", "-c1", "-W1", target).returncode == 0


def test_the_unit_has_what_its_file_gives_it_and_no_more(machine: Booted) -> None:
    assert machine.show(UNIT, "ActiveState") == "active"
    status = machine.said("cat", f"/proc/{machine.show(UNIT, 'MainPID')}/status")
    lines = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    bits = {10, 12, 13}  # CAP_NET_BIND_SERVICE, CAP_NET_ADMIN, CAP_NET_RAW
    assert (int(lines["CapBnd"], 16), lines["NoNewPrivs"]) == (sum(1 << bit for bit in bits), "1")


def test_the_engine_finds_the_plugin_and_containers_have_its_network(machine: Booted) -> None:
    for name in ("one", "two"):
        command = ("docker", "run", "-d", "--restart", "always", "--name", name, "--network", "fl", IMAGE)
        machine.said(*command, "sleep", "9999")
    assert "default via 169.254.1.1" in machine.said("docker", "exec", "one", "ip", "route")
    until(lambda: pinged(machine, "one", "two"), what="one to reach two", tell=machine.tell)


def test_it_is_started_again_when_it_dies_and_nothing_else_notices(machine: Booted) -> None:
    before, engine = machine.show(UNIT, "MainPID"), machine.show("docker", "MainPID")
    machine.said("systemctl", "kill", "-s", "KILL", UNIT)
    until(lambda: machine.show(UNIT, "NRestarts") == "1", what="another start", tell=machine.tell)
    until(lambda: machine.show(UNIT, "SubState") == "running", what="the plugin", tell=machine.tell)
    assert machine.show(UNIT, "MainPID") not in ("0", before)
    assert machine.show("docker", "MainPID") == engine
    assert pinged(machine, "one", "two")
    machine.said("docker", "run", "--rm", "--network", "fl", IMAGE, "true")


def test_it_ends_cleanly_and_the_engine_goes_on(machine: Booted) -> None:
    machine.said("systemctl", "stop", UNIT)
    assert [machine.show(UNIT, name) for name in ("ActiveState", "Result", "ExecMainStatus")] == [
        "inactive",
        "success",
        "0",
    ]
    assert machine.show("docker", "ActiveState") == "active"
    assert pinged(machine, "one", "two")
    machine.said("systemctl", "start", UNIT)
    machine.said("docker", "run", "--rm", "--network", "fl", IMAGE, "true")


def test_at_a_boot_it_comes_before_the_engine_and_goes_after_it(machine: Booted) -> None:
    machine.shut_down()
    machine.boot()
    assert "docker.service" in machine.show(UNIT, "Before").split()
    began, engine = (int(machine.show(unit, "ExecMainStartTimestampMonotonic")) for unit in (UNIT, "docker"))
    assert 0 < began < engine
    assert machine.show("docker", "NRestarts") == "0"
    running = machine.said("docker", "ps", "--format", "{{.Names}}").split()
    assert sorted(running) == ["one", "two"]
    until(lambda: pinged(machine, "one", "two"), what="one to reach two after the boot", tell=machine.tell)
