"""Canonical text: the quick way to it says the same as the standard library."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fairlead.address import Address, Prefix
from fairlead.errors import InvalidInput

_FEW_BITS = st.integers(0, 1 << 48)
_GROUPS = st.lists(st.sampled_from((0, 0, 0, 1, 0xFFFF)), min_size=8, max_size=8).map(
    lambda groups: sum(group << 16 * place for place, group in enumerate(groups))
)


@given(st.one_of(_FEW_BITS, _GROUPS, st.integers(0, (1 << 128) - 1)))
@example(0xFFFF01020304)
@example(0x01020304)
def test_every_way_to_write_an_ipv6_address_comes_to_one(number: int) -> None:
    value = ipaddress.IPv6Address(number)
    for text in (str(value), value.exploded, str(value).upper(), Address(str(value))):
        assert str(Address(text)) == str(value)
        assert str(Prefix(text)) == str(Prefix(f"{text}/128")) == f"{value}/128"
        assert Prefix(text).is_host
    assert Address(str(value)).ip == value


@given(st.integers(0, (1 << 32) - 1), st.integers(0, 32))
def test_ipv4_prefixes_are_what_the_standard_library_says(number: int, length: int) -> None:
    network = ipaddress.ip_network((number, length), strict=False)
    assert str(Prefix(str(network))) == str(network)
    assert Prefix(str(network)).network == network
    assert Prefix(str(network)).is_host == (length == 32)


@pytest.mark.parametrize(
    "text",
    ["10.0.0.1/128", "fd00::1/32", "fd00::1/129", "010.0.0.1", "fd00::1%eth0", "fd00::g/128", "/32", "", "1.2.3"],
)
def test_what_is_no_prefix_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        Prefix(text)
