"""Real packets between real namespaces: what pods, the node and the network see."""

from __future__ import annotations

import os
import select
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fairlead.address import Address, Prefix
from services.datapath.kernel import devices, netlink
from services.datapath.operations import KernelError, Link, PolicyKey, PolicyValue
from services.datapath.reports import DropReason as Drop
from tests.kernel.packets import frame, icmp, tcp
from tests.kernel.rig import ALLOW_IN, ALLOW_OUT, FAR, NODE, Rig, pod_address, run
from tests.kernel.sending import families

pytestmark = pytest.mark.kernel


@families
def test_everybody_reaches_everybody_when_allowed(rig: Rig, family: int) -> None:
    first, second = pod_address(1, family), pod_address(2, family)
    ways = [("1", second), ("2", first), ("1", FAR[family]), ("w", first), ("n", first), ("1", NODE[family])]
    assert [way for way in ways if not rig.ping(*way)] == []
    for server, address, clients in (("2", second, "1wn"), ("w", FAR[family], "1"), ("n", NODE[family], "1")):
        with rig.listen(server, 7001, family):
            assert [client for client in clients if not rig.connects(client, address, 7001)] == []


@families
def test_large_transfers_arrive_whole(rig: Rig, family: int) -> None:
    for server, client, address in (("2", "1", pod_address(2, family)), ("w", "1", FAR[family])):
        with rig.listen(server, 7002, family) as listening, rig.socket_in(client, family=family) as sending:
            sending.connect((address, 7002))
            receiving, _ = listening.accept()
            payload = os.urandom(1 << 20)
            pump = threading.Thread(target=sending.sendall, args=(payload,))
            pump.start()
            received = b""
            receiving.settimeout(5)
            while len(received) < len(payload):
                received += receiving.recv(1 << 16)
            pump.join()
            receiving.close()
            assert received == payload


@families
def test_policy_is_enforced_on_every_way(rig: Rig, family: int) -> None:
    address = pod_address(2, family)
    rig.policy(2, {PolicyKey(1001, 7003, 6, 0): PolicyValue(), ALLOW_OUT: PolicyValue()})
    with rig.listen("2", 7003, family), rig.listen("2", 7004, family):
        assert rig.connects("1", address, 7003)
        assert not rig.connects("1", address, 7004)
        assert not rig.connects("w", address, 7003)
        assert not rig.connects("n", address, 7003)
        rig.kernel.apply_addresses({Prefix(FAR[family]): 1001}, ())
        assert rig.connects("w", address, 7003)
    drops = {(event.source_identity, event.dport) for event in rig.take_events() if event.reason == Drop.POLICY}
    assert {(1001, 7004), (2, 7003), (1, 7003)} <= drops


@families
def test_revocation_stops_an_open_connection(rig: Rig, family: int) -> None:
    with rig.listen("2", 7005, family) as listening, rig.socket_in("1", family=family) as client:
        client.connect((pod_address(2, family), 7005))
        server, _ = listening.accept()
        client.sendall(b"before")
        assert server.recv(100) == b"before"
        rig.policy(2, {ALLOW_OUT: PolicyValue()})
        client.sendall(b"after")
        assert not select.select([server], [], [], 0.4)[0]
        rig.allow_all()
        server.settimeout(3)
        assert server.recv(100) == b"after"
        server.close()


def test_documented_recipe_lets_traffic_in(rig: Rig) -> None:
    """The emergency: an all-zero entry by bpftool, with nobody running."""
    bpftool = shutil.which("bpftool", path=os.environ.get("PATH", "") + ":/usr/sbin")
    assert bpftool, "bpftool is missing: install it, the recipes need it"
    rig.policy(2, {PolicyKey(1001, 7777, 6, 0): PolicyValue(), ALLOW_OUT: PolicyValue()})
    pin = rig.kernel.policy_pin(2)
    assert pin.endswith("cilium_policy_00002")
    dump = run(bpftool, "map", "dump", "pinned", pin)
    assert "e9 03 00 00 1e 61 06 00" in dump
    with rig.listen("2", 7006):
        assert not rig.connects("w", pod_address(2, 4), 7006)
        zeros = ["0"] * 8
        run(bpftool, "map", "update", "pinned", pin, "key", *zeros, "value", *zeros, *zeros, *zeros)
        assert rig.connects("w", pod_address(2, 4), 7006)
        assert ALLOW_IN in rig.kernel.policy(2)
        rig.kernel.apply_policy(2, {}, [ALLOW_IN])
        assert not rig.connects("w", pod_address(2, 4), 7006)


def test_main_table_is_not_ours(rig: Rig) -> None:
    before = [run("ip", flag, "route", "show", "table", "main") for flag in ("-4", "-6")]
    rig.kernel.set_prefixes([Prefix("10.7.0.0/24"), Prefix("10.8.0.0/24"), Prefix("fd07::/64")])
    assert "10.8.0.0/24 dev fairlead_host" in run("ip", "route", "show", "table", "2047")
    assert [run("ip", flag, "route", "show", "table", "main") for flag in ("-4", "-6")] == before
    assert not any("10.7" in table or "fd07" in table for table in before)
    rig.kernel.set_prefixes([Prefix("10.7.0.0/24"), Prefix("fd07::/64")])
    assert "10.8.0.0/24" not in run("ip", "route", "show", "table", "2047")
    assert run("ip", "rule").count("lookup 2047") == 1


