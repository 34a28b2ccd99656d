"""Compiles the programs with BCC and pins them: `python -m services.datapath.kernel.loader <pin directory> <suffix of pins> <flags>`.

It is a process of its own, because the compiler would stay in the service's memory for ever (some 100 MB). It opens
the maps that are pinned already, replaces the program pins one by one by renaming, and says on standard output how long
that took. It touches no device.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from services.datapath.kernel import abi, syscalls
from services.datapath.operations import KernelError

_TIMEOUT_S = 120
BETWEEN = "_between"
"""Suffix of the pins of programs that know a table and its former one."""


def compile_and_pin(pin_directory: Path, former: Mapping[str, int]) -> float:
    """Run the compiler in child processes; return the seconds it took. Raises KernelError with the compiler's words.

    `former`: the tables that stand beside their former ones, and the length of their former values in bytes. Then there are
    two sets of programs, the second of which knows both tables.
    """
    sets = [("", move_flags(former, between=False))]
    if former:
        sets.append((BETWEEN, move_flags(former, between=True)))
    with ThreadPoolExecutor(len(sets)) as pool:
        return max(pool.map(lambda wanted: _compile(pin_directory, *wanted), sets))


def _compile(pin_directory: Path, suffix: str, flags: Sequence[str]) -> float:
    root = str(Path(__file__).resolve().parents[3])
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH", "")))),
        "BCC_KERNEL_SOURCE": str(abi.BPF_DIRECTORY / "shim"),
    }
    command = [sys.executable, "-m", "services.datapath.kernel.loader", str(pin_directory), suffix, *flags]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise KernelError(f"compiling the programs failed: {error}") from error
    if done.returncode != 0:
        raise KernelError(f"the programs do not compile or load: {done.stderr.strip()[-3000:]}")
    return float(json.loads(done.stdout.splitlines()[-1])["seconds"])


def compiler_flags(pin_directory: Path) -> list[str]:
    """Return what the compiler must know: where the pins are, and where the distribution has the UAPI headers."""
    flags = [f'-DPIN_DIRECTORY="{pin_directory}"', "-I/usr/include", "-Wno-unused-function"]
    multiarch = sysconfig.get_config_var("MULTIARCH")
    candidates = [Path("/usr/include") / multiarch] if multiarch else []
    candidates += sorted(Path("/usr/include").glob("*-linux-gnu"))
    flags += [f"-I{path}" for path in candidates if (path / "asm").is_dir()]
    if not Path("/usr/include/linux/bpf.h").exists():
        raise KernelError("the kernel's UAPI headers are missing: install linux-libc-dev")
    return flags


def move_flags(former: Mapping[str, int], *, between: bool) -> list[str]:
    """Return what the compiler must know of tables that stand beside their former ones; `between`: for programs that know both."""
    beside = [f'-D{name.upper()}_BESIDE="_new"' for name in former]
    return beside + [f"-DFORMER_{name.upper()}={size}" for name, size in former.items() if between]


def _pin(pin_directory: Path, name: str, fd: int) -> None:
    new = pin_directory / f"{abi.PIN_PREFIX}{name}_new"
    new.unlink(missing_ok=True)
    syscalls.object_pin(fd, str(new))
    new.rename(pin_directory / f"{abi.PIN_PREFIX}{name}")


def _load(pin_directory: Path, suffix: str, flags: Sequence[str]) -> None:
    from bcc import BPF, lib  # noqa: PLC0415 - only this process pays for the compiler

    module = BPF(text=abi.source_text(), cflags=[*compiler_flags(pin_directory), *flags])
    for name, spec in abi.map_specs(1, 1).items():
        sizes = (
            lib.bpf_table_key_size(module.module, name.encode()),
            lib.bpf_table_leaf_size(module.module, name.encode()),
        )
        if spec.key_bytes and sizes != (spec.key_bytes, spec.value_bytes):
            raise KernelError(f"map {name}: C says {sizes}, abi.py says {(spec.key_bytes, spec.value_bytes)}")
    for name in abi.PROGRAMS:
        _pin(pin_directory, name + suffix, module.load_func(name, BPF.SCHED_CLS).fd)


def main() -> None:
    """Compile, load, pin, and report."""
    began = time.monotonic()
    _load(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
    sys.stdout.write(json.dumps({"seconds": time.monotonic() - began}) + "\n")


if __name__ == "__main__":
    main()
