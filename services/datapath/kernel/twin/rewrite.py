"""What the programs change in a frame that they hand on."""

from __future__ import annotations

from services.datapath.kernel.abi import GATEWAY_MAC
from services.datapath.operations import EndpointEntry

_TTL = {4: 22, 6: 21}
_CHECKSUM = 24
_FLAGS, _DO_NOT_FRAGMENT = 20, 0x40


def one_hop_less(frame: bytes, family: int) -> bytes:
    """Return the frame with its time to live one less, or nothing if that has run out."""
    at = _TTL[family]
    if frame[at] <= 1:
        return b""
    changed = bytearray(frame)
    changed[at] -= 1
    if family == 4:
        # RFC 1141: one less in the high byte is one more in the complement
        checksum = (frame[_CHECKSUM] << 8 | frame[_CHECKSUM + 1]) + 0x0100
        checksum += checksum >= 0xFFFF
        changed[_CHECKSUM : _CHECKSUM + 2] = (checksum & 0xFFFF).to_bytes(2, "big")
    return bytes(changed)


def handed_to(frame: bytes, entry: EndpointEntry) -> bytes:
    """Return the frame with the MACs of the endpoint's own link."""
    return entry.pod_mac + entry.host_mac + frame[12:]


def refusable(frame: bytes, *, too_big: bool, family: int) -> bytes:
    """Return the frame as the stack gets it so that it can only refuse it: nothing that is too big may be cut."""
    changed = bytearray(GATEWAY_MAC + frame[6:])
    if too_big and family == 4 and not changed[_FLAGS] & _DO_NOT_FRAGMENT:
        changed[_FLAGS] |= _DO_NOT_FRAGMENT
        checksum = (frame[_CHECKSUM] << 8 | frame[_CHECKSUM + 1]) + (0xFFFF - 0x4000)
        changed[_CHECKSUM : _CHECKSUM + 2] = ((checksum + (checksum >> 16)) & 0xFFFF).to_bytes(2, "big")
    return bytes(changed)
