"""Takes flows that are over out of the flow table, a slice at a time.

A flow is trusted for so long, and taken out half a minute later: then the programs have long ceased to believe in it, and a packet of it would
have begun it anew. Should that happen in the very moment, what was taken is seen to be young, and is put back.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterable, Iterator

from services.datapath.kernel import abi, syscalls
from services.datapath.kernel.flowcalls import Jiffies, map_take
from services.datapath.kernel.maps import Map, refusals
from services.datapath.kernel.sweep_outside import OuterSweeper, Slice
from services.datapath.kernel.tables import Tables
from services.datapath.reports import Event, EventKind, Sweep

GRACE_S = 30
FRAGMENT_S = 30
"""How long the stacks of this world wait for the rest of a fragmented packet."""
_AT_ONCE = 2048
_TAKEN_AT_ONCE = 256
"""To take a flow out and tell its end costs a hundred times what a look at it does."""
_TCP = 6
_LOW_BEGAN, _ESTABLISHED, _CLOSED, _AUDITED, _TOLD, _BY_GLASS = 1, 2, 12, 256, 512, 1024
_PROTOCOL_AT = 36
_BEGINNING = struct.Struct("=Q8xI")
_HEAD = struct.Struct(f"=Q8xI{abi.FLOW.size - 20}x")
_FRAGMENT = struct.Struct("=6xH")


def trusted_for(protocol: int, flags: int, settings: abi.Settings) -> int:
    """Return for how many jiffies a silent flow is believed: the twin of `flow_alive` in `bpf/lib/conntrack.h`."""
    if protocol != _TCP:
        return settings.other_timeout
    if flags & _CLOSED == _CLOSED:
        return settings.closing_timeout
    return settings.established_timeout if flags & _ESTABLISHED else settings.syn_timeout


def judge_of_age(tables: Tables) -> Callable[[bytes, bytes], bool]:
    """Return what tells, of a row of a flow table of whichever version, whether the flow was over at this moment."""
    jiffies, settings = Jiffies(), tables.settings()
    now = jiffies.now()
    jiffies.close()

    def is_over(key: bytes, value: bytes) -> bool:
        seen, flags = _BEGINNING.unpack_from(value)
        return bool(now - seen > trusted_for(key[_PROTOCOL_AT], flags, settings))

    return is_over


class Sweeper:
    """One pass after the other over a node's flow table."""

    def __init__(self, tables: Tables) -> None:
        self._tables, self._jiffies = tables, Jiffies()
        self._pass: Iterator[tuple[bytes, bytes]] | None = None
        self._outer, self._is_outside = OuterSweeper(tables, self._jiffies), False
        self._over: list[bytes] = []
        """The flows of the last slice that were over, as far as they are still to be taken out."""

    def sweep(self) -> Sweep:
        """Look through the next slice, or take out more of what was over in the last one. A pass ends with fragments and outer ends."""
        table, settings = self._tables.maps["conntrack"], self._tables.settings()
        if self._is_outside:
            part = self._look_outside()
            return Sweep(part.last, 0, 0, table.spec.entries, (), part.held, part.freed)
        with refusals(table.name):
            alive, last = (0, False) if self._over else self._look(table, settings)
            due, self._over = self._over[:_TAKEN_AT_ONCE], self._over[_TAKEN_AT_ONCE:]
            now = self._jiffies.now()
            ended = [*self._taken(table, due, now, settings)]
        outside = Slice(last=False)
        if last:
            self._sweep_fragments(now, settings)
            outside = self._look_outside()
        told = tuple(event for event in ended if event is not None)
        counts = alive + len(due) - len(ended), len(ended), table.spec.entries
        return Sweep(outside.last, *counts, told, outside.held, outside.freed)

    def _look_outside(self) -> Slice:
        part = self._outer.look()
        self._is_outside = not part.last
        return part

    def _look(self, table: Map, settings: abi.Settings) -> tuple[int, bool]:
        """Note what is over in the next slice; return how many flows of it are valid, and whether the pass had come to its end."""
        size = table.spec.key_bytes
        if self._pass is None:
            self._pass = syscalls.map_lookup_batch(
                table.fd, size, table.spec.value_bytes, min(_AT_ONCE, table.spec.entries)
            )
        keys, values = next(self._pass, (b"", b""))
        if not keys:
            self._pass = None
            return 0, True
        grace, now = GRACE_S * settings.second, self._jiffies.now()
        for number, (seen, flags) in enumerate(_HEAD.iter_unpack(values)):
            if now - seen > trusted_for(keys[number * size + _PROTOCOL_AT], flags, settings) + grace:
                self._over.append(keys[number * size : (number + 1) * size])
        return len(keys) // size - len(self._over), False

    def _taken(self, table: Map, keys: Iterable[bytes], now: int, settings: abi.Settings) -> Iterator[Event | None]:
        """Take out what is over; yield for each its end, or None if that was told already."""
        for key in keys:
            held = map_take(table.fd, key, table.spec.value_bytes) if table.get(key) else None
            if held is None:
                continue
            seen_last, last_flags = _HEAD.unpack(held)
            if now - seen_last <= trusted_for(key[_PROTOCOL_AT], last_flags, settings):
                table.add(key, held)  # begun anew since it was read
                continue
            yield None if last_flags & _TOLD else _end_of(key, held, (now - seen_last) / settings.second)

    def _sweep_fragments(self, now: int, settings: abi.Settings) -> None:
        table, now_s = self._tables.maps["fragments"], now // settings.second
        for key, value in table.items().items():
            (seen_s,) = _FRAGMENT.unpack(value)
            if (now_s - seen_s) & 0xFFFF > FRAGMENT_S:
                table.delete(key)

    def close(self) -> None:
        """Give descriptors back."""
        self._jiffies.close()


def _end_of(key: bytes, value: bytes, silent_s: float) -> Event:
    """Return the report of a flow's end, as the programs would have written it when they saw it last."""
    low, high, low_port, high_port, protocol = abi.FLOW_KEY.unpack(key)
    fields = abi.FLOW.unpack(value)
    low_endpoint, high_endpoint, flags, source_identity, destination_identity = fields[2:7]
    packets, sizes, tcp_flags = fields[8:10], fields[10:12], fields[15:17]
    ends = [(low, low_port, low_endpoint), (high, high_port, high_endpoint)]
    source, destination = ends if flags & _LOW_BEGAN else reversed(ends)
    return Event(
        kind=EventKind.CLOSED,
        reason=0,
        direction=0 if destination[2] else 1,
        protocol=protocol,
        source=abi.unpack_address(source[0]),
        destination=abi.unpack_address(destination[0]),
        sport=int.from_bytes(source[1], "big"),
        dport=int.from_bytes(destination[1], "big"),
        source_identity=source_identity,
        destination_identity=destination_identity,
        endpoint=destination[2] or source[2],
        provenance=0,
        length_bytes=0,
        time_ns=time.monotonic_ns() - round(silent_s * 1e9),
        tcp_flags=tcp_flags,
        audited=bool(flags & _AUDITED),
        by_glass=bool(flags & _BY_GLASS),
        packets=packets,
        bytes=sizes,
    )
