"""Reads the programs' reports from the ring buffer, which itself keeps the place: a new process goes on there."""

from __future__ import annotations

import mmap
import select
import struct

from services.datapath.kernel import abi
from services.datapath.reports import Event

_BUSY, _DISCARD = 1 << 31, 1 << 30
_AT_ONCE = 4096


class EventReader:
    """The consumer's side of one ring buffer map."""

    def __init__(self, fd: int, size_bytes: int) -> None:
        page = mmap.PAGESIZE
        self._size = size_bytes
        self._consumer = mmap.mmap(fd, page, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        # the kernel maps the data twice in a row, so that a report never wraps
        self._producer = mmap.mmap(fd, page + 2 * size_bytes, mmap.MAP_SHARED, mmap.PROT_READ, offset=page)
        self._poll = select.epoll()
        self._poll.register(fd, select.EPOLLIN)
        self.strange = 0
        """How many reports only another version understands."""

    def read(self, timeout_s: float) -> list[Event]:
        """Return the reports that are there, waiting up to `timeout_s` for the first."""
        found = self._take()
        if not found and timeout_s > 0 and self._poll.poll(timeout_s):
            found = self._take()
        return found

    def _take(self) -> list[Event]:
        found: list[Event] = []
        place = struct.unpack_from("=Q", self._consumer)[0]
        end = struct.unpack_from("=Q", self._producer)[0]
        while place < end and len(found) < _AT_ONCE:
            start = mmap.PAGESIZE + place % self._size
            (length,) = struct.unpack_from("=I", self._producer, start)
            if length & _BUSY:
                break
            body = length & ~(_BUSY | _DISCARD)
            if not length & _DISCARD:
                event = abi.unpack_event(self._producer[start + 8 : start + 8 + body])
                found += [event] if event else []
                self.strange += event is None
            place += (8 + body + 7) & ~7
            struct.pack_into("=Q", self._consumer, 0, place)
        return found

    def close(self) -> None:
        """Unmap; reports keep gathering."""
        self._poll.close()
        self._consumer.close()
        self._producer.close()
