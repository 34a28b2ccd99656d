"""Masquerade for tests: turned on and off, and what they ask of it."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from fairlead.address import Family
from services.datapath.operations import PolicyValue
from services.datapath.outside import Masquerade
from services.datapath.reports import EventKind
from tests.kernel.rig import ALLOW_OUT, Rig

BOTH = frozenset({Family.IPV4, Family.IPV6})
ON = Masquerade(BOTH)


@contextmanager
def masquerading(rig: Rig) -> Iterator[Rig]:
    """Masquerade is on; pods may begin flows, and nobody may begin one to them."""
    rig.kernel.set_masquerade(ON)
    table = rig.kernel._tables.maps["masquerade"]
    table.delete_all(table.items())
    for endpoint in (1, 2):
        rig.policy(endpoint, {ALLOW_OUT: PolicyValue()})
    yield rig
    rig.kernel.set_masquerade(Masquerade())


def datagrams(rig: Rig, which: str, family: int, port: int = 0, address: str = "") -> socket.socket:
    """Return a bound datagram socket of that namespace."""
    made = rig.socket_in(which, socket.SOCK_DGRAM, family)
    made.bind((address, port))
    return made


def drops(rig: Rig) -> list[int]:
    """Return the reasons of the drops that were reported since the last time."""
    return [event.reason for event in rig.take_events() if event.kind is EventKind.DROP]
