"""What the node wants of masquerade: the options, the fleet's prefixes, and what is wrong with them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from fairlead.address import Address, Family, Prefix
from fairlead.errors import InvalidInput
from fairlead.schema.base import NodeName
from services.datapath import host, verify
from services.datapath.answers import nat_list
from services.datapath.kernel.fake import FakeKernel
from services.datapath.masquerade import MasqueradeOperations, MasqueradeWish, masquerade_of, trouble
from services.datapath.outside import Masquerade, MasqueradedFlow
from services.datapath.worker import KernelThread

BOTH = Masquerade(frozenset({Family.IPV4, Family.IPV6}), addresses=(Address("192.0.2.1"),))


@dataclass(frozen=True)
class Asked:
    masquerade: str = "both"
    masquerade_exclusions: tuple[Prefix, ...] = ()
    masquerade_ports: str = "61000-65535"


def test_options_become_a_wish() -> None:
    asked = Asked("ipv6", (Prefix("10.0.0.0/8"),), "50000-50009")
    own = (Address("192.0.2.1"),)
    expected = Masquerade(frozenset({Family.IPV6}), 50000, 50009, frozenset({Prefix("10.0.0.0/8")}), own)
    assert masquerade_of(asked, own) == expected
    assert masquerade_of(Asked("none"), ()).families == frozenset()


@pytest.mark.parametrize("ports", ["1023-2000", "61000-65536", "61001-61000"])
def test_ports_that_make_no_range_are_named(ports: str) -> None:
    with pytest.raises(InvalidInput, match=f"`masquerade_ports`: {ports} is no range"):
        masquerade_of(Asked(masquerade_ports=ports), ())


def test_ports_of_the_nodes_own_sockets_are_named() -> None:
    assert trouble(BOTH, (32768, 60999)) == ""
    assert trouble(BOTH, None) == ""
    assert trouble(Masquerade(), (1024, 65535)) == ""
    assert "ip_local_port_range 1024-65535 overlap" in trouble(BOTH, (1024, 65535))
    assert "overlap" in trouble(BOTH, (65535, 65535))
    assert "overlap" in trouble(replace(BOTH, first_port=50000, last_port=50009), (32768, 60999))


def test_local_ports_are_read(tmp_path: Path) -> None:
    path = tmp_path / "range"
    assert host.local_ports(path) is None
    path.write_text("32768\t60999\n")
    assert host.local_ports(path) == (32768, 60999)


def test_fleet_is_excluded_and_nothing_is_told_before_it_is_known() -> None:
    wish = MasqueradeWish(replace(BOTH, exclusions=frozenset({Prefix("10.0.0.0/8")})))
    wish.hear("n2", (Prefix("100.64.2.0/24"), Prefix("fd02::/64")))
    assert wish.table.desired() == {}
    wish.tell()
    assert wish.table.desired()["own"].exclusions == {
        *(Prefix("10.0.0.0/8"), Prefix("100.64.2.0/24"), Prefix("fd02::/64"))
    }
    wish.hear("n3", (Prefix("100.64.3.0/24"),))
    wish.hear("n2", ())
    assert wish.table.desired()["own"].exclusions == {Prefix("10.0.0.0/8"), Prefix("100.64.3.0/24")}


def test_off_needs_to_know_nothing() -> None:
    assert MasqueradeWish(Masquerade()).table.desired() == {"own": Masquerade()}


def test_family_without_an_address_is_told() -> None:
    kernel, thread = FakeKernel(), KernelThread()
    operations = MasqueradeOperations(kernel, thread)
    told = asyncio.run(operations.update({"own": BOTH}))
    assert told == {
        "own": "no uplink has an address of IPv6: what pods send to the world is dropped (167); set `node_addresses`"
    }
    assert kernel.masquerade() == BOTH
    assert asyncio.run(operations.update({"own": replace(BOTH, families=frozenset({Family.IPV4}))})) == {}
    kernel.world.faults["set_masquerade", 0] = "no memory"
    assert "no memory" in asyncio.run(operations.update({"own": BOTH}))["own"]
    thread.close()


def test_differences_are_told_by_name() -> None:
    assert verify.masquerade_differences(BOTH, replace(BOTH, addresses=())) == []
    have = Masquerade(frozenset({Family.IPV4}), 61000, 61001, frozenset({Prefix("10.0.0.0/8")}))
    found = verify.masquerade_differences(replace(BOTH, exclusions=frozenset({Prefix("fd00::/8")})), have)
    assert [(one.subject, one.problem, one.detail) for one in found] == [
        ("masquerade", "masquerade: wrong families", "should be IPv4, IPv6, is IPv4"),
        ("masquerade", "masquerade: wrong last port", "should be 65535, is 61001"),
        ("masquerade fd00::/8", "exclusion missing", ""),
        ("masquerade 10.0.0.0/8", "exclusion foreign", ""),
    ]


def test_outer_ends_travel_whole() -> None:
    pod, own, remote = Address("10.7.0.1"), Address("192.0.2.1"), Address("198.51.100.7")
    [entry] = nat_list(NodeName("n1"), [MasqueradedFlow(6, pod, 1000, own, 61000, remote, 80, 1.5)]).entries
    assert (entry.pod, entry.pod_port, entry.own, entry.own_port, entry.remote, entry.remote_port) == (
        *(pod, 1000, own, 61000, remote, 80),
    )
    assert (entry.protocol, entry.idle_s) == (6, 1.5)
