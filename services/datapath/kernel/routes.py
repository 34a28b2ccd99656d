"""The way from the node's own stack to pods, its own and those behind tunnels: a table and a rule of our own; the main table never changes."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable, Mapping

from pyroute2.netlink import nlmsg, rtnl
from pyroute2.netlink.rtnl.fibmsg import FR_ACT_TO_TBL, fibmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from fairlead.address import Address, Family, Prefix
from services.datapath.kernel import netlink
from services.datapath.kernel.door import Door
from services.datapath.kernel.netlink import Message, Netlink, body, nested

TABLE = 2047
PRIORITY = 1000
_PROTOCOL = 88
"""Who made a route or rule, as `ip route` shows it: nobody else uses this number."""
TUNNELS = 89
"""The same for routes to the pods of other nodes."""
_NUMBER_BY_FAMILY = {Family.IPV4: int(socket.AF_INET), Family.IPV6: int(socket.AF_INET6)}


def _rule(family: Family) -> nlmsg:
    fields = {"family": _NUMBER_BY_FAMILY[family], "action": FR_ACT_TO_TBL}
    return body(fibmsg, fields, FRA_PRIORITY=PRIORITY, FRA_TABLE=TABLE, FRA_PROTOCOL=_PROTOCOL)


def _add_rule(family: Family) -> Message:
    return Message(rtnl.RTM_NEWRULE, _rule(family), "add rule", netlink.MAKE, fine=netlink.ALREADY)


def _remove_rule(family: Family) -> Message:
    return Message(rtnl.RTM_DELRULE, _rule(family), "remove rule", fine=netlink.ABSENT | {errno.EAFNOSUPPORT})


def _route(prefix: Prefix, door: Door, protocol: int = _PROTOCOL, source: Address | None = None) -> nlmsg:
    fields = {
        "family": _NUMBER_BY_FAMILY[prefix.family],
        "dst_len": prefix.length,
        "proto": protocol,
        "scope": rtnl.rt_scope["link"],  # IPv6 has no scopes and ignores it
        "type": rtnl.rt_type["unicast"],
    }
    more: dict[str, object] = {"RTA_PREFSRC": str(source)} if source is not None else {}
    if door.route_mtu_bytes:
        more["RTA_METRICS"] = nested(RTAX_MTU=door.route_mtu_bytes)
    return body(rtmsg, fields, RTA_DST=str(prefix.address), RTA_OIF=door.ifindex, RTA_TABLE=TABLE, **more)


def _add_route(prefix: Prefix, door: Door, protocol: int = _PROTOCOL, source: Address | None = None) -> Message:
    return Message(rtnl.RTM_NEWROUTE, _route(prefix, door, protocol, source), f"add route to {prefix}", netlink.SET)


def _remove_route(prefix: Prefix, ifindex: int, protocol: int = _PROTOCOL) -> Message:
    payload = _route(prefix, Door(ifindex), protocol)
    return Message(rtnl.RTM_DELROUTE, payload, f"remove route to {prefix}", fine=netlink.ABSENT)


def routes(wire: Netlink, protocol: int = _PROTOCOL) -> dict[Prefix, int]:
    """Return the MTU (bytes; 0: the device's) by prefix of the routes in our table: this node's own, or those behind `TUNNELS`."""
    found = {}
    for family, number in _NUMBER_BY_FAMILY.items():
        ask = Message(rtnl.RTM_GETROUTE, body(rtmsg, {"family": number}, RTA_TABLE=TABLE), "list routes")
        for answer in wire.dump(ask):
            if answer.get_attr("RTA_TABLE") == TABLE and answer["proto"] == protocol:
                anywhere = "0.0.0.0" if family is Family.IPV4 else "::"  # noqa: S104 - nothing listens: a default route
                prefix = Prefix(f"{answer.get_attr('RTA_DST', anywhere)}/{answer['dst_len']}")
                metrics = answer.get_attr("RTA_METRICS")
                found[prefix] = metrics.get_attr("RTAX_MTU", 0) if metrics else 0
    return found


def set_routes(wire: Netlink, prefixes: Iterable[Prefix], door: Door) -> None:
    """Make our table hold just these prefixes, and the rules lead to it."""
    wanted, have = set(prefixes), routes(wire)
    families = sorted({prefix.family for prefix in wanted})
    wire.send(
        [
            *(_add_rule(family) for family in families),
            *(_add_route(prefix, door) for prefix in sorted(wanted)),
            *(_remove_route(prefix, door.ifindex) for prefix in sorted(have.keys() - wanted)),
        ]
    )


def change_tunnels(wire: Netlink, puts: Mapping[Prefix, Address | None], deletes: Iterable[Prefix], door: Door) -> None:
    """Lead these prefixes of other nodes to the device, the stack speaking from the address given; remove the others."""
    wire.send(
        [
            *(_add_rule(family) for family in sorted({prefix.family for prefix in puts})),
            *(_add_route(prefix, door, TUNNELS, source) for prefix, source in puts.items()),
            *(_remove_route(prefix, door.ifindex, TUNNELS) for prefix in deletes),
        ]
    )


def remove_all(wire: Netlink) -> None:
    """Remove our routes and rules."""
    for protocol in (_PROTOCOL, TUNNELS):
        wire.send([_remove_route(prefix, 0, protocol) for prefix in sorted(routes(wire, protocol))])
    wire.send([_remove_rule(family) for family in Family])