def test_node_forwards_nothing_of_its_own_accord(rig: Rig) -> None:
    """The datapath works although the node's stack does not forward; nobody's settings but ours were touched."""
    settings = ["ipv4/ip_forward", "ipv4/conf/up0/forwarding"]
    if Path("/proc/sys/net/ipv6/conf/default/force_forwarding").exists():
        settings.append("ipv6/conf/all/forwarding")  # on others the rig has switched it on
    for setting in settings:
        assert Path(f"/proc/sys/net/{setting}").read_text().strip() == "0", setting
    assert rig.ping("1", FAR[4])


@families
def test_reverse_path_filter_does_not_refuse_pods(rig: Rig, family: int) -> None:
    everybody = Path("/proc/sys/net/ipv4/conf/all/rp_filter")
    everybody.write_text("1")
    try:
        assert rig.ping("1", NODE[family])
        assert rig.ping("n", pod_address(1, family))
    finally:
        everybody.write_text("0")


def test_plugging_again_changes_nothing_and_repairs(rig: Rig) -> None:
    again = rig.kernel.plug(rig.link(1))
    assert again == rig.plugged[1]
    assert rig.kernel.plugged() == rig.plugged
    run("nsenter", f"--net={rig.netns('1')}", "ip", "addr", "flush", "dev", "eth0")
    run("nsenter", f"--net={rig.netns('1')}", "ip", "addr", "add", "10.66.6.6/32", "dev", "eth0")
    run("tc", "filter", "del", "dev", "fl00001", "ingress")
    assert set(rig.kernel.plugged()) == {2}
    rig.kernel.plug(rig.link(1))
    shown = run("nsenter", f"--net={rig.netns('1')}", "ip", "-br", "addr", "show", "dev", "eth0")
    assert "10.7.0.1/32" in shown
    assert "fd07::1/128" in shown
    assert "10.66.6.6" not in shown
    assert "fe80" not in shown
    assert rig.ping("1", pod_address(2, 4))


def test_foreign_interface_is_not_taken_over(rig: Rig) -> None:
    link = Link(9, rig.netns("w"), "eth0", (Address("10.7.0.9"),), 0)
    with pytest.raises(KernelError, match="another eth0"):
        rig.kernel.plug(link)
    with pytest.raises(KernelError, match="cannot be opened"):
        rig.kernel.plug(Link(9, "/run/netns/is-not-there", "eth0", (Address("10.7.0.9"),), 0))
    assert devices.find_device(rig.kernel._wire, "fl00009") is None


@contextmanager
def extra_namespace(name: str) -> Iterator[str]:
    run("ip", "netns", "add", name)
    try:
        yield f"/run/netns/{name}"
    finally:
        run("ip", "netns", "del", name)


def test_endpoint_comes_goes_and_comes_back_elsewhere(rig: Rig) -> None:
    for place in ("x", "y"):
        with extra_namespace(f"{rig.name}{place}") as netns:
            plugged = rig.kernel.plug(Link(3, netns, "net0", (Address("10.7.0.3"),), 1400))
            rig.plugged[3] = plugged
            rig.kernel.apply_policy(3, {ALLOW_IN: PolicyValue(), ALLOW_OUT: PolicyValue()}, ())
            assert not rig.ping("1", "10.7.0.3")
            entry = rig.entry(1)
            rig.kernel.put_endpoint(
                type(entry)(
                    3, plugged.ifindex, 1003, plugged.host_mac, plugged.pod_mac, (Address("10.7.0.3"),), held=False
                )
            )
            assert rig.ping("1", "10.7.0.3")
            assert "mtu 1400" in run("nsenter", f"--net={netns}", "ip", "link", "show", "net0")
            if place == "y":
                rig.kernel.unplug(3)
    rig.kernel.unplug(3)
    del rig.plugged[3]
    assert set(rig.kernel.plugged()) == {1, 2}
    assert set(rig.kernel.endpoints()) == {1, 2}
    assert rig.kernel.policy(3) == {}
    assert not Path(rig.kernel.policy_pin(3)).exists()


def test_frames_cut_within_the_ip_header_are_dropped(rig: Rig) -> None:
    with netlink.inside(rig.netns("1")):
        raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    raw.bind(("eth0", 0))
    for family in (4, 6):
        whole = frame(tcp(1, 2), pod_address(1, family), pod_address(2, family))
        for length in range(15, 34 if family == 4 else 54):
            raw.send(whole[:length])
        ping = frame(icmp(8 if family == 4 else 128, v6=family == 6), pod_address(1, family), pod_address(2, family))
        raw.send(ping)
    raw.close()
    found = [event.reason for event in rig.take_events()]
    assert set(found) <= {0, Drop.INVALID_PACKET}
    assert found.count(Drop.INVALID_PACKET) == (34 - 15) + (54 - 15)
