"""What both sides of the map must agree on, read from the C."""

from __future__ import annotations

import re
import struct

import pytest

from fairlead.address import Address, Prefix
from services.datapath.kernel import abi
from services.datapath.operations import PolicyCounters, PolicyKey, PolicyValue
from services.datapath.reports import DropReason

C_DROPS = re.compile(r"^#define DROP_(\w+)\s+(\d+)", re.MULTILINE)
PROMISED = {
    "INVALID_SOURCE": 132,
    "POLICY": 133,
    "INVALID_PACKET": 134,
    "TRUNCATED": 135,
    "UNKNOWN_L3": 139,
    "UNKNOWN_L4": 142,
    "FLOW_TABLE": 155,
    "FRAGMENT_TABLE": 157,
    "FIB": 169,
    "POLICY_DENY": 181,
    "TTL_EXCEEDED": 196,
    "HELD": 220,
}


def test_drop_codes_are_the_same_in_c_and_python_and_as_promised() -> None:
    in_c = {name: int(code) for name, code in C_DROPS.findall((abi.BPF_DIRECTORY / "lib/drop.h").read_text())}
    assert in_c == {drop.name: drop.value for drop in DropReason}
    assert in_c.items() >= PROMISED.items()


def test_policy_bytes_are_the_documented_ones() -> None:
    key = PolicyKey(identity=0x12345, port=6379, protocol=6, direction=0)
    assert abi.pack_policy_key(key).hex() == "45230100" + "18eb" + "06" + "00"
    value = PolicyValue(deny=True, precedence=5, provenance=0x0A0B0C0D)
    assert abi.pack_policy_value(value).hex() == "0000" + "01" + "05" + "0d0c0b0a" + "00" * 16
    assert abi.pack_policy_value(PolicyValue()) == bytes(24)
    assert abi.unpack_policy_key(abi.pack_policy_key(key)) == key
    packed = abi.pack_policy_value(value)[:8] + struct.pack("=QQ", 3, 300)
    assert abi.unpack_policy_value(packed) == (value, PolicyCounters(3, 300))


@pytest.mark.parametrize("text", ["10.1.2.3", "fd00::1", "::", "0.0.0.0"])
def test_addresses_survive_packing(text: str) -> None:
    assert abi.unpack_address(abi.pack_address(Address(text))) == text


@pytest.mark.parametrize("text", ["0.0.0.0/0", "10.0.0.0/8", "::/0", "fd00::/48", "192.0.2.0/31"])
def test_prefixes_survive_packing(text: str) -> None:
    assert abi.unpack_prefix(abi.pack_prefix(Prefix(text))) == text
