"""Containers on a Fairlead network: addresses, names, policy, published ports, labels."""

from __future__ import annotations

import pytest

from fairlead.schema.datapath import EndpointState
from tests.docker.dockerd import IMAGE
from tests.docker.host import NETWORK_OPTIONS, Host, until
from tests.docker.machine import ONLY_CLIENTS

pytestmark = [pytest.mark.docker, pytest.mark.timeout(300)]

_AND_THE_WORLD = ONLY_CLIENTS + "  - fromCIDR: [192.0.2.2/32]\n"


def test_containers_have_addresses_routes_and_each_others_names(host: Host) -> None:
    address = host.serve("web")
    host.container("client")
    host.ready(2)
    assert host.fetch("client", address) == "web"
    for family in ("-4", "-6"):
        assert host.inside("client", "ping", family, "-c1", "-W1", "web").returncode == 0
    shown = host.inside("client", "ip", "addr").stdout
    assert "eth0" in shown
    assert "eth1" not in shown, "docker_gwbridge would be a way around every policy"
    assert "default via 169.254.1.1" in host.inside("client", "ip", "route").stdout
    assert "default via fe80::1" in host.inside("client", "ip", "-6", "route").stdout
    seen = host.engine.said("inspect", "-f", "{{.NetworkSettings.Networks.fl.MacAddress}}", "web")
    assert seen in {one.mac for one in host.endpoints()}


def test_policy_decides_between_containers_and_at_published_ports(host: Host) -> None:
    address = host.serve("web", "--label", "app=web", "-p", "8080:80")
    host.container("client", "--label", "app=client")
    host.container("other", "--label", "app=other")
    host.ready(3)
    assert [host.fetch(name, address) for name in ("client", "other")] == ["web", "web"]
    host.answers(8080)
    assert host.fetch_from("n", "127.0.0.1", 8080) == "web"
    host.apply(ONLY_CLIENTS)
    assert [host.fetch(name, address) for name in ("client", "other")] == ["web", ""]
    # the published port is no way around it, and neither is it for a container that goes by the host's address
    assert [host.fetch_from("w", "192.0.2.1", 8080), host.fetch("other", "192.0.2.1", 8080)] == ["", ""]
    assert host.fetch("client", "192.0.2.1", 8080) == "web"
    # the client's own address counts, as only its prefix is let in
    host.apply(_AND_THE_WORLD)
    host.answers(8080)


def test_a_port_is_published_once_and_given_back(host: Host) -> None:
    host.serve("one", "-p", "8080:80")
    again = host.engine.run(
        "run", "-d", "--name", "two", "--network", "fl", "-p", "8080:80", IMAGE, "true", check=False
    )
    assert "`-p`: *:8080/tcp cannot be published" in again.stderr
    random = host.engine.run("run", "-d", "--name", "three", "--network", "fl", "-p", "80", IMAGE, "true", check=False)
    assert "`-p`: say which port of the host" in random.stderr
    host.engine.run("rm", "-f", "one", "two", "three")
    host.serve("four", "-p", "8080:80")
    assert host.fetch_from("w", "192.0.2.1", 8080) == "four"


def test_shorthand_becomes_policy_before_the_first_packet(host: Host) -> None:
    project = ("--label", "com.docker.compose.project=shop", "--label")
    address = host.serve("db", *project, "com.docker.compose.service=db", "--label", "fairlead.ingress.from=api:80")
    host.container("api", *project, "com.docker.compose.service=api")
    host.container("web", *project, "com.docker.compose.service=web")
    host.ready(3)
    assert [host.fetch(name, address) for name in ("api", "web")] == ["db", ""]
    closed = host.container("closed", "--label", "fairlead.egress.allow=web:0", command=("sleep", "99"))
    held = until(
        lambda: [one for one in host.endpoints() if closed in one.addresses], what="the endpoint of wrong shorthand"
    )
    assert held[0].state is EndpointState.WAITING_FOR_LABELS
    until(
        lambda: any("`fairlead.egress.allow`" in str(one) for one in host.plugin.health().get("conditions", ())),  # type: ignore[attr-defined] # JSON
        what="the plugin to say so",
    )


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (("-d", "fairlead"), "`--ipam-driver`"),
        ((*NETWORK_OPTIONS, "--subnet", "10.99.0.0/24"), "`--subnet`"),
        ((*NETWORK_OPTIONS, "--internal"), "`--internal`"),
        ((*NETWORK_OPTIONS, "-o", "fairlead.mtu=big"), "`fairlead.mtu`"),
        ((*NETWORK_OPTIONS, "-o", "fairlead.isolation=perhaps"), "`fairlead.isolation`"),
        ((*NETWORK_OPTIONS, "-o", "colour=blue"), "'colour' is unknown"),
    ],
)
def test_a_wrong_option_is_named(host: Host, options: tuple[str, ...], error: str) -> None:
    refused = host.engine.run("network", "create", *options, "wrong", check=False)
    assert error in refused.stderr
    assert "wrong" not in host.engine.said("network", "ls")


def test_an_isolated_network_keeps_others_out(host: Host) -> None:
    host.engine.run(
        "network", "create", *NETWORK_OPTIONS, "-o", "fairlead.isolation=on", "-o", "fairlead.mtu=1400", "apart"
    )
    try:
        address = host.serve("inner", network="apart")
        host.container("friend", network="apart")
        host.container("stranger")
        host.ready(3)
        assert [host.fetch(name, address) for name in ("friend", "stranger")] == ["inner", ""]
        assert "mtu 1400" in host.inside("inner", "ip", "link").stdout
    finally:
        host.engine.run("rm", "-f", "inner", "friend")
        host.engine.run("network", "rm", "apart")


def test_one_switch_isolates_every_network_of_the_host_that_does_not_say_it_itself(host: Host) -> None:
    host.engine.run("network", "create", *NETWORK_OPTIONS, "apart")
    host.engine.run("network", "create", *NETWORK_OPTIONS, "-o", "fairlead.isolation=off", "open")
    try:
        inner, outer = host.serve("inner", network="apart"), host.serve("outer", network="open")
        host.container("friend", network="apart")
        host.ready(3)
        assert [host.fetch(name, inner) for name in ("friend", "outer")] == ["inner", "inner"]
        host.plugin.again(DOCKER_ISOLATION="on")
        until(lambda: host.fetch("outer", inner) == "", what="members to be labelled anew", tell=host.endpoints)
        until(lambda: host.fetch("friend", inner) == "inner", what="the other member", tell=host.endpoints)
        assert host.fetch("inner", outer) == "outer"
        host.plugin.again(DOCKER_ISOLATION="off")
        until(lambda: host.fetch("outer", inner) == "inner", what="the way back", tell=host.endpoints)
    finally:
        host.plugin.again(DOCKER_ISOLATION="off")
        host.engine.run("rm", "-f", "inner", "outer", "friend")
        host.engine.run("network", "rm", "apart", "open")
