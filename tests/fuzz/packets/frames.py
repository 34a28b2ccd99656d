"""Frames by chance: most of them nearly right, some of them part of a conversation, the rest wrong in every way there is."""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

TCP, UDP, ICMP, ICMP6, SCTP = 6, 17, 1, 58, 132
IPV4, IPV6, ARP = b"\x08\x00", b"\x86\xdd", b"\x08\x06"
MACS = bytes.fromhex("02666c000007020000000009")
FLAGS = (2, 2, 2, 16, 16, 24, 18, 17, 4, 20, 1, 0, 63, 3, 6)
PORTS = (80, 81, 443, 1000, 1001, 1002, 8, 0, 65535, 4095, 4096)
FRAGMENTS_V4 = (0x2000, 0x2000, 1, 2, 0x2001, 185, 0x20B9, 0x1FFF, 0x4000, 0x8000)
FRAGMENTS_V6 = (1, 1, 8, 9, 16, 1480, 0, 2, 6, 0xFFF8)
EXTENSIONS = (0, 43, 44, 51, 60)
OUTER_PORTS = 996, 1003
"""That masquerade gives: few, and some of them are pods' own."""
LONGEST = 1800
DHCP_PORTS = ((67, 68), (546, 547), (67, 67), (68, 546))
GROUPS = {
    4: (bytes((224, 0, 0, 5)), bytes((255, 255, 255, 255)), bytes((239, 1, 2, 3)), bytes((192, 0, 2, 255))),
    6: (bytes.fromhex("ff02" + "00" * 13 + "05"), bytes.fromhex("ff0e" + "00" * 13 + "01")),
}


class Talk(NamedTuple):
    """Both ends of a flow; `a` began it."""

    family: int
    protocol: int
    a: bytes
    b: bytes
    a_port: int
    b_port: int

    def turned(self) -> Talk:
        return self._replace(a=self.b, b=self.a, a_port=self.b_port, b_port=self.a_port)


@dataclass
class Places:
    """The addresses to choose from, by family."""

    pods: Mapping[int, Sequence[bytes]]
    others: Mapping[int, Sequence[bytes]]
    node: Mapping[int, bytes]


def transport(talk: Talk, chance: Random, *, reply: bool = False) -> bytes:
    if talk.protocol == TCP:
        words = 0x50 if chance.random() < 0.9 else chance.randrange(256)
        fields = talk.a_port, talk.b_port, 1, 1, words, chance.choice(FLAGS), 1024, chance.randrange(65536), 0
        return struct.pack(">HHIIBBHHH", *fields) + b"x" * chance.choice((0, 0, 0, 0, 8, 8, 1460, 1600))
    if talk.protocol in {ICMP, ICMP6}:
        request, answer = (8, 0) if talk.protocol == ICMP else (128, 129)
        # the number of an echo stands on the side of whoever asked
        ident, kind = (talk.b_port, answer) if reply else (talk.a_port, request)
        if chance.random() < 0.1:
            kind = chance.randrange(256)
        return struct.pack(">BBHHH", kind, chance.randrange(3), chance.randrange(65536), ident, 1) + b"x" * 8
    if talk.protocol == SCTP:
        return struct.pack(">HHII", talk.a_port, talk.b_port, 1, chance.choice((0, 0x1234567))) + b"x" * 40
    return struct.pack(">HHHH", talk.a_port, talk.b_port, 16, chance.randrange(65536)) + b"x" * 8


def ipv4(a: bytes, b: bytes, protocol: int, body: bytes, **more: int) -> bytes:
    options = b"\x01" * (4 * (more.get("words", 5) - 5))
    total = more.get("total", 20 + len(options) + len(body))
    head = more.get("words", 5) | 0x40, 0, total & 0xFFFF, more.get("ident", 7), more.get("fragment", 0)
    check = more.get("check", 0x1234)
    return struct.pack(">BBHHHBBH4s4s", *head, more.get("ttl", 64), protocol, check, a, b) + options + body


