"""The control socket's replies as BIRD 2.0.12 sends them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairlead.address import Prefix
from fairlead.errors import Unavailable
from services.bgp.engine import Session
from services.bgp.engine.bird_replies import Line, Reply, ReplyReader, parse_prefixes, parse_sessions

GREETING = b"0001 BIRD 2.0.12 ready.\n"
CONFIGURED = b"0002-Reading configuration from /run/bgp/bird.conf\n0003 Reconfigured\n"
REFUSED = b"0002-Reading configuration from x.conf\n8002 x.conf, line 3: syntax error, unexpected NUM\n"
PROTOCOLS = b"""\
2002-Name       Proto      Table      State  Since         Info
1002-pods4      Static     adv4       up     2026-11-20 12:53:49  \n\
1006-  Channel ipv4
     State:          UP
     Table:          adv4
     Routes:         1 imported, 0 exported, 1 preferred
 \n\
1002-peer_10_0_1_5 BGP        ---        up     2026-11-20 12:53:50  Established   \n\
1006-  BGP state:          Established
     Neighbor address: 10.0.1.5
     Neighbor AS:      65101
     Local AS:         65001
     Neighbor ID:      10.20.0.1
     Hold timer:       8.182/9
   Channel ipv4
     State:          UP
     Routes:         0 imported, 1 exported, 0 preferred
     Route change stats:     received   rejected   filtered    ignored   accepted
       Import updates:              0          0          0          0          0
   Channel ipv6
     Routes:         3 imported, 2 filtered, 1 exported, 0 preferred
     BGP Next hop:   fd00:0:1:1::2 fe80::24c6:89ff:fe10:5f9f
 \n\
1002-peer_fd00__5 BGP        ---        start  2026-11-20 12:53:50  Active        Socket: Connection refused
1006-  BGP state:          Active
     Neighbor address: fd00::5%up2
     Neighbor AS:      65102
     Local AS:         65001
     Connect delay:    0.411/1
     Last error:       Socket: Connection refused
 \n\
0000 \n"""
ROUTES = b"""\
1007-Table adv4:
 10.42.1.0/24         blackhole [pods4 2026-11-20 12:53:49] * (200)
1007-10.42.2.128/25       unicast [n2 2026-11-20 12:53:50] * (100) [AS65002i]
 \tvia 10.0.1.10 on n2
                     unicast [tor2 2026-11-20 12:53:50] (100) [AS65002i]
0000 \n"""


def read(data: bytes) -> list[Reply]:
    return ReplyReader().feed(data)


def test_greeting_and_success() -> None:
    greeting, configured = read(GREETING + CONFIGURED)
    assert (greeting.code, greeting.text) == (1, "BIRD 2.0.12 ready.")
    assert configured.lines == (Line(2, "Reading configuration from /run/bgp/bird.conf"), Line(3, "Reconfigured"))
    assert configured.ok


def test_a_refusal_says_where() -> None:
    (refused,) = read(REFUSED)
    assert not refused.ok
    assert refused.text == "x.conf, line 3: syntax error, unexpected NUM"


@pytest.mark.parametrize("place", [0, len(GREETING), len(GREETING) + CONFIGURED.index(b"0003")])
def test_messages_of_its_own_accord_are_skipped_wherever_they_stand(place: int) -> None:
    data = GREETING + CONFIGURED
    disturbed = data[:place] + b"+Config timeout expired, starting undo\n+Config undone\n" + data[place:]
    assert read(disturbed) == read(data)


@given(st.lists(st.integers(1, 60), max_size=80))
def test_replies_do_not_depend_on_how_the_bytes_arrive(sizes: list[int]) -> None:
    data = GREETING + PROTOCOLS + CONFIGURED + ROUTES
    reader, replies, rest = ReplyReader(), list[Reply](), data
    for size in sizes:
        replies += reader.feed(rest[:size])
        rest = rest[size:]
    assert [*replies, *reader.feed(rest)] == read(data)


@pytest.mark.parametrize("data", [b"hello\n", b" continued\n", b"00x1 a\n", b"\n", b"0001\n", b"\xff\xfe\n"])
def test_what_bird_never_sends_is_an_error(data: bytes) -> None:
    with pytest.raises(Unavailable):
        read(data)


@given(st.binary(max_size=300))
def test_garbage_is_a_reply_or_an_error(data: bytes) -> None:
    try:
        replies = read(data)
    except Unavailable:
        return
    for reply in replies:
        assert all(isinstance(session, Session) for session in parse_sessions(reply))


def test_sessions() -> None:
    (reply,) = read(PROTOCOLS)
    first, second = parse_sessions(reply)
    assert first == Session(
        name="peer_10_0_1_5",
        address=first.address,
        peer_asn=65101,
        local_asn=65001,
        state="Established",
        since="2026-11-20 12:53:50",
        exported=2,
        imported=3,
    )
    assert first.address == "10.0.1.5"
    assert first.established
    assert (second.address, second.state, second.detail) == ("fd00::5", "Active", "Socket: Connection refused")
    assert not second.established


def test_prefixes() -> None:
    (reply,) = read(ROUTES)
    assert parse_prefixes(reply) == {Prefix("10.42.1.0/24"), Prefix("10.42.2.128/25")}
