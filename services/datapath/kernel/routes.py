"""The way from the node's own stack to its pods: a table and a rule of our own; the main table never changes."""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterable

from fairlead.address import Family, Prefix
from services.datapath.kernel import abi, netlink
from services.datapath.kernel.netlink import Message, Netlink, attribute, number

TABLE = 2047
PRIORITY = 1000
_PROTOCOL = 88
"""Who made a route or rule, as `ip route` shows it: nobody else uses this number."""
_NUMBER_BY_FAMILY = {Family.IPV4: 2, Family.IPV6: 10}


def _rule(kind: int, family: Family) -> Message:
    payload = struct.pack("=BBBBBBBBI", _NUMBER_BY_FAMILY[family], 0, 0, 0, 0, 0, 0, 1, 0)
    payload += number(6, PRIORITY) + number(15, TABLE) + attribute(21, bytes([_PROTOCOL]))
    if kind == netlink.NEWRULE:
        return Message(kind, payload, "add rule", netlink.CREATE | netlink.EXCLUSIVE, fine=netlink.ALREADY)
    return Message(kind, payload, "remove rule", fine=netlink.ABSENT | {errno.EAFNOSUPPORT})


def _route(kind: int, prefix: Prefix, ifindex: int) -> Message:
    # scope link for IPv4; IPv6 has no scopes and ignores it
    payload = struct.pack("=BBBBBBBBI", _NUMBER_BY_FAMILY[prefix.family], prefix.length, 0, 0, 0, _PROTOCOL, 253, 1, 0)
    payload += attribute(1, prefix.address.packed) + number(4, ifindex) + number(15, TABLE)
    if kind == netlink.NEWROUTE:
        return Message(kind, payload, f"add route to {prefix}", netlink.CREATE | netlink.REPLACE)
    return Message(kind, payload, f"remove route to {prefix}", fine=netlink.ABSENT)


def routes(wire: Netlink) -> set[Prefix]:
    """Return the prefixes in our table."""
    found = set()
    for family, family_number in _NUMBER_BY_FAMILY.items():
        ask = Message(netlink.GETROUTE, struct.pack("=BBBBBBBBI", family_number, *([0] * 8)), "list routes")
        for payload in wire.dump(ask):
            values = netlink.attributes(payload, 12)
            if struct.unpack("=I", values.get(15, b"\0\0\0\0"))[0] == TABLE and payload[5] == _PROTOCOL:
                packed = values.get(1, bytes(family.bits // 8))
                mapped = packed if family == Family.IPV6 else b"\0" * 10 + b"\xff\xff" + packed
                found.add(Prefix(f"{abi.unpack_address(mapped)}/{payload[1]}"))
    return found


def set_routes(wire: Netlink, prefixes: Iterable[Prefix], ifindex: int) -> None:
    """Make our table hold just these prefixes, and the rules lead to it."""
    wanted, have = set(prefixes), routes(wire)
    families = sorted({prefix.family for prefix in wanted})
    wire.send(
        [
            *(_rule(netlink.NEWRULE, family) for family in families),
            *(_route(netlink.NEWROUTE, prefix, ifindex) for prefix in sorted(wanted)),
            *(_route(netlink.DELROUTE, prefix, ifindex) for prefix in sorted(have - wanted)),
        ]
    )


def remove_all(wire: Netlink) -> None:
    """Remove our routes and rules."""
    wire.send([_route(netlink.DELROUTE, prefix, 0) for prefix in sorted(routes(wire))])
    wire.send([_rule(netlink.DELRULE, family) for family in Family])
