"""Configuration from values: nothing but what was meant can stand in it."""

from __future__ import annotations

import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairlead import codec
from fairlead.address import Address, Prefix
from fairlead.errors import InvalidInput
from fairlead.schema.ipam import Claim
from services.bgp.engine import bird_config
from services.bgp.model import Attributes, Password, Speaker, announceable, parse_neighbours

POOLS = (Prefix("10.42.0.0/16"), Prefix("fd42::/48"))
SPEAKER = Speaker(
    asn=65001,
    router_id=Address("10.0.1.6"),
    neighbours=parse_neighbours(["10.0.1.5:65101", "[fd00::5]:65102"]),
    pools=POOLS,
)
_LINE = re.compile(r"route [0-9a-f.:]+/\d+ blackhole;")


def test_routes_stand_in_the_file_of_their_family() -> None:
    routes = {Prefix("10.42.1.0/24"): Attributes(), Prefix("fd42:0:0:1::/64"): Attributes(communities=((65001, 7),))}
    assert bird_config.render_routes(routes) == {
        "pods4.conf": "route 10.42.1.0/24 blackhole;\n",
        "pods6.conf": "route fd42:0:0:1::/64 blackhole { bgp_community.add((65001,7)); };\n",
    }


def test_the_main_file_learns_nothing_and_touches_no_kernel() -> None:
    text = bird_config.render_main(SPEAKER)
    assert "protocol kernel" not in text
    assert text.count("import none") == 2
    assert "import all" not in text
    assert "if net !~ [ 10.42.0.0/16{24,25} ] then reject;" in text
    assert "if net !~ [ fd42::/48{56,80} ] then reject;" in text
    assert "protocol bgp peer_fd00__5 from fabric { local as 65001; neighbor fd00::5 as 65102; }" in text


def test_a_family_without_a_pool_announces_nothing() -> None:
    only_ipv4 = msgspec.structs.replace(SPEAKER, pools=POOLS[:1])
    assert "filter to_fabric6 { reject;" in bird_config.render_main(only_ipv4)


@pytest.mark.parametrize("text", ["10.42.1.0/24\nroute 0.0.0.0/0 blackhole;", "10.42.1.0/24 blackhole; } #", "10.42.1.0/24\n", "10.42.1.1/24"])  # fmt: skip
def test_a_claim_cannot_carry_configuration(text: str) -> None:
    with pytest.raises(InvalidInput, match="prefixes"):
        codec.from_builtins({"node": "n1", "prefixes": [text]}, Claim)


@given(st.text(max_size=40))
def test_no_text_becomes_anything_but_a_route_line(text: str) -> None:
    try:
        prefix = Prefix(text)
    except InvalidInput:
        return
    routes, _ = announceable((prefix,), (Prefix("0.0.0.0/0"), Prefix("::/0")))
    for line in "".join(bird_config.render_routes(routes).values()).splitlines():
        assert _LINE.fullmatch(line)


@given(st.ip_addresses(v=4), st.integers(0, 32))
def test_every_accepted_prefix_makes_one_line(address: object, length: int) -> None:
    import ipaddress  # noqa: PLC0415 - only here

    prefix = Prefix(str(ipaddress.ip_network(f"{address}/{length}", strict=False)))
    text = bird_config.render_routes({prefix: Attributes()})["pods4.conf"]
    assert _LINE.fullmatch(text.strip())
    assert text.count("\n") == 1


@pytest.mark.parametrize("text", ['a"; } protocol kernel { }', "two words", "line\nbreak", "back\\slash", "x" * 81])
def test_a_password_that_could_end_its_quotes_is_refused(text: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(text, Password)