def ipv6(a: bytes, b: bytes, following: int, body: bytes, **more: int) -> bytes:
    total = more.get("total", len(body)) & 0xFFFF
    return struct.pack(">IHBB16s16s", 6 << 28, total, following, more.get("ttl", 64), a, b) + body


def framed(talk: Talk, body: bytes, **more: int) -> bytes:
    if talk.family == 4:
        return MACS + IPV4 + ipv4(talk.a, talk.b, talk.protocol, body, **more)
    return MACS + IPV6 + ipv6(talk.a, talk.b, talk.protocol, body, **more)


def with_extensions(chance: Random, protocol: int, body: bytes) -> tuple[int, bytes]:
    """Put a chain of extension headers before the body; return which is the first."""
    for _ in range(chance.choice((1, 1, 1, 2, 3, 4, 5, 6))):
        kind = chance.choice(EXTENSIONS)
        if kind == 44:
            head = struct.pack(">BBHI", protocol, 0, chance.choice(FRAGMENTS_V6), chance.randrange(4))
        else:
            units = chance.choice((0, 0, 1, 4, 255) if kind != 51 else (1, 2, 4))
            length = (units + 2) * 4 if kind == 51 else (units + 1) * 8
            head = bytes((protocol, units)) + bytes(min(length, 64) - 2)
        body, protocol = head + body, kind
    return protocol, body


