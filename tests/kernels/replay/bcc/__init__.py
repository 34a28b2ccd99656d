"""Stands before the real compiler on slow machines: gives its loader what the same compiler made of the same text elsewhere (`recording.py`).

Another text is refused, so nothing is ever tried that is not what was asked for.
"""

from __future__ import annotations

import base64
import ctypes
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.datapath.kernel import abi, syscalls
from tests.kernels.recording import digest, instructions_with_maps

RECORDED: dict[str, Any] = json.loads(Path(os.environ["FAIRLEAD_RECORDED"]).read_text())
_LOG_BYTES = 1 << 24


@dataclass(frozen=True)
class Loaded:
    """A program that the kernel took."""

    fd: int


class BPF:
    """The part of the real one that the loader uses."""

    SCHED_CLS = 3

    def __init__(self, text: str | bytes, cflags: list[str]) -> None:
        others = [flag for flag in cflags if flag.startswith("-DFORMER_") or "_BESIDE=" in flag]
        if others or digest(text) != RECORDED["source"]:
            raise RuntimeError("these are not the programs that were compiled for this run")
        flag = next(flag for flag in cflags if flag.startswith("-DPIN_DIRECTORY="))
        self.module = RECORDED["sizes"]
        self._pins = Path(flag.partition("=")[2].strip('"'))

    def load_func(self, name: str, kind: int) -> Loaded:
        """Load one program. Raises RuntimeError with what the verifier says."""
        program = RECORDED["programs"][name]
        names = set(program["maps"].values())
        fds = {one: syscalls.object_get(str(self._pins / f"{abi.PIN_PREFIX}{one}")) for one in names}
        code = instructions_with_maps(base64.b64decode(program["code"]), program["maps"], fds)
        try:
            return Loaded(_load(code, name, kind))
        finally:
            for fd in fds.values():
                os.close(fd)


def _load(code: bytes, name: str, kind: int) -> int:
    try:
        return _asked(code, name, kind, None)
    except OSError as error:
        log = ctypes.create_string_buffer(_LOG_BYTES)
        try:
            return _asked(code, name, kind, log)
        except OSError:
            raise RuntimeError(f"{name}: {error.strerror}\n{log.value.decode(errors='replace')[-3000:]}") from error


def _asked(code: bytes, name: str, kind: int, log: ctypes.Array[ctypes.c_char] | None) -> int:
    licence = b"Dual BSD/GPL\0"
    said = (1, len(log), ctypes.addressof(log)) if log is not None else (0, 0, 0)
    attr = syscalls._attr(
        "2I2Q2IQ2I16s",
        *(kind, len(code) // 8, syscalls._address(code), syscalls._address(licence)),
        *(*said, 0, 0, name.encode()),
    )
    return syscalls._bpf(syscalls._LOAD, attr)


class lib:  # noqa: N801 - the name that the real one has
    """Sizes of tables."""

    @staticmethod
    def bpf_table_key_size(module: dict[str, list[int]], name: bytes) -> int:
        return module[name.decode()][0]

    @staticmethod
    def bpf_table_leaf_size(module: dict[str, list[int]], name: bytes) -> int:
        return module[name.decode()][1]
