"""Rules of published ports as text, and the options of networks: pure."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from clients.docker.networks import network_of, options_of
from clients.docker.protocol import CreateNetwork, Pool
from clients.docker.ruleset import ruleset
from clients.docker.settings import DockerSettings
from clients.docker.state import Endpoint, Network, Port
from fairlead.address import Address
from fairlead.errors import InvalidInput

BOTH = (Address("10.7.0.2"), Address("fd07::2"))


def _endpoint(*ports: Port, name: str = "e1") -> Endpoint:
    return Endpoint(id=name, network="n", addresses=BOTH, created=datetime(2026, 1, 1, tzinfo=UTC), ports=ports)


def _rules(*ports: Port) -> list[str]:
    return [line.strip() for line in ruleset([_endpoint(*ports)]).splitlines() if "dport" in line]


def test_a_port_leads_to_the_container_in_both_families_and_from_the_container_itself_to_the_relay() -> None:
    assert _rules(Port(protocol="tcp", host_port=8080, port=80)) == [
        'iifname "fairlead_host" ip saddr 10.7.0.2 fib daddr type local tcp dport 8080 accept',
        "meta nfproto ipv4 fib daddr type local tcp dport 8080 dnat ip to 10.7.0.2:80",
        'iifname "fairlead_host" ip6 saddr fd07::2 fib daddr type local tcp dport 8080 accept',
        "meta nfproto ipv6 fib daddr type local tcp dport 8080 dnat ip6 to [fd07::2]:80",
    ]


@pytest.mark.parametrize(("host", "rules"), [("192.0.2.1", 1), ("2001:db8::1", 1), ("0.0.0.0", 2), ("::", 2)])
def test_an_address_of_the_host_limits_the_rule(host: str, rules: int) -> None:
    found = _rules(Port(protocol="udp", host_port=53, port=53, host_address=host))
    assert len(found) == rules
    assert all((f"daddr {host} udp dport 53" in rule) == (rules == 1) for rule in found)


def test_a_table_is_replaced_whole_and_the_same_text_for_the_same_ports() -> None:
    first, second = _endpoint(Port(protocol="tcp", host_port=1, port=1)), _endpoint(name="e2")
    assert ruleset([first, second]) == ruleset([second, first])
    assert ruleset([]).splitlines()[:2] == ["table inet fairlead_docker", "delete table inet fairlead_docker"]


def _ask(generic: Any, **more: Any) -> CreateNetwork:
    pools = [Pool(pool="10.7.0.0/24", gateway="169.254.1.1/32")]
    return CreateNetwork(network="n", options={"com.docker.network.generic": generic, **more}, ipv4=pools)


def test_options_of_a_network() -> None:
    assert network_of(_ask(None)) == Network(id="n")
    assert network_of(_ask({"fairlead.mtu": "1400", "fairlead.isolation": "ON"})) == Network(
        id="n", mtu_bytes=1400, isolation="on"
    )
    assert network_of(_ask({"com.docker.network.driver.mtu": "1300"})).mtu_bytes == 1300


@pytest.mark.parametrize(
    ("generic", "named"),
    [
        ({"fairlead.mtu": "67"}, "`fairlead.mtu`"),
        ({"fairlead.mtu": "-1"}, "`fairlead.mtu`"),
        ({"fairlead.isolation": ""}, "`fairlead.isolation`"),
        ({"fairlead.mtu": 7}, "`-o`"),
        ([], "`-o`"),
        ({"x": "y"}, "'x' is unknown"),
    ],
)
def test_a_wrong_option_is_named(generic: Any, named: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        network_of(_ask(generic or {"x": "y"} if generic != [] else ["x"]))
    assert named in caught.value.message


@pytest.mark.parametrize(
    ("option", "host", "isolated"), [("", "off", False), ("", "on", True), ("off", "on", False), ("on", "off", True)]
)
def test_a_network_says_whether_it_is_isolated_else_the_host_does(option: str, host: str, isolated: bool) -> None:
    settings = DockerSettings(node="n1", docker_isolation=host)
    assert settings.isolates(Network(id="n", isolation=option)) is isolated


def test_addresses_of_another_driver_are_refused() -> None:
    pools = [Pool(pool="172.18.0.0/16", gateway="172.18.0.1/16")]
    with pytest.raises(InvalidInput, match="`--ipam-driver`"):
        network_of(CreateNetwork(network="n", ipv4=pools))


def test_what_the_engine_shows_of_a_network_is_taken_over_as_far_as_it_makes_sense() -> None:
    known = Network(id="n", mtu_bytes=9)
    assert options_of({"fairlead.isolation": "on"}, known, "net") == Network(id="n", name="net", isolation="on")
    assert options_of({"fairlead.isolation": "0"}, known, "net").isolation == "off"
    assert options_of({}, Network(id="n", isolation="on"), "net").isolation == ""
    assert options_of(None, Network(id="n", isolation="on"), "net").isolation == "on"
    assert options_of({"fairlead.mtu": "big"}, known, "net") == Network(id="n", name="net", mtu_bytes=9)
