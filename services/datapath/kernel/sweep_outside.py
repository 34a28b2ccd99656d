"""Frees outer ends that no flow has any more, a slice at a time.

A row is made before its flow speaks of it, and is touched by every answer and whenever the flow asks for its way anew. So one that has been
silent for half a minute, and of which no flow speaks, is nobody's; should a flow claim it in the very moment, what was taken is seen to be
young, and is put back.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator
from typing import NamedTuple

from services.datapath.kernel import abi, syscalls
from services.datapath.kernel.flowcalls import Jiffies, map_take
from services.datapath.kernel.maps import refusals
from services.datapath.kernel.tables import Tables

GRACE_S = 30
AT_ONCE = 512
"""To ask for a flow costs some microseconds."""
_WORDS = struct.Struct("=QQ")
_NAT_PORT, _NAT_ADDRESS = 17, 18


class Slice(NamedTuple):
    """What became of some rows."""

    last: bool
    held: int = 0
    freed: int = 0


class OuterSweeper:
    """One pass after the other over the table of masquerade."""

    def __init__(self, tables: Tables, jiffies: Jiffies) -> None:
        self._tables, self._jiffies = tables, jiffies
        self._pass: Iterator[tuple[bytes, bytes]] | None = None

    def look(self) -> Slice:
        """Look through the next slice, and free what is nobody's in it."""
        table = self._tables.maps["masquerade"]
        sizes = table.spec.key_bytes, table.spec.value_bytes
        with refusals(table.name):
            if self._pass is None:
                self._pass = syscalls.map_lookup_batch(table.fd, *sizes, min(AT_ONCE, table.spec.entries))
            keys, values = next(self._pass, (b"", b""))
            if not keys:
                self._pass = None
                return Slice(last=True)
            oldest = self._oldest_young()
            rows = zip(*(_cut(packed, size) for packed, size in zip((keys, values), sizes, strict=True)), strict=True)
            found = [_seen(value) >= oldest or self._has_flow(key, value) or not self.free(key) for key, value in rows]
        return Slice(last=False, held=sum(found), freed=len(found) - sum(found))

    def free(self, key: bytes) -> bool:
        """Take a row out, unless a flow has claimed it meanwhile. Tells whether it is gone."""
        table = self._tables.maps["masquerade"]
        held = map_take(table.fd, key, table.spec.value_bytes)
        if held is not None and _seen(held) >= self._oldest_young():
            table.add(key, held)
            return False
        return True

    def _oldest_young(self) -> int:
        """Return since when (jiffies) a row must have been touched to be left alone."""
        return self._jiffies.now() - GRACE_S * self._tables.settings().second

    def _has_flow(self, key: bytes, value: bytes) -> bool:
        """Tell whether the flow of the row is known, and has this end outside."""
        remote, own, remote_port, own_port, protocol = abi.MASQUERADE_KEY.unpack(key)
        _, pod, pod_port = abi.MASQUERADE.unpack(value)
        flow = self._tables.maps["conntrack"].get(flow_key((pod, pod_port), (remote, remote_port), protocol))
        if flow is None:
            return False
        fields = abi.FLOW.unpack(flow)
        return (fields[_NAT_ADDRESS], fields[_NAT_PORT]) == (own, own_port)


def flow_key(one: tuple[bytes, bytes], other: tuple[bytes, bytes], protocol: int) -> bytes:
    """Return the key of the flow between two ends (address, port in network order): the twin of `make_flow_key` in `bpf/lib/conntrack.h`."""
    low, high = sorted((one, other), key=lambda end: (_WORDS.unpack(end[0]), int.from_bytes(end[1], sys.byteorder)))
    return abi.FLOW_KEY.pack(low[0], high[0], low[1], high[1], protocol)


def _seen(value: bytes) -> int:
    return int.from_bytes(value[:8], sys.byteorder)


def _cut(packed: bytes, size: int) -> list[bytes]:
    return [packed[at : at + size] for at in range(0, len(packed), size)]