class Frames:
    """A stream of frames between the places. Equal chance gives equal frames."""

    def __init__(self, chance: Random, places: Places) -> None:
        self._chance, self._places = chance, places
        self.talks: list[Talk] = []
        self._heard: deque[Talk] = deque(maxlen=8)
        self._serial = chance.randrange(1 << 24)
        self._kinds: tuple[Callable[[], bytes], ...] = (
            *(self._talk_on,) * 9,
            *(self._begin,) * 5,
            *(self._fragment, self._error, self._optioned, self._odd, self._foreign, self._chatter, self._of_link),
            *(self._from_world,) * 3,
            *(self._mutated,) * 3,
        )

    def hear(self, frame: bytes) -> None:
        """Let the world know of a frame that has left as the node's, so that it can answer."""
        family = 4 if frame[12:14] == IPV4 else 6
        ends, at, protocol = (frame[26:34], 34, frame[23]) if family == 4 else (frame[22:54], 54, frame[20])
        half = len(ends) // 2
        a_port, b_port = struct.unpack_from(">HH", frame, at) if len(frame) >= at + 8 else (0, 0)
        if protocol in {ICMP, ICMP6}:
            a_port, b_port = int.from_bytes(frame[at + 4 : at + 6], "big"), 0
        self._heard.append(Talk(family, protocol, ends[:half], ends[half:], a_port, b_port))

    def next(self) -> bytes:
        self._serial += 1
        return self._chance.choice(self._kinds)()[:LONGEST]

    def _address(self, family: int, pods: float) -> bytes:
        pool = self._places.pods if self._chance.random() < pods else self._places.others
        return self._chance.choice(pool[family])

    def _some_talk(self) -> Talk:
        chance = self._chance
        family = chance.choice((4, 6))
        protocol = chance.choice((TCP, TCP, UDP, UDP, SCTP, ICMP if family == 4 else ICMP6))
        a, b = self._address(family, 0.8), self._address(family, 0.6)
        return Talk(family, protocol, a, b, chance.choice(PORTS), chance.choice(PORTS))

    def _begin(self) -> bytes:
        talk = self._some_talk()
        self.talks.append(talk)
        return framed(talk, transport(talk, self._chance), ttl=self._chance.choice((64, 64, 64, 2, 1, 0, 255)))

    def _talk_on(self) -> bytes:
        if not self.talks:
            return self._begin()
        talk, reply = self._chance.choice(self.talks), self._chance.random() < 0.5
        talk = talk.turned() if reply else talk
        return framed(talk, transport(talk, self._chance, reply=reply), check=self._chance.randrange(65536))

    def _fragment(self) -> bytes:
        chance, talk = self._chance, self._chance.choice(self.talks) if self.talks else self._some_talk()
        body = transport(talk, chance)[: chance.choice((0, 4, 8, 16, 20, 28, 28, 28))]
        ident = chance.randrange(4)
        if talk.family == 4:
            return framed(talk, body, fragment=chance.choice(FRAGMENTS_V4), ident=ident)
        head = struct.pack(">BBHI", talk.protocol, 0, chance.choice(FRAGMENTS_V6), ident)
        return framed(talk._replace(protocol=44), head + body)

    def _error(self) -> bytes:
        """Send an ICMP error that quotes a packet, or nonsense, or another error that quotes one."""
        chance, quoted = self._chance, self._chance.choice(self.talks) if self.talks else self._some_talk()
        if chance.random() < 0.3:
            quoted = quoted.turned()
        elif chance.random() < 0.2:
            quoted = self._seen_outside(quoted)
        inner = framed(quoted, transport(quoted, chance))[14:]
        protocol, kinds = (ICMP, (3, 11, 12, 4, 5)) if quoted.family == 4 else (ICMP6, (1, 2, 3, 4, 5, 137))
        for _ in range(chance.choice((0, 0, 0, 1, 3))):
            message = struct.pack(">BBHI", chance.choice(kinds), 0, 0, 0) + inner
            back = Talk(quoted.family, protocol, quoted.a, quoted.b, 0, 0)
            inner = framed(back, message)[14:]
        if chance.random() < 0.3:
            inner = inner[: chance.randrange(len(inner))]
        elif chance.random() < 0.3:
            inner = self._scribbled(inner, 0)
        sender = quoted.b if chance.random() < 0.5 else self._address(quoted.family, 0.5)
        message = struct.pack(">BBHI", chance.choice(kinds), chance.randrange(5), 0, 1400) + inner
        return framed(Talk(quoted.family, protocol, sender, quoted.a, 0, 0), message)

    def _seen_outside(self, talk: Talk) -> Talk:
        """Return what the world may see of a talk: the node in the place of the pod, at the port that it has or another."""
        first, last = OUTER_PORTS
        keeps = first <= talk.a_port <= last and self._chance.random() < 0.8
        kept = talk.a_port if keeps else self._chance.randint(first, last)
        return talk._replace(a=self._places.node[talk.family], a_port=kept)

    def _from_world(self) -> bytes:
        """Answer what leaves as the node's, also in fragments, or send an error about it."""
        chance = self._chance
        known = chance.choice(self.talks) if self.talks else self._some_talk()
        talk = chance.choice(self._heard) if self._heard and chance.random() < 0.8 else self._seen_outside(known)
        if chance.random() < 0.25:
            inner = framed(talk, transport(talk, chance))[14:]
            protocol, kind = (ICMP, 3) if talk.family == 4 else (ICMP6, 1)
            message = struct.pack(">BBHI", kind, 4, chance.randrange(65536), 1400) + inner
            return framed(Talk(talk.family, protocol, self._address(talk.family, 0.1), talk.a, 0, 0), message)
        body = transport(talk.turned(), chance, reply=True)
        if talk.family == 4 and chance.random() < 0.1:
            fragment = chance.choice(FRAGMENTS_V4)
            return framed(talk.turned(), body, fragment=fragment, ident=chance.randrange(4))
        return framed(talk.turned(), body, ttl=chance.choice((64, 64, 64, 1)))

    def _optioned(self) -> bytes:
        chance, talk = self._chance, self._chance.choice(self.talks) if self.talks else self._some_talk()
        body = transport(talk, chance)
        if talk.family == 4:
            return framed(talk, body, words=chance.randrange(5, 16))
        following, body = with_extensions(chance, talk.protocol, body)
        return framed(talk._replace(protocol=following), body)

    def _odd(self) -> bytes:
        """Send every protocol number, and lengths that lie."""
        chance, talk = self._chance, self._some_talk()
        body = transport(talk, chance)
        if chance.random() < 0.5:
            return framed(talk._replace(protocol=self._serial & 0xFF), body)
        total = chance.choice((0, 1, 19, 20, 24, 28, 36, 40, 41, 48, 60, 1500, 65535))
        return framed(talk, body + bytes(chance.choice((0, 0, 6, 26))), total=total)

    def _foreign(self) -> bytes:
        """Send every EtherType, whatever follows."""
        ethertype = struct.pack(">H", (self._serial * 40503) & 0xFFFF)
        if ethertype in {IPV4, IPV6}:
            return MACS + ethertype + self._chance.randbytes(60)
        talk = self._some_talk()
        return MACS + ethertype + framed(talk, transport(talk, self._chance))[14:]

    def _chatter(self) -> bytes:
        """ARP and neighbour discovery, right and wrong."""
        chance, mac = self._chance, MACS[6:]
        if chance.random() < 0.5:
            head = struct.pack(">HHBBH", 1, 0x0800, 6, 4, chance.choice((1, 1, 1, 2, 9)))
            ends = self._address(4, 0.8), self._address(4, 0.3)
            frame = b"\xff" * 6 + mac + ARP + head + mac + ends[0] + bytes(6) + ends[1]
        else:
            a = bytes(16) if chance.random() < 0.2 else self._address(6, 0.9)
            kind = chance.choice((135, 135, 135, 133, 134, 136, 137, 130, 143))
            message = struct.pack(">BBHI", kind, 0, 0, 0) + self._address(6, 0.5) + b"\x01\x01" + mac
            b = chance.choice((bytes.fromhex("ff0200000000000000000001ff000001"), self._address(6, 0.5)))
            inner = ipv6(a, b, ICMP6, message, ttl=chance.choice((255, 255, 255, 64)))
            frame = b"\x33\x33\xff\0\0\x01" + mac + IPV6 + inner
        return self._scribbled(frame, 14) if chance.random() < 0.3 else frame

    def _of_link(self) -> bytes:
        """What a node's own link lives by (DHCP, discovery to addresses, groups, routing protocols), and nearly that."""
        chance, family = self._chance, self._chance.choice((4, 6))
        a, b = self._address(family, 0.1), self._address(family, 0.1)
        group = chance.choice(GROUPS[family])
        ports = chance.choice(DHCP_PORTS)
        talk = Talk(family, UDP, a, chance.choice((b, b, group)), *chance.choice((ports, ports[::-1])))
        how = chance.random()
        if how < 0.4:
            return framed(talk, transport(talk, chance))
        if how < 0.7:
            message = struct.pack(">BBHI", chance.randrange(130, 140), 0, 0, 0) + b"x" * 16
            return framed(talk._replace(protocol=ICMP6), message)
        return framed(talk._replace(protocol=chance.choice((2, 47, 89, 112, TCP))), transport(talk, chance))

    def _mutated(self) -> bytes:
        """Cut a good frame short, make it longer, or change some of its bytes."""
        chance = self._chance
        frame = chance.choice((self._talk_on, self._fragment, self._error, self._optioned, self._begin))()
        how = chance.random()
        if how < 0.3:
            least = 34 if frame[12:14] == IPV4 else 54
            return frame[: chance.randrange(least, max(len(frame), least + 1))]
        if how < 0.4:
            return frame + chance.randbytes(chance.randrange(1, 60))
        return self._scribbled(frame, 14)

    def _scribbled(self, frame: bytes, start: int) -> bytes:
        chance, changed = self._chance, bytearray(frame)
        if len(frame) <= start:
            return frame
        for _ in range(chance.randint(1, 4)):
            changed[chance.randrange(start, len(changed))] = chance.randrange(256)
        return bytes(changed)
