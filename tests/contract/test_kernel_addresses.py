"""Addresses and prefixes, of the real kernel and of the one in dicts alike."""

from __future__ import annotations

import itertools

import pytest

from fairlead.address import Address, Prefix
from services.datapath.kernel.twin.cases import Action
from services.datapath.operations import EndpointEntry, Kernel, Link, PolicyKey, PolicyValue
from services.datapath.reports import DropReason as Drop
from tests.kernel.packets import frame, udp
from tests.support.kernels import Bench


def test_addresses_longest_prefix_first(kernel: Kernel) -> None:
    rows = {
        Prefix("10.0.0.0/8"): 1 << 24,
        Prefix("10.1.0.0/16"): (1 << 24) + 1,
        Prefix("10.1.2.3/32"): 300,
        Prefix("fd00::/8"): (1 << 24) + 2,
        Prefix("fd00::1/128"): 301,
        Prefix("0.0.0.0/0"): 2,
    }
    kernel.apply_addresses(rows, ())
    kernel.apply_addresses(rows, ())
    assert kernel.addresses() == rows
    answers = {"10.1.2.3": 300, "10.1.2.4": (1 << 24) + 1, "10.9.9.9": 1 << 24, "fd00::1": 301, "192.0.2.1": 2}
    for text, identity in answers.items():
        found = kernel.lookup_address(Address(text))
        assert found is not None, text
        assert found == (max((p for p in rows if Address(text) in p), key=lambda p: p.length), identity)
    assert kernel.lookup_address(Address("2001:db8::1")) is None
    kernel.apply_addresses({Prefix("10.1.2.3"): 302}, [Prefix("10.1.0.0/16"), Prefix("10.77.0.0/16")])
    assert kernel.lookup_address(Address("10.1.2.3")) == (Prefix("10.1.2.3"), 302)
    assert kernel.lookup_address(Address("10.1.2.4")) == (Prefix("10.0.0.0/8"), 1 << 24)


def test_addresses_are_compared_where_they_stand(kernel: Kernel) -> None:
    assert kernel.unlike_addresses({Prefix("10.1.2.3"): 300, Prefix("10.0.0.0/8"): 400}) == {
        Prefix("10.1.2.3"): None,
        Prefix("10.0.0.0/8"): None,
    }
    stand = {Prefix("10.0.0.0/8"): 400, Prefix("10.1.2.3"): 300, Prefix("fd00::1"): 301, Prefix("fd00::/8"): 401}
    kernel.apply_addresses(stand, ())
    assert kernel.unlike_addresses(stand) == {}
    asked = {**stand, Prefix("10.1.2.3"): 7, Prefix("10.1.0.0/16"): 400, Prefix("fd00::2"): 301, Prefix("fd00::/8"): 8}
    del asked[Prefix("fd00::1")]
    assert kernel.unlike_addresses(asked) == {
        Prefix("10.1.2.3"): 300,
        Prefix("10.1.0.0/16"): None,
        Prefix("fd00::2"): None,
        Prefix("fd00::/8"): 401,
    }
    assert kernel.compare_addresses(stand) == ({}, ())
    found, missing = kernel.compare_addresses(asked)
    assert found == {Prefix("10.1.2.3"): 300, Prefix("fd00::/8"): 401, Prefix("fd00::1"): 301}
    assert set(missing) == {Prefix("10.1.0.0/16"), Prefix("fd00::2")}


def test_many_rows_go_in_one_order_whether_they_are_there_or_not(kernel: Kernel) -> None:
    stand = {Prefix(f"10.0.{n >> 8}.{n & 255}"): 300 for n in range(600)}
    kernel.apply_addresses(stand, ())
    gone = [Prefix(f"10.0.{n >> 8}.{n & 255}") for n in range(0, 1200, 2)]
    kernel.apply_addresses({}, gone)
    assert kernel.addresses() == {prefix: 300 for prefix in stand if prefix not in set(gone)}


def test_ten_thousand_addresses(kernel: Kernel) -> None:
    rows = {Prefix(f"10.{i >> 8}.{i & 255}.1"): 300 + i % 1000 for i in range(9000)}
    rows |= {Prefix(f"fd00:{i:x}::/64"): 400 for i in range(1000)}
    kernel.apply_addresses(rows, ())
    assert kernel.addresses() == rows
    kernel.apply_addresses({}, list(rows))
    assert kernel.addresses() == {}


@pytest.mark.parametrize("family", [4, 6])
def test_prefixes_can_be_set_again(bench: Bench, family: int) -> None:
    """What is of a prefix of this node, and nobody's address, goes nowhere."""
    bench.kernel.start()
    pod, nobody = {4: ("10.77.0.2", "10.77.0.9"), 6: ("fd00:77::2", "fd00:77::9")}[family]
    link = bench.kernel.plug(Link(1, bench.namespace("pod"), "eth0", (Address(pod),), 0))
    where = link.ifindex, 1001, link.host_mac, link.pod_mac
    bench.kernel.put_endpoint(EndpointEntry(1, *where, (Address(pod),), held=False))
    bench.kernel.apply_policy(1, {PolicyKey(0, 0, 0, 1): PolicyValue()}, ())
    ports = itertools.count(2000)

    def end() -> tuple[Action, int]:
        return bench.meet(frame(udp(next(ports), 53, b"x"), pod, nobody), 1)

    both, nobodys = [Prefix("10.77.0.0/24"), Prefix("fd00:77::/64")], (Action.DROPPED, int(Drop.UNKNOWN_TARGET))
    for prefixes in (both, both, [], both):
        bench.kernel.set_prefixes(prefixes)
        assert (end() == nobodys) == bool(prefixes), "where it goes otherwise is the network's affair"
