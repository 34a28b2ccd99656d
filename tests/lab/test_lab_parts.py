"""The lab's own parts that need no root: what it describes, reads and prints."""

from __future__ import annotations

import ipaddress
import os
from itertools import combinations
from pathlib import Path

import pytest

from services.bgp.engine.bird_replies import ReplyReader
from tests.lab import __main__ as lab_main
from tests.lab import cleanup, processes, routers
from tests.lab.network import LabError
from tests.lab.programs import Programs
from tests.lab.report import Report
from tests.lab.steps.s06_recipes import key_bytes
from tests.lab.steps.s07_trace import connected
from tests.lab.topology import Topology, describe

TOPOLOGY = describe("flt")


def networks(topology: Topology) -> list[list[str]]:
    """Return the addresses on each link or segment, by network."""
    found: dict[object, list[str]] = {}
    for space in topology.namespaces:
        for port in space.ports:
            for address in port.addresses:
                found.setdefault(ipaddress.ip_interface(address).network, []).append(address)
    return list(found.values())


def test_no_address_is_given_twice_and_no_networks_overlap() -> None:
    addresses = [address for group in networks(TOPOLOGY) for address in group]
    assert len(addresses) == len(set(addresses))
    nets = {ipaddress.ip_interface(address).network for address in addresses}
    assert not [
        pair for pair in combinations(nets, 2) if pair[0].version == pair[1].version and pair[0].overlaps(pair[1])
    ]


def test_every_cable_ends_in_a_port_that_is_described_once() -> None:
    ports = [(space.name, port.name) for space in TOPOLOGY.namespaces for port in space.ports]
    ends = [end for cable in TOPOLOGY.cables for end in (cable.a, cable.b)]
    assert sorted(ports) == sorted(ends)
    assert max(len(name) for _, name in ports) <= 15  # IFNAMSIZ


def test_every_gateway_is_on_a_link_of_its_machine() -> None:
    for space in TOPOLOGY.namespaces:
        links = [ipaddress.ip_interface(address).network for port in space.ports for address in port.addresses]
        for route in space.routes:
            for gateway in route.gateways:
                assert any(ipaddress.ip_address(gateway) in link for link in links), (space.name, gateway)


def test_both_ends_of_every_session_name_each_other() -> None:
    said = {(node.name, peer.name) for node in TOPOLOGY.nodes for peer in node.peers}
    heard = {(peer.name, router.name) for router in TOPOLOGY.routers for peer in router.nodes}
    assert said == heard
    assert len(said) == 6


def test_a_router_accepts_only_what_a_node_may_claim() -> None:
    text = routers.render(TOPOLOGY.routers[0])
    assert "10.42.0.0/16{24,25}" in text
    assert "fd42::/48{56,80}" in text
    assert "export none" in text
    assert text.count("protocol bgp n") == 3


def test_paths_are_read_with_the_sessions_they_came_by() -> None:
    data = (
        b"1007-Table master4:\n"
        b" 10.42.1.0/24         unicast [n1 12:00:00.000] * (100) [AS65001i]\n"
        b" \tvia 10.0.1.6 on n1\n"
        b"                      unicast [tor2 12:00:00.000] (100) [AS65001i]\n"
        b" \tvia 10.0.0.2 on peer\n"
        b" 10.42.2.0/24         unicast [n2 2026-11-20] * (100) [AS65002i]\n"
        b" \tvia 10.0.1.10 on n2\n"
        b"0000 \n"
    )
    (reply,) = ReplyReader().feed(data)
    assert routers.parse_paths(reply) == {"10.42.1.0/24": ("n1", "tor2"), "10.42.2.0/24": ("n2",)}


def test_every_process_has_a_name_of_its_own(tmp_path: Path) -> None:
    names = [spec.name for spec in Programs(TOPOLOGY, tmp_path).all()]
    assert len(names) == len(set(names)) == 22
    assert {name.split("/")[1] for name in names if name.startswith("n2/")} == {
        "nats",
        "bird",
        "ipam",
        "datapath",
        "bgp",
    }


def test_the_keys_of_the_recipe_are_in_the_documented_layout() -> None:
    assert key_bytes(0x01020304, 6379, 6, 0) == "04 03 02 01 18 eb 06 00"


def test_a_tree_of_spans_has_one_root() -> None:
    root = {"span_id": "a", "parent_id": ""}
    child = {"span_id": "b", "parent_id": "a"}
    stray = {"span_id": "c", "parent_id": "x"}
    assert connected([child, root])
    assert not connected([root, child, stray])
    assert not connected([])


def test_one_line_that_is_not_as_expected_fails_the_report(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report()
    report.step("1", "first")
    assert report.check("this", "this", ok=True)
    assert report.ok
    assert not report.check("that", "something else " * 12, ok=False)
    assert not report.ok
    assert "FAIL expected that" in capsys.readouterr().out
    assert max(map(len, report.table().splitlines())) <= 140


def test_the_steps_are_there_in_order() -> None:
    assert [number for number, _ in lab_main.chapters()] == [str(number) for number in range(1, 13)]


def test_a_second_lab_is_refused_and_told_which_process_runs_the_first() -> None:
    with (
        cleanup.only_one("fltest"),
        pytest.raises(LabError, match=r"a lab is running \(process \d+\)"),
        cleanup.only_one("fltest"),
    ):
        pass
    with cleanup.only_one("fltest"):
        pass


def test_a_recycled_process_number_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "pids").mkdir()
    (tmp_path / "pids" / "n1-ipam").write_text(f"{os.getpid()} 1\n")
    assert processes.end_marked(tmp_path) == 0
    assert processes.start_time(os.getpid()) not in ("", "1")
