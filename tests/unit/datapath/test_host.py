from __future__ import annotations

from pathlib import Path

from fairlead.address import Address
from services.datapath import host

ROUTES = """Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth1\t00000000\t0101000A\t0003\t0\t0\t0\t00000000\t0\t0\t0
eth0\t00000000\t0100000A\t0003\t0\t0\t0\t00000000\t0\t0\t0
eth2\t0000000A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
eth3\t00000000\t00000000\t0001\t0\t0\t0\t00000080\t0\t0\t0
"""
ROUTES6 = (
    f"{'0' * 32} 00 {'0' * 32} 00 fe800000000000000000000000000001 00000400 1 0 00000003 eth4\n"
    f"{'0' * 32} 00 {'0' * 32} 00 {'0' * 32} ffffffff 1 0 00200200 lo\n"
)
ADDRESSES6 = (
    "00000000000000000000000000000001 01 80 10 80 lo\n"
    "20010db8000000000000000000000001 02 40 00 80 eth0\n"
    "fe800000000000000000000000000001 02 40 20 80 eth0\n"
    "20010db8000000000000000000000002 03 40 00 80 eth9\n"
)


def test_uplinks_are_the_interfaces_of_the_default_routes(tmp_path: Path) -> None:
    (tmp_path / "route").write_text(ROUTES)
    (tmp_path / "ipv6_route").write_text(ROUTES6)
    assert host.uplinks(tmp_path / "route", tmp_path / "ipv6_route") == ("eth0", "eth1", "eth4")
    assert host.uplinks(tmp_path / "none", tmp_path / "none6") == ()


def test_addresses_are_the_global_ones_of_these_interfaces(tmp_path: Path) -> None:
    (tmp_path / "if_inet6").write_text(ADDRESSES6)
    assert host.addresses(("eth0",), tmp_path / "if_inet6")[-1:] == (Address("2001:db8::1"),)
    assert host.addresses(("lo",), tmp_path / "none") == (Address("127.0.0.1"),)
    assert host.addresses(("no-such-device",), tmp_path / "if_inet6") == ()


def test_devices_have_names_while_they_are_there() -> None:
    assert host.interface(1) == "lo"
    assert host.interface(0) == host.interface(1 << 30) == ""
