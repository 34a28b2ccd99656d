"""How this process uses its processor and its memory, at the size of a large node."""

from __future__ import annotations

import ctypes
import gc
import sys

_SWITCH_S = 0.0005
"""The kernel thread gives the interpreter away at each system call. Until it has it back from a busy event loop takes 5 ms by default, and to
plug an endpoint takes a dozen calls."""
_M_MMAP_THRESHOLD, _LARGE_BYTES = -3, 1 << 20
"""Tables of hundreds of thousands of rows grow by being made anew, and copies of them live for a moment. glibc learns from the first one that is
given back to keep what they leave, up to 32 MB each: blocks from this size on go back to the system at once."""


def prepare() -> None:
    """Prepare the interpreter and the C library, before anything else is done.

    A start makes a million objects that stay. To look for garbage among them time and again takes a quarter of its time: nobody does before `begun`.
    """
    sys.setswitchinterval(_SWITCH_S)
    gc.disable()
    ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)


def begun() -> None:
    """Look for garbage from now on, but not among what is there already."""
    gc.freeze()
    gc.enable()
