"""What may be announced, and what a change of the speaker costs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairlead.address import Address, Prefix
from fairlead.errors import InvalidInput
from services.bgp.model import (
    Neighbour,
    Speaker,
    Timers,
    announceable,
    flapping,
    parse_neighbour,
    parse_neighbours,
    router_id,
)

POOLS = (Prefix("10.42.0.0/16"), Prefix("fd42::/48"))
SPEAKER = Speaker(
    asn=65001,
    router_id=Address("10.0.1.6"),
    neighbours=parse_neighbours(["10.0.1.5:65101", "10.0.2.5:65102"]),
    pools=POOLS,
)


@pytest.mark.parametrize(
    ("text", "address", "asn"),
    [
        ("10.0.1.1:65101", "10.0.1.1", 65101),
        ("[fd00::1]:4200000000", "fd00::1", 4200000000),
        ("[FD00:0::1]:1", "fd00::1", 1),
    ],
)
def test_a_neighbour_is_an_address_and_an_autonomous_system(text: str, address: str, asn: int) -> None:
    assert parse_neighbour(text) == Neighbour(address=Address(address), asn=asn)


@pytest.mark.parametrize(
    "text",
    ["", "10.0.1.1", "10.0.1.1:", "10.0.1.1:0", "10.0.1.1:4294967296", "fd00::1:65101", "tor1:65101", "10.0.1.1:65101\n", "10.0.1.1:-1", "10.0.1.1:٣"],
)  # fmt: skip
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_neighbour(text)


def test_the_same_neighbour_twice_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"10\.0\.1\.1 stands there twice"):
        parse_neighbours(["10.0.1.1:65101", "10.0.1.1:65102"])


@given(st.lists(st.ip_addresses(), min_size=2, max_size=20, unique=True))
def test_different_neighbours_have_different_names(addresses: list[object]) -> None:
    names = {Neighbour(address=Address(str(address)), asn=1).name for address in addresses}
    assert len(names) == len(addresses)


@given(st.ip_addresses())
def test_a_name_is_a_word(address: object) -> None:
    name = Neighbour(address=Address(str(address)), asn=1).name
    assert name.isascii()
    assert name.replace("_", "a").isalnum()


def test_the_router_id_is_the_first_ipv4_address() -> None:
    assert router_id("", [Address("fd00::1"), Address("10.0.1.6"), Address("10.0.2.6")]) == "10.0.1.6"
    assert router_id("192.0.2.1", []) == "192.0.2.1"
    with pytest.raises(InvalidInput, match="bgp_router_id"):
        router_id("", [Address("fd00::1")])


def test_claims_are_announced() -> None:
    claimed = (Prefix("10.42.7.0/24"), Prefix("10.42.8.128/25"), Prefix("fd42:0:0:7::/64"))
    routes, refused = announceable(claimed, POOLS)
    assert set(routes) == set(claimed)
    assert refused == ()


@pytest.mark.parametrize(
    "text", ["0.0.0.0/0", "10.42.0.0/16", "10.42.0.0/23", "10.42.7.0/26", "10.42.7.1/32", "10.43.7.0/24", "::/0", "fd42::/48", "fd42::/55", "fd42::1/128", "fd43::/64"]
)  # fmt: skip
def test_what_the_fabric_would_refuse_is_not_announced(text: str) -> None:
    routes, refused = announceable((Prefix(text),), POOLS)
    assert routes == {}
    assert text in refused[0]


def test_another_neighbour_restarts_no_session() -> None:
    more = Speaker(
        asn=65001,
        router_id=SPEAKER.router_id,
        neighbours=parse_neighbours(["10.0.0.9:65100", "10.0.1.5:65101", "10.0.2.5:65102"]),
        pools=POOLS,
    )
    assert flapping(SPEAKER, more) == ()
    assert flapping(more, SPEAKER) == ()


def test_changes_that_restart_sessions_are_named_beforehand() -> None:
    def changed(**fields: object) -> Speaker:
        before = {name: getattr(SPEAKER, name) for name in SPEAKER.__struct_fields__}
        return Speaker(**(before | fields))

    both = ("peer_10_0_1_5", "peer_10_0_2_5")
    assert flapping(SPEAKER, changed(timers=Timers(hold_s=30))) == both
    assert flapping(SPEAKER, changed(password="secret")) == both  # noqa: S106 - a test's
    assert flapping(SPEAKER, changed(router_id=Address("10.9.9.9"))) == both
    assert flapping(SPEAKER, changed(drain=True)) == ()
    assert flapping(SPEAKER, changed(neighbours=parse_neighbours(["10.0.1.5:65109", "10.0.2.5:65102"]))) == both[:1]
