"""What fills the maps of a node under measurement: policies and addresses, as many as asked for."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from fairlead.address import Address, Prefix
from fairlead.schema.identity import WORLD as WORLD_IDENTITY
from services.datapath.operations import PolicyKey, PolicyValue

PEER = {4: "198.51.100.7", 6: "2001:db8:7::7"}
PEER_IDENTITY, TCP = 2000, 6
PEERS = {Prefix(address): PEER_IDENTITY for address in PEER.values()}
IN, OUT = 0, 1
FIRST_ADDRESS = int.from_bytes(Address("10.64.0.0").packed, "big")


def policy(peer: int, entries: int, protocols: tuple[int, ...] = (TCP,)) -> dict[PolicyKey, PolicyValue]:
    """Return a policy of that many entries in both directions, of which one per direction and peer decides."""
    deciding = itertools.product((peer, PEER_IDENTITY, WORLD_IDENTITY), protocols, (IN, OUT))
    rows = {PolicyKey(who, 0, protocol, direction): PolicyValue() for who, protocol, direction in deciding}
    for number in range(entries - len(rows)):
        rows[PolicyKey(30_000 + number // 2, 80, TCP, number % 2)] = PolicyValue(provenance=1)
    return rows


def many_addresses(count: int, first: int = 0) -> Iterator[tuple[Prefix, int]]:
    """Yield host addresses, from the one with number `first` on, with the identity of the peer."""
    for number in range(first, first + count):
        address = FIRST_ADDRESS + number
        text = str(Address(f"{address >> 24}.{address >> 16 & 255}.{address >> 8 & 255}.{address & 255}"))
        yield Prefix(f"{text}/32"), PEER_IDENTITY
