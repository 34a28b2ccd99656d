"""What the compiler makes of the programs, kept in a file: compiled here once, so that slow machines only load it (`replay/bcc`).

`python -m tests.kernels.recording FILE` is a process of its own, since the compiler stays in memory.
"""

from __future__ import annotations

import base64
import ctypes
import hashlib
import json
import os
import struct
import sys
from pathlib import Path

from services.datapath.kernel import abi, loader, maps
from services.datapath.kernel.tables import Tables

_INSTRUCTION = struct.Struct("=BBhi")
_LOAD_64, _MAP = 0x18, 1
"""The code of an instruction that loads 64 bits, and the source register that says that they are a map's descriptor."""


def instructions_with_names(code: bytes, name_by_fd: dict[int, str]) -> tuple[bytes, dict[str, str]]:
    """Return the instructions without descriptors, and which map belongs at which of them (by index, as text for JSON)."""
    kept, named = bytearray(code), {}
    for index in range(len(code) // _INSTRUCTION.size):
        operation, registers, offset, value = _INSTRUCTION.unpack_from(code, index * _INSTRUCTION.size)
        if operation == _LOAD_64 and registers >> 4 == _MAP:
            named[str(index)] = name_by_fd[value]
            _INSTRUCTION.pack_into(kept, index * _INSTRUCTION.size, operation, registers, offset, 0)
    return bytes(kept), named


def instructions_with_maps(code: bytes, named: dict[str, str], fd_by_name: dict[str, int]) -> bytes:
    """Undo `instructions_with_names` with other descriptors."""
    filled = bytearray(code)
    for index, name in named.items():
        struct.pack_into("=i", filled, int(index) * _INSTRUCTION.size + 4, fd_by_name[name])
    return bytes(filled)


def digest(source: str | bytes) -> str:
    """Name a source text; the compiler takes both forms."""
    return hashlib.sha256(source.encode() if isinstance(source, str) else source).hexdigest()


def record(file: Path) -> None:
    """Compile with maps of our own that go again, and write the file."""
    os.environ["BCC_KERNEL_SOURCE"] = str(abi.BPF_DIRECTORY / "shim")
    pins = Path("/sys/fs/bpf") / f"fairlead_recording{os.getpid()}"
    maps.ensure_pin_directory(pins)
    tables = Tables(pins, 16, 16, 16)
    try:
        tables.open()
        file.write_text(json.dumps(_compiled(pins)))
    finally:
        tables.close()
        maps.remove_pins(pins)


def _compiled(pins: Path) -> dict[str, object]:
    from bcc import BPF, lib  # noqa: PLC0415 - as in the loader

    source = abi.source_text()
    module = BPF(text=source, cflags=loader.compiler_flags(pins))
    names = {name: name.encode() for name in abi.map_specs(1, 1)}
    by_fd = {lib.bpf_table_fd(module.module, raw): name for name, raw in names.items()}
    sizes = {
        name: (lib.bpf_table_key_size(module.module, raw), lib.bpf_table_leaf_size(module.module, raw))
        for name, raw in names.items()
    }
    programs = {}
    for name in abi.PROGRAMS:
        start = lib.bpf_function_start(module.module, name.encode())
        size = lib.bpf_function_size(module.module, name.encode())
        code, named = instructions_with_names(ctypes.string_at(start, size), by_fd)
        programs[name] = {"code": base64.b64encode(code).decode(), "maps": named}
    return {"source": digest(source), "sizes": sizes, "programs": programs}


if __name__ == "__main__":
    record(Path(sys.argv[1]))
