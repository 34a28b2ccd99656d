"""Where the frames of the fuzz live: addresses, the node's routes, and at which program a frame is met."""

from __future__ import annotations

import socket
from collections.abc import Mapping

from fairlead.address import Address, Prefix
from services.datapath.kernel import abi
from services.datapath.kernel.twin.cases import Met, Origin, Route, Tunnel
from tests.fuzz.packets.frames import IPV4, IPV6, Places
from tests.kernel.rig import FAR, NODE, pod_address

_OWN = tuple(Prefix(text) for text in ("10.7.0.0/24", "fd07::/64"))
_LINK = tuple(Prefix(text) for text in ("192.0.2.0/24", "2001:db8::/64"))
"""Whose neighbours are not known, but for those that are written into the node's table."""
_NOT_FORWARDED = ("127.0.0.0/8", "192.0.2.1/32", "192.0.2.255/32", "::1/128", "2001:db8::1/128")
OTHER_NODE = {4: "192.0.2.3", 6: "2001:db8::3"}
"""Whose pods are behind tunnels, where there are any."""
_OTHER_PODS = {4: ("10.7.1.5", "10.7.1.6"), 6: ("fd07:1::5", "fd07:1::6")}
_BEYOND = {Address(text).packed for texts in _OTHER_PODS.values() for text in texts}
_SENDERS = [abi.pack_address(Address(text)) for text in (*OTHER_NODE.values(), OTHER_NODE[4], "192.0.2.66", "::1")]
_NUMBERS = (1001, 2001, 2, 6, 1002, 0, 1, 1003, 0xFFFFFF)
_OTHERS = {
    4: (
        FAR[4],
        FAR[4],
        *(NODE[4],) * 3,
        *_OTHER_PODS[4] * 2,
        OTHER_NODE[4],
        "198.51.100.7",
        "203.0.113.9",
        "10.7.0.9",
        "127.0.0.1",
        "255.255.255.255",
        "224.0.0.1",
    ),
    6: (
        FAR[6],
        FAR[6],
        *(NODE[6],) * 3,
        *_OTHER_PODS[6] * 2,
        OTHER_NODE[6],
        "2001:db8:7::7",
        "2001:db8:9::9",
        "fd07::9",
        "::1",
        "ff02::1",
        "::ffff:10.7.0.1",
    ),
}


def routes() -> dict[Prefix, Route]:
    """Return what the node of the rig does with destinations that it does not send away."""
    known = dict.fromkeys((Address(text).prefix for text in (*FAR.values(), *OTHER_NODE.values())), Route.AWAY)
    found = dict.fromkeys(map(Prefix, _NOT_FORWARDED), Route.NONE) | dict.fromkeys(_OWN, Route.OWN_PREFIX)
    return found | known | dict.fromkeys(_LINK, Route.UNMEASURED)


class Roads:
    """The node's routes, by packed address."""

    def __init__(self) -> None:
        self._known: dict[bytes, Route] = {}
        self._table = routes()

    def __call__(self, destination: bytes) -> Route:
        if destination not in self._known:
            address = abi.unpack_address(destination)
            self._known[destination] = next(
                (way for prefix, way in self._table.items() if address in prefix), Route.AWAY
            )
        return self._known[destination]


def places() -> Places:
    pods = {family: [Address(pod_address(n, family)).packed for n in (1, 2, 3)] for family in (4, 6)}
    kinds = {4: socket.AF_INET, 6: socket.AF_INET6}
    node = {family: Address(address).packed for family, address in NODE.items()}
    return Places(
        pods, {family: [socket.inet_pton(kinds[family], text) for text in _OTHERS[family]] for family in kinds}, node
    )


class Doors:
    """By which device a frame comes, or leaves."""

    def __init__(self, pods: Mapping[int, int], uplink: int, host: int, overlay: int) -> None:
        self._pods, self._uplink, self._host, self._overlay = pods, uplink, host, overlay
        self._nodes = {Address(address).packed for address in NODE.values()}

    def met(self, frame: bytes, luck: float) -> Met:
        """Choose where a frame is met: nearly always where its source address lives."""
        source = frame[26:30] if frame[12:14] == IPV4 else frame[22:38] if frame[12:14] == IPV6 else b""
        endpoint = source[-1] if source and source[-1] in self._pods and len(source) in {4, 16} else 0
        if source in self._nodes and luck > 0.1:
            return self._of_node(luck)
        if (source in _BEYOND and luck > 0.25) or 0.04 < luck < 0.06:
            return self._by_tunnel(source, int(luck * 1e7))
        if luck < 0.04:
            endpoint = int(luck * 100)  # 0 to 3, whoever speaks
        if endpoint:
            turned = 0.06 < luck < 0.12
            return Met(Origin.HOST, self._host, self._host) if turned else Met(Origin.POD, self._pods[endpoint])
        if luck < 0.6:
            return Met(Origin.NETWORK, self._uplink, self._uplink)
        if luck > 0.9:
            return Met(Origin.UPLINK, self._uplink, self._host)
        return Met(Origin.HOST, self._host, self._uplink if luck < 0.75 else 0)

    def _by_tunnel(self, source: bytes, pick: int) -> Met:
        """Choose from which node a packet comes, and as whom: nearly always as the same."""
        if pick % 50 == 0:
            return Met(Origin.OVERLAY, self._overlay, self._overlay)
        number = _NUMBERS[source[-1] % 4 if source and pick % 5 else pick // 5 % len(_NUMBERS)]
        node = _SENDERS[pick // 100 % len(_SENDERS)]
        return Met(Origin.OVERLAY, self._overlay, self._overlay, tunnel=Tunnel(node, number))

    def _of_node(self, luck: float) -> Met:
        if luck > 0.5:
            return Met(Origin.UPLINK, self._uplink, self._host if luck > 0.9 else 0)
        return Met(Origin.HOST, self._host, self._uplink if luck < 0.2 else self._host if luck < 0.3 else 0)
